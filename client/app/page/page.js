// The page of the client app. It never sees a token: only that there is one,
// how long it lives, and what went over the wire.
"use strict";

const ROWS = 200;
const ALIKE_WITHIN = 2000;
const ROUNDING = 2;
const RETRY_AFTER = 2000;
const SVG_TURN = 2 * Math.PI * 82;
const EMBER = 0.035;

const at = (id) => document.getElementById(id);
const calm = matchMedia("(prefers-reduced-motion: reduce)");

function element(name, properties = {}, ...children) {
  const { data = {}, ...rest } = properties;
  const made = Object.assign(document.createElement(name), rest);
  Object.assign(made.dataset, data);
  made.append(...children);
  return made;
}

function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const parts = [];
  let rest = whole;
  for (const [size, name] of units) {
    const count = Math.floor(rest / size);
    rest %= size;
    if (count > 0) parts.push(`${count} ${name}`);
  }
  return parts.slice(0, 2).join(" ") || "0 s";
}

/* What is said to the person */

let again = null;

function say(kind, text, retry = null) {
  at("message-box").dataset.kind = kind;
  at("message").textContent = text;
  again = retry;
  at("retry").hidden = retry === null;
}

/* Calls to the client app */

class Refusal extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

const LOGIN = "/api/login";
let signingIn = null;

/** The JSON of a good answer; any other is thrown as a Refusal. */
async function call(method, path, tries = 5) {
  if (path === LOGIN) {
    signingIn = ask(method, path).finally(() => { signingIn = null; });
    return signingIn;
  }
  // A login brings a new cookie, and word of it may come before its answer does.
  await signingIn?.catch(() => {});
  try {
    return await ask(method, path);
  } catch (error) {
    // It may be another tab that logs in.
    if (error.code !== "no_cookie" || tries <= 1) throw error;
    await new Promise((go) => setTimeout(go, 300));
    return call(method, path, tries - 1);
  }
}

async function ask(method, path) {
  let response;
  try {
    response = await fetch(path, { method, headers: { "X-Matchbook": "page" } });
  } catch {
    throw new Refusal("client_away", "The client app does not answer. Is it running?");
  }
  const text = await response.text();
  let body = {};
  try {
    body = text === "" ? {} : JSON.parse(text);
  } catch {
    // Whatever answered was not the client app; its status says enough.
  }
  if (!response.ok) {
    throw new Refusal(body.error ?? "unknown", body.message ?? `This did not work: the answer is ${response.status}.`);
  }
  return body;
}

let actions = 0;
let acted = -Infinity;

/** Runs what a button stands for, once at a time, and says how it went. */
async function act(button, work) {
  if (button.getAttribute("aria-busy") === "true") return;
  if (button.getAttribute("aria-disabled") === "true") {
    say("note", "Log in first.");
    return;
  }
  button.setAttribute("aria-busy", "true");
  actions += 1;
  diagram.begin();
  try {
    const said = await work();
    say("good", said);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    failed(error, () => act(button, work));
  } finally {
    button.removeAttribute("aria-busy");
    actions -= 1;
    acted = performance.now();
  }
}

function failed(error, retry) {
  switch (error.code) {
    case "away":
      say("bad", `The token server is away${session.loggedIn ? "; you stay logged in" : ""}. ${error.message}`, retry);
      break;
    case "client_away":
      say("bad", error.message, retry);
      break;
    case "logged_out":
      say("note", error.message);
      break;
    case "no_cookie":
      say("bad", error.message, () => location.reload());
      break;
    default:
      say("bad", error.message);
  }
}

/* Who is logged in, and the burning token */

const FORGOTTEN = "The app was restarted, or you were away for a day: log in again.";

