// The state of the session, and the burning match that shows the access token's
// remaining lifetime.

import { byId, duration, element, prefersReducedMotion } from "./dom.js";
import { showMessage } from "./message.js";

const RING_RADIUS = 82;
const RING_LENGTH = 2 * Math.PI * RING_RADIUS;
// The glowing part of the ring, as a fraction.
const EMBER = 0.035;
// Below this lifetime, in seconds, the ring moves smoothly.
const SMOOTH_BELOW = 300;

export const UNKNOWN_COOKIE = "The app does not know this browser, as after a day without a request: log in again.";

export const session = {
  known: false,
  // The app did not know this page's cookie, so no session has ended.
  unknownCookie: false,
  loggedIn: false,
  user: null,
  // The name of the account; null for a guest.
  name: null,
  state: null,
  receivedAt: 0,
  // Handlers, set by page.js.
  onLogin: () => {},
  onLogout: () => {},
  onEnd: () => {},

  /** Applies a state event. */
  update(state) {
    const before = this.state;
    const now = performance.now();
    const newSession =
      state.loggedIn &&
      (!this.loggedIn || state.age + 1 < (before.age ?? 0) + (now - this.receivedAt) / 1000);
    const wasLoggedIn = this.known && this.loggedIn;
    const ended = wasLoggedIn && !state.loggedIn;
    const replaced = wasLoggedIn && newSession && state.ended !== undefined;
    this.known = true;
    this.loggedIn = state.loggedIn;
    this.state = state;
    this.receivedAt = now;
    if (newSession || !state.loggedIn) {
      this.user = null;
      this.name = null;
    }
    this.show();
    tick();
    if (newSession) this.onLogin();
    if (!state.loggedIn) this.onLogout();
    if (ended || replaced) {
      const message = state.ended?.message ?? "The session has ended: log in again.";
      this.onEnd(this.unknownCookie ? UNKNOWN_COOKIE : message);
    }
    this.unknownCookie = false;
  },

  setUser(user, name = null) {
    this.user = user;
    this.name = name;
    this.show();
  },

  remaining() {
    return (this.state?.remaining ?? 0) - (performance.now() - this.receivedAt) / 1000;
  },

  age() {
    return (this.state?.age ?? 0) + (performance.now() - this.receivedAt) / 1000;
  },

  show() {
    const loginState = byId("login-state");
    loginState.dataset.loggedIn = this.loggedIn;
    const who = this.name ? ` as ${this.name}` : this.user ? " as a guest" : "";
    loginState.replaceChildren(this.loggedIn ? `Logged in${who}` : "Logged out");
    if (this.user) loginState.append(element("span", { className: "id", textContent: this.user, title: "User Id" }));
    for (const button of document.querySelectorAll("[data-needs-session]")) {
      if (this.loggedIn) button.removeAttribute("aria-disabled");
      else button.setAttribute("aria-disabled", "true");
    }
    byId("register-section").hidden = this.name !== null;
    byId("register-title").textContent = this.loggedIn ? "Create an account for this guest" : "Create an account";
    byId("burst").classList.toggle("primary", this.loggedIn);
    byId("generation").textContent = this.loggedIn ? String(this.state.generation ?? "–") : "–";
  },
};

let nextTick = 0;

function tick() {
  clearTimeout(nextTick);
  draw();
  if (session.loggedIn) {
    const burning = session.remaining() > 0 && !prefersReducedMotion.matches;
    nextTick = setTimeout(tick, burning && session.state.lifetime <= SMOOTH_BELOW ? 50 : 500);
  }
}

function draw() {
  const { lifetime, remaining } = session.state ?? {};
  // The lifetime of tokens from another process is unknown.
  const timed = session.loggedIn && lifetime > 0 && Number.isFinite(remaining);
  const left = timed ? session.remaining() : 0;
  const before = byId("burn").dataset.state;
  const state = !timed ? "none" : left > 0 ? "burning" : "expired";
  byId("burn").dataset.state = state;
  byId("age").textContent = session.loggedIn && session.state.age != null ? duration(session.age()) : "–";
  if (state === "burning") {
    const seconds = Math.ceil(left);
    const burnt = prefersReducedMotion.matches ? 1 - seconds / Math.max(lifetime, seconds) : 1 - left / lifetime;
    drawRing(Math.min(1, Math.max(0, burnt)));
    byId("remaining").textContent = duration(seconds);
    byId("lifetime").textContent = `of ${duration(lifetime)} left`;
  } else if (state === "expired") {
    byId("remaining").textContent = "expired";
    byId("lifetime").textContent = "the next request refreshes it";
  } else {
    byId("remaining").textContent = "–";
    byId("lifetime").textContent = session.loggedIn ? "lifetime unknown" : "no access token";
  }
  if (before === "burning" && state === "expired") {
    showMessage("note", "The access token has expired. The next request refreshes it.");
  }
}

/** Draws the match with this fraction burnt. */
function drawRing(burnt) {
  const drawArc = (circle, from, to) => {
    const length = Math.max(0, to - from) * RING_LENGTH;
    circle.setAttribute("stroke-dasharray", `${length} ${RING_LENGTH}`);
    circle.setAttribute("stroke-dashoffset", String(-from * RING_LENGTH));
  };
  drawArc(byId("wood"), burnt, 1);
  drawArc(byId("ember"), burnt, Math.min(1, burnt + EMBER));
  const angle = burnt * 2 * Math.PI;
  const x = 100 + RING_RADIUS * Math.sin(angle);
  const y = 100 - RING_RADIUS * Math.cos(angle);
  byId("tip").setAttribute("transform", `translate(${x.toFixed(2)} ${y.toFixed(2)})`);
}

prefersReducedMotion.addEventListener("change", tick);
