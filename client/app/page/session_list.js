// The list of the user's sessions.

import { runAction } from "./actions.js";
import { ApiError, call } from "./api.js";
import { byId, duration, element } from "./dom.js";
import { session } from "./session.js";

export const sessionList = {
  clear(hint) {
    byId("sessions").replaceChildren();
    byId("sessions-hint").textContent = hint;
    byId("sessions-hint").hidden = false;
    byId("end-others").hidden = true;
  },

  async load() {
    const listed = await call("GET", "/api/sessions");
    this.clear("None.");
    byId("sessions-hint").hidden = listed.length > 0;
    byId("end-others").hidden = !listed.some((one) => !one.current);
    // This session first, then the one used last.
    const rank = (one) => (one.current ? Infinity : Date.parse(one.lastUsedAt));
    listed.sort((one, other) => rank(other) - rank(one));
    byId("sessions").append(...listed.map((one) => this.row(one)));
  },

  row(one) {
    const since = (date) => (Date.now() - Date.parse(date)) / 1000;
    const ago = (date) => (since(date) < 2 ? "just now" : `${duration(since(date))} ago`);
    const name = element("p");
    if (one.current) name.append(element("span", { className: "current", textContent: "this one" }));
    const device = one.device ?? "Unknown device";
    name.append(element("span", { className: "device", textContent: device, title: one.userAgent ?? "" }));
    const facts = [`used ${ago(one.lastUsedAt)}`, `started ${ago(one.createdAt)}`];
    if (one.ip) facts.push(`from ${one.ip}`);
    facts.push(`expires in ${duration(-since(one.expiresAt))}`);
    const detail = element("p", { className: "detail", textContent: facts.join(" · ") });
    const end = element("button", { type: "button", className: "small", textContent: "End" });
    end.setAttribute("aria-label", one.current ? "End this session" : `End the session: ${device}, started ${ago(one.createdAt)}`);
    end.addEventListener("click", () => runAction(end, () => this.end(one)));
    return element("li", { data: { id: one.id, current: one.current } }, element("div", {}, name, detail), end);
  },

  async end(one) {
    if (one.current) {
      // A logout also deletes the client app's tokens.
      await call("POST", "/api/logout");
      byId("login").focus();
      return "This session has ended.";
    }
    await call("DELETE", `/api/sessions/${encodeURIComponent(one.id)}`);
    await this.load();
    byId("reload").focus();
    return "That session has ended.";
  },
};

/** Loads the user and the sessions. */
export async function reload() {
  const { userId, name } = await call("POST", "/api/info");
  session.setUser(userId, name);
  await sessionList.load();
}

/** Loads the user and the sessions, unless that would cause a refresh. */
export async function loadUser() {
  if (session.remaining() <= 0) {
    sessionList.clear("Reload to see the sessions: this needs a new access token.");
    return;
  }
  try {
    await reload();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    sessionList.clear(error.message);
  }
}