const session = {
  known: false,
  // Whether the app did not know the cookie of this page: no session has ended.
  forgotten: false,
  loggedIn: false,
  user: null,
  state: null,
  seen: 0,

  take(state) {
    const before = this.state;
    const now = performance.now();
    const another =
      state.loggedIn &&
      (!this.loggedIn || state.age + 1 < (before.age ?? 0) + (now - this.seen) / 1000);
    const wasLoggedIn = this.known && this.loggedIn;
    const over = wasLoggedIn && !state.loggedIn;
    const replaced = wasLoggedIn && another && state.ended !== undefined;
    this.known = true;
    this.loggedIn = state.loggedIn;
    this.state = state;
    this.seen = now;
    if (another || !state.loggedIn) this.user = null;
    this.show();
    tick();
    if (another) discover();
    if (!state.loggedIn) sessions.clear("Log in to see where you are logged in.");
    // Whoever asked for it is told by the answer, which may come before this.
    if ((over || replaced) && actions === 0 && now - acted > 1000) {
      say("note", this.forgotten ? FORGOTTEN : (state.ended?.message ?? "The session has ended: log in again."));
    }
    this.forgotten = false;
  },

  remaining() {
    return (this.state?.remaining ?? 0) - (performance.now() - this.seen) / 1000;
  },

  age() {
    return (this.state?.age ?? 0) + (performance.now() - this.seen) / 1000;
  },

  show() {
    const who = at("who");
    who.dataset.loggedIn = this.loggedIn;
    who.replaceChildren(this.loggedIn ? "Logged in" : "Logged out");
    if (this.user) who.append(element("span", { className: "id", textContent: this.user, title: "User Id" }));
    for (const button of document.querySelectorAll("[data-needs-session]")) {
      if (this.loggedIn) button.removeAttribute("aria-disabled");
      else button.setAttribute("aria-disabled", "true");
    }
    at("login").classList.toggle("primary", !this.loggedIn);
    at("burst").classList.toggle("primary", this.loggedIn);
    at("generation").textContent = this.loggedIn ? String(this.state.generation ?? "–") : "–";
  },
};

/** Learns who has logged in, but never at the price of a refresh. */
async function discover() {
  if (session.remaining() <= 0) {
    sessions.clear("Reload to see them: that needs a fresh access token.");
    return;
  }
  try {
    const { userId } = await call("POST", "/api/info");
    session.user = userId;
    session.show();
    await sessions.load();
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    sessions.clear(error.message);
  }
}

let ticking = 0;

function tick() {
  clearTimeout(ticking);
  draw();
  if (session.loggedIn) {
    const burning = session.remaining() > 0 && !calm.matches;
    ticking = setTimeout(tick, burning && session.state.lifetime <= 300 ? 50 : 500);
  }
}

function draw() {
  const { lifetime, remaining } = session.state ?? {};
  // Tokens that came from elsewhere have no known life.
  const timed = session.loggedIn && lifetime > 0 && Number.isFinite(remaining);
  const left = timed ? session.remaining() : 0;
  const was = at("burn").dataset.state;
  const is = !timed ? "none" : left > 0 ? "burning" : "expired";
  at("burn").dataset.state = is;
  at("age").textContent = session.loggedIn && session.state.age != null ? duration(session.age()) : "–";
  if (is === "burning") {
    const burnt = calm.matches ? 1 - Math.ceil(left) / Math.max(lifetime, Math.ceil(left)) : 1 - left / lifetime;
    burn(Math.min(1, Math.max(0, burnt)));
    at("remaining").textContent = duration(Math.ceil(left));
    at("of").textContent = `of ${duration(lifetime)} left`;
  } else if (is === "expired") {
    at("remaining").textContent = "expired";
    at("of").textContent = "the next request refreshes it";
  } else {
    at("remaining").textContent = "–";
    at("of").textContent = session.loggedIn ? "life not known" : "no access token";
  }
  if (was === "burning" && is === "expired") {
    say("note", "The access token has burnt out. The next request refreshes it.");
  }
}

