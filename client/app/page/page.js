// The page of the client app. It never receives a token, only its lifetime and the
// requests that used it.

import { showForms } from "./accounts.js";
import { isIdle, runAction } from "./actions.js";
import { ApiError, GUEST_LOGIN, call } from "./api.js";
import { diagram } from "./diagram.js";
import { byId } from "./dom.js";
import { showMessage } from "./message.js";
import { UNKNOWN_COOKIE, session } from "./session.js";
import { loadUser, reload, sessionList } from "./session_list.js";

const RECONNECT_DELAY = 2000;

session.onLogin = () => {
  showForms();
  return loadUser();
};
session.onLogout = () => {
  showForms();
  sessionList.clear("Log in to see where you are logged in.");
};
session.onEnd = (message) => {
  // The outcome of an action says it already, and may arrive first.
  if (isIdle()) showMessage("note", message);
};

/* Events from the client app */

let connections = 0;
let reconnect = 0;

function showConnection(state, text) {
  byId("connection").dataset.state = state;
  byId("connection-text").textContent = text;
}

function showDisconnected() {
  showConnection("disconnected", "disconnected");
  const banner = byId("disconnected");
  if (banner.hidden) {
    banner.hidden = false;
    banner.textContent = "The client app is not available. This page shows the last known state and reconnects automatically.";
  }
}

/** Reconnects after an error response. Loads the page for a new cookie if it is missing. */
async function renewCookieAndConnect() {
  // Two tabs at once would each get a cookie, and one would overwrite the other.
  const exclusively = (work) => (navigator.locks ? navigator.locks.request("matchbook-cookie", work) : work());
  const html = await exclusively(async () => (await fetch("/")).text()).catch(() => "");
  if (html.includes("<body data-unknown-cookie>")) session.unknownCookie = true;
  connect();
}

function connect() {
  const events = new EventSource("/api/events");
  events.addEventListener("open", () => {
    clearTimeout(reconnect);
    diagram.connected();
    if (connections > 0) diagram.addNote("reconnected");
    connections += 1;
    byId("disconnected").hidden = true;
    showConnection("live", "live");
  });
  events.addEventListener("state", (event) => session.update(JSON.parse(event.data)));
  events.addEventListener("exchange", (event) => diagram.add(JSON.parse(event.data)));
  events.addEventListener("error", () => {
    showDisconnected();
    if (events.readyState !== EventSource.CLOSED) return;
    // An error response: the cookie may be missing. The random delay spreads the
    // reconnects of many pages.
    clearTimeout(reconnect);
    reconnect = setTimeout(renewCookieAndConnect, RECONNECT_DELAY * (1 + Math.random()));
  });
}

/* Buttons */

function onPress(id, action) {
  byId(id).addEventListener("click", () => runAction(byId(id), action));
}

onPress("login", async () => {
  await call("POST", GUEST_LOGIN);
  return "Logged in as a new guest.";
});
onPress("info", async () => {
  const { userId, name } = await call("POST", "/api/info");
  session.setUser(userId, name);
  return `User Id: ${userId}`;
});
onPress("burst", async () => {
  const { succeeded, failed } = await call("POST", "/api/burst");
  if (failed > 0) {
    const total = succeeded + failed;
    throw new ApiError("some_failed", `${failed} of ${total} requests failed, ${succeeded} succeeded.`);
  }
  return `All ${succeeded} requests succeeded.`;
});
onPress("refresh", async () => {
  await call("POST", "/api/refresh");
  return "Refreshed: a new access token and the next refresh token.";
});
onPress("logout", async () => {
  await call("POST", "/api/logout");
  return "Logged out.";
});
onPress("logout-everywhere", async () => {
  const { ended } = await call("POST", "/api/logout-everywhere");
  return ended === 1 ? "Logged out: 1 session has ended." : `Logged out: ${ended} sessions have ended.`;
});
onPress("end-others", async () => {
  const { ended } = await call("DELETE", "/api/sessions?keep=current");
  await sessionList.load();
  byId("reload").focus();
  return ended === 1 ? "The other session has ended." : `${ended} other sessions have ended.`;
});
onPress("reload", async () => {
  await reload();
  return "The sessions are up to date.";
});
byId("clear").addEventListener("click", () => diagram.clear());

session.show();
if ("unknownCookie" in document.body.dataset) showMessage("note", UNKNOWN_COOKIE);
connect();
