// Actions of the buttons.

import { ApiError } from "./api.js";
import { diagram } from "./diagram.js";
import { showMessage } from "./message.js";
import { session } from "./session.js";

// After an action its outcome is on display for this time, in milliseconds.
const OUTCOME_SHOWN = 1000;

let running = 0;
let finishedAt = -Infinity;

/** Returns whether no action runs or has just finished. */
export function isIdle() {
  return running === 0 && performance.now() - finishedAt > OUTCOME_SHOWN;
}

/**
 * Runs the action of a button and shows its outcome. The button is busy meanwhile.
 * `showFailure` shows an ApiError in place of the message box.
 */
export async function runAction(button, action, showFailure = null) {
  if (button.getAttribute("aria-busy") === "true") return;
  if (button.getAttribute("aria-disabled") === "true") {
    showMessage("note", "Log in first.");
    return;
  }
  button.setAttribute("aria-busy", "true");
  running += 1;
  diagram.beginAction();
  try {
    const outcome = await action();
    showMessage("good", outcome);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (showFailure && error.code !== "no_cookie") {
      showMessage("none", "");
      showFailure(error);
    } else {
      showError(error, () => runAction(button, action, showFailure));
    }
  } finally {
    button.removeAttribute("aria-busy");
    running -= 1;
    finishedAt = performance.now();
  }
}

function showError(error, retry) {
  switch (error.code) {
    case "unavailable":
      showMessage("bad", `The token server is unavailable${session.loggedIn ? "; you stay logged in" : ""}. ${error.message}`, retry);
      break;
    case "client_unavailable":
      showMessage("bad", error.message, retry);
      break;
    case "logged_out":
      showMessage("note", error.message);
      break;
    case "no_cookie":
      showMessage("bad", error.message, () => location.reload());
      break;
    default:
      showMessage("bad", error.message);
  }
}