/** Draws the match with this fraction of it burnt. */
function burn(fraction) {
  const arc = (circle, from, to) => {
    const length = Math.max(0, to - from) * SVG_TURN;
    circle.setAttribute("stroke-dasharray", `${length} ${SVG_TURN}`);
    circle.setAttribute("stroke-dashoffset", String(-from * SVG_TURN));
  };
  arc(at("wood"), fraction, 1);
  arc(at("ember"), fraction, Math.min(1, fraction + EMBER));
  const angle = fraction * 2 * Math.PI;
  const [x, y] = [100 + 82 * Math.sin(angle), 100 - 82 * Math.cos(angle)];
  at("tip").setAttribute("transform", `translate(${x.toFixed(2)} ${y.toFixed(2)})`);
}

/* The sessions of this user */

const sessions = {
  clear(hint) {
    at("sessions").replaceChildren();
    at("sessions-hint").textContent = hint;
    at("sessions-hint").hidden = false;
  },

  async load() {
    const listed = await call("GET", "/api/sessions");
    this.clear("None.");
    at("sessions-hint").hidden = listed.length > 0;
    at("sessions").append(...listed.map((one) => this.row(one)));
  },

  row(one) {
    const since = (date) => (Date.now() - Date.parse(date)) / 1000;
    const ago = (date) => (since(date) < 2 ? "just now" : `${duration(since(date))} ago`);
    const name = element("p");
    if (one.current) name.append(element("span", { className: "current", textContent: "this one" }));
    name.append(`${one.userAgent ?? "An app without a name"}${one.ip ? `, ${one.ip}` : ""}`);
    const detail = element("p", {
      className: "detail",
      textContent: `begun ${ago(one.createdAt)} · used ${ago(one.lastUsedAt)} · expires in ${duration(-since(one.expiresAt))}`,
    });
    const end = element("button", { type: "button", className: "small", textContent: "End" });
    end.setAttribute("aria-label", one.current ? "End this session" : `End the session begun ${ago(one.createdAt)}`);
    end.addEventListener("click", () =>
      act(end, async () => {
        if (one.current) {
          // This way the client app forgets the tokens as well.
          await call("POST", "/api/logout");
          at("login").focus();
          return "This session has ended.";
        }
        await call("DELETE", `/api/sessions/${encodeURIComponent(one.id)}`);
        await this.load();
        at("reload").focus();
        return "That session has ended.";
      }),
    );
    return element("li", { data: { id: one.id, current: one.current } }, element("div", {}, name, detail), end);
  },
};

/* The sequence diagram */

