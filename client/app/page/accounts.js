// The forms to log in with an account and to register one.

import { runAction } from "./actions.js";
import { LOG_IN, REGISTER, call } from "./api.js";
import { byId } from "./dom.js";
import { session } from "./session.js";
import { loadUser } from "./session_list.js";

// The field to correct after an error.
const FIELDS = {
  invalid_credentials: "password",
  unacceptable_password: "password",
  second_factor_required: "code",
  invalid_name: "name",
  name_taken: "name",
};

/** Shows an error next to its form, and moves the focus to the field to correct. */
function showFormError(prefix, error) {
  clearMarks(prefix);
  // The server does not say which is wrong.
  const withCode = error.code === "invalid_credentials" && !byId("login-code-field").hidden;
  byId(`${prefix}-error`).textContent = withCode ? "The name, the password or the code is wrong." : error.message;
  if (error.code === "second_factor_required") byId("login-code-field").hidden = false;
  const field = byId(`${prefix}-${withCode ? "code" : FIELDS[error.code]}`);
  if (field === null) return;
  if (error.code !== "second_factor_required") field.setAttribute("aria-invalid", "true");
  field.focus();
  field.select();
}

function clearMarks(prefix) {
  byId(`${prefix}-error`).textContent = "";
  for (const input of byId(`${prefix}-form`).querySelectorAll("input")) input.removeAttribute("aria-invalid");
}

/** Sends a form by its submit button: no address ever has the password. */
function onSubmit(prefix, action) {
  byId(`${prefix}-form`).addEventListener("submit", (event) => {
    event.preventDefault();
    clearMarks(prefix);
    const send = async () => {
      const outcome = await action(Object.fromEntries(new FormData(event.target)));
      byId(`${prefix}-form`).reset();
      byId("message-box").focus();
      return outcome;
    };
    runAction(byId(`${prefix}-submit`), send, (error) => showFormError(prefix, error));
  });
}

onSubmit("login", async ({ name, password, code }) => {
  await call("POST", LOG_IN, { name, password, code: code.trim() || undefined });
  byId("login-code-field").hidden = true;
  return `Logged in as ${name}.`;
});

onSubmit("register", async ({ name, password }) => {
  const wasGuest = session.loggedIn;
  const { loggedIn } = await call("POST", REGISTER, { name, password });
  if (!loggedIn) {
    byId("login-name").value = name;
    byId("login-section").open = true;
    return "Registered. If the name is an email address, look for our mail first. Then log in.";
  }
  // A guest keeps its session, so no login is reported.
  if (wasGuest) await loadUser();
  return `Registered and logged in as ${name}.`;
});

/** Opens the login form of a page without a session, and closes the forms after a login. */
export function showForms() {
  byId("login-section").open = session.known && !session.loggedIn;
  byId("register-section").open = false;
}
