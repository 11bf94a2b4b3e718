// The message box.

import { byId } from "./dom.js";

let retryAction = null;

/** Shows a message, with a retry button if `retry` is given. */
export function showMessage(kind, text, retry = null) {
  byId("message-box").dataset.kind = kind;
  byId("message").textContent = text;
  retryAction = retry;
  byId("retry").hidden = retry === null;
}

byId("retry").addEventListener("click", () => {
  const retry = retryAction;
  // The button disappears, so the focus moves to the message.
  byId("message-box").focus();
  showMessage("none", "");
  retry?.();
});