const diagram = {
  rows: [],
  // Rows before it are of earlier actions, and are not counted up any more.
  mergeFrom: 0,
  // Rows before it are of an earlier connection, with a clock of its own.
  sortFrom: 0,
  shift: null,
  origin: null,
  unsaid: 0,
  saying: 0,

  /** A person's action begins: what it causes is counted by itself. */
  begin() {
    this.mergeFrom = this.rows.length;
  },

  /** A connection begins, perhaps with a client app that was started anew. */
  connect() {
    this.sortFrom = this.rows.length;
    this.mergeFrom = this.rows.length;
    this.shift = null;
  },

  clear() {
    for (const row of this.rows) row.item.remove();
    for (const note of at("exchanges").querySelectorAll(".note")) note.remove();
    Object.assign(this, { rows: [], mergeFrom: 0, sortFrom: 0, origin: null, unsaid: 0 });
    at("empty").hidden = false;
    at("summary").textContent = "";
  },

  note(text) {
    if (this.rows.length === 0) return;
    at("exchanges").append(element("li", { className: "note" }, element("span", { textContent: text })));
    this.follow(true);
  },

  take(exchange) {
    const { from, to, method, path, status, took } = exchange;
    const start = exchange.at;
    this.shift ??= performance.now() - (start + took);
    const key = [from, to, method, path, status].join(" ");
    const place = this.place({ from, start, path, status });
    const alike = this.alike(key, start, place);
    const following = this.atEnd();
    if (alike) {
      alike.count += 1;
      alike.last = Math.max(alike.last, start);
      alike.least = Math.min(alike.least, took);
      alike.most = Math.max(alike.most, took);
      this.update(alike);
    } else {
      this.origin ??= start + this.shift;
      const row = { key, from, path, status, start, end: start + took, last: start, least: took, most: took, count: 1 };
      row.item = this.item(row, { to, method });
      const next = this.rows[place];
      at("exchanges").insertBefore(row.item, next ? next.item : null);
      this.rows.splice(place, 0, row);
      this.update(row);
      this.trim();
    }
    at("empty").hidden = true;
    this.follow(following);
    this.announce(method, path, status);
  },

  /** Where it goes: by when it began, as the answers come in another order. */
  place({ from, start, path, status }) {
    let place = this.rows.length;
    while (place > this.sortFrom) {
      const before = this.rows[place - 1];
      // What a call caused may begin in the same millisecond, or seem to.
      if (from === "browser" && before.from === "client" && before.start >= start - ROUNDING) {
        place -= 1;
        continue;
      }
      const refused = status === 401 && path !== "/refresh" && before.path === "/refresh";
      // What was refused after a refresh began had left before that ended.
      const later = refused ? before.end : before.start;
      if (later < start || (later === start && !refused)) break;
      place -= 1;
    }
    return place;
  },

  /** The row that this counts up: one like it, with no refresh or action between. */
  alike(key, start, place) {
    for (let index = place - 1; index >= this.mergeFrom; index -= 1) {
      const row = this.rows[index];
      if (row.key === key && start - row.last <= ALIKE_WITHIN) return row;
      if (row.path === "/refresh" || row.from === "browser") break;
    }
    const next = this.rows[place];
    return next && place >= this.mergeFrom && next.key === key && next.start - start <= ALIKE_WITHIN ? next : null;
  },

  item(row, { to, method }) {
    const { from, path, status } = row;
    const tone =
      status === null || status >= 400 ? "bad" : path === "/refresh" ? "ember" : from === "client" ? "good" : "plain";
    // Identifiers are long, and the whole of them is in the title.
    const short = path.replace(/([0-9a-f]{8})-[0-9a-f-]{27}/g, "$1…");
    row.times = element("span", { className: "took" });
    row.badge = element("span", { className: "count" });
    const offset = Math.max(0, row.start + this.shift - this.origin) / 1000;
    const call = element(
      "span",
      { className: "call", title: `${from} to ${to}: ${method} ${path}` },
      element("span", { className: "method", textContent: method }),
      " ",
      element("span", { className: "path", textContent: short }),
      " ",
      element("span", { className: "to", textContent: "→" }),
      " ",
      element("span", { className: "status", textContent: status ?? "no answer" }),
    );
    const arrow = element("span", { className: "arrow" });
    arrow.setAttribute("aria-hidden", "true");
    const when = element("span", { className: "when", textContent: `+${offset.toFixed(offset < 100 ? 2 : 0)} s` });
    const times = element("span", { className: "times" }, when, row.times);
    const lanes = element("span", { className: "unseen", textContent: `${from} to ${to}: ` });
    const data = { from, to, method, path, status: status ?? "none", tone };
    return element("li", { data }, element("div", { className: "span" }, lanes, call, arrow, row.badge, times));
  },

  update(row) {
    row.item.dataset.count = row.count;
    row.badge.textContent = row.count > 1 ? `×${row.count}` : "";
    row.times.textContent = row.least === row.most ? `${row.most} ms` : `${row.least}–${row.most} ms`;
  },

  trim() {
    while (this.rows.length > ROWS) {
      this.rows.shift().item.remove();
      this.mergeFrom = Math.max(0, this.mergeFrom - 1);
      this.sortFrom = Math.max(0, this.sortFrom - 1);
    }
    const list = at("exchanges");
    while (list.firstElementChild?.classList.contains("note")) list.firstElementChild.remove();
  },

  atEnd() {
    const region = at("exchanges-region");
    return region.scrollHeight - region.scrollTop - region.clientHeight < 80;
  },

  follow(wanted) {
    const region = at("exchanges-region");
    if (wanted) region.scrollTop = region.scrollHeight;
  },

  /** One sentence for however many came together. */
  announce(method, path, status) {
    this.unsaid += 1;
    const last = `${method} ${path.replace(/([0-9a-f]{8})-[0-9a-f-]{27}/g, "$1…")} → ${status ?? "no answer"}`;
    clearTimeout(this.saying);
    this.saying = setTimeout(() => {
      if (this.unsaid === 0) return;
      at("summary").textContent = this.unsaid === 1 ? last : `${this.unsaid} new, the last ${last}`;
      this.unsaid = 0;
    }, 700);
  },
};

/* Events from the client app */

let attempts = 0;
let reconnecting = 0;

function line(state, text) {
  at("line").dataset.state = state;
  at("line-text").textContent = text;
}

function away() {
  line("away", "away");
  const banner = at("away");
  if (banner.hidden) {
    banner.hidden = false;
    banner.textContent = "The client app is away. This page shows what it last knew, and goes on when the app is back.";
  }
}

/** Connects again, and fetches the page for its cookie where there is none. */
async function renew() {
  // Of two tabs that ask at once each would get a cookie, and one be in vain.
  const alone = (work) => (navigator.locks ? navigator.locks.request("matchbook-cookie", work) : work());
  const fetched = await alone(async () => (await fetch("/")).text()).catch(() => "");
  if (fetched.includes("<body data-forgotten>")) session.forgotten = true;
  listen();
}

function listen() {
  const events = new EventSource("/api/events");
  events.addEventListener("open", () => {
    clearTimeout(reconnecting);
    diagram.connect();
    if (attempts > 0) diagram.note("connected again");
    attempts += 1;
    at("away").hidden = true;
    line("live", "live");
  });
  events.addEventListener("state", (event) => session.take(JSON.parse(event.data)));
  events.addEventListener("exchange", (event) => diagram.take(JSON.parse(event.data)));
  events.addEventListener("error", () => {
    away();
    if (events.readyState !== EventSource.CLOSED) return;
    // It was refused: perhaps for want of the cookie, which the page brings.
    clearTimeout(reconnecting);
    // Not all pages at once, where there are many.
    reconnecting = setTimeout(renew, RETRY_AFTER * (1 + Math.random()));
  });
}

/* The buttons */

function press(id, work) {
  at(id).addEventListener("click", () => act(at(id), work));
}

press("login", async () => {
  await call("POST", LOGIN);
  return "Logged in, as a new guest.";
});
press("info", async () => {
  const { userId } = await call("POST", "/api/info");
  session.user = userId;
  session.show();
  return `User Id: ${userId}`;
});
press("burst", async () => {
  const { succeeded, failed: refused } = await call("POST", "/api/burst");
  if (refused > 0) {
    const total = succeeded + refused;
    throw new Refusal("some_failed", `${refused} of ${total} requests failed, ${succeeded} succeeded.`);
  }
  return `All ${succeeded} requests succeeded.`;
});
press("refresh", async () => {
  await call("POST", "/api/refresh");
  return "Refreshed: a new access token, and the next refresh token.";
});
press("logout", async () => {
  await call("POST", "/api/logout");
  return "Logged out.";
});
press("logout-everywhere", async () => {
  const { ended } = await call("POST", "/api/logout-everywhere");
  return ended === 1 ? "Logged out: 1 session has ended." : `Logged out: ${ended} sessions have ended.`;
});
press("reload", async () => {
  await sessions.load();
  return "The sessions are up to date.";
});
at("clear").addEventListener("click", () => diagram.clear());
at("retry").addEventListener("click", () => {
  const retry = again;
  // The button goes, so the focus goes to where the outcome is.
  at("message-box").focus();
  say("none", "");
  retry?.();
});
calm.addEventListener("change", tick);

session.show();
if ("forgotten" in document.body.dataset) say("note", FORGOTTEN);
listen();
