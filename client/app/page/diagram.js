// The sequence diagram of requests between browser, client app and server.

import { byId, element, shortenIds } from "./dom.js";

const MAX_ROWS = 200;
// Equal requests within this time share a row. Milliseconds, like all times here.
const COALESCE_MS = 2000;
// Start times are rounded, so a caused request may seem to start before its cause.
const ROUNDING_MS = 2;
const SUMMARY_DELAY_MS = 700;

export const diagram = {
  rows: [],
  // Earlier rows belong to earlier actions: new requests are not counted in them.
  mergeFrom: 0,
  // Earlier rows belong to an earlier connection, which had another clock.
  sortFrom: 0,
  clockOffset: null,
  origin: null,
  unannounced: 0,
  announcement: 0,

  /** Starts counting requests from here, for the user's next action. */
  beginAction() {
    this.mergeFrom = this.rows.length;
  },

  /** Handles a new connection. The client app, and so its clock, may be another. */
  connected() {
    this.sortFrom = this.rows.length;
    this.mergeFrom = this.rows.length;
    this.clockOffset = null;
  },

  clear() {
    for (const row of this.rows) row.item.remove();
    for (const note of byId("exchanges").querySelectorAll(".note")) note.remove();
    Object.assign(this, { rows: [], mergeFrom: 0, sortFrom: 0, origin: null, unannounced: 0 });
    byId("empty").hidden = false;
    byId("summary").textContent = "";
  },

  addNote(text) {
    if (this.rows.length === 0) return;
    byId("exchanges").append(element("li", { className: "note" }, element("span", { textContent: text })));
    this.scrollToEnd();
  },

  /** Adds an exchange event. */
  add(exchange) {
    const { from, to, method, path, status, took } = exchange;
    const start = exchange.at;
    this.clockOffset ??= performance.now() - (start + took);
    const key = [from, to, method, path, status].join(" ");
    const position = this.position({ from, start, path, status });
    const equal = this.findEqual(key, start, position);
    const atEnd = this.isAtEnd();
    if (equal) {
      equal.count += 1;
      equal.last = Math.max(equal.last, start);
      equal.shortest = Math.min(equal.shortest, took);
      equal.longest = Math.max(equal.longest, took);
      this.update(equal);
    } else {
      this.origin ??= start + this.clockOffset;
      const row = { key, from, path, status, start, end: start + took, last: start, shortest: took, longest: took, count: 1 };
      row.item = this.createItem(row, { to, method });
      const next = this.rows[position];
      byId("exchanges").insertBefore(row.item, next ? next.item : null);
      this.rows.splice(position, 0, row);
      this.update(row);
      this.trim();
    }
    byId("empty").hidden = true;
    if (atEnd) this.scrollToEnd();
    this.announce(method, path, status);
  },

  /** Returns the row index by start time, because events arrive in order of completion. */
  position({ from, start, path, status }) {
    let position = this.rows.length;
    while (position > this.sortFrom) {
      const before = this.rows[position - 1];
      // A call comes before the requests that it caused.
      if (from === "browser" && before.from === "client" && before.start >= start - ROUNDING_MS) {
        position -= 1;
        continue;
      }
      // A request that got 401 was sent before the refresh completed.
      const rejected = status === 401 && path !== "/refresh" && before.path === "/refresh";
      const boundary = rejected ? before.end : before.start;
      if (boundary < start || (boundary === start && !rejected)) break;
      position -= 1;
    }
    return position;
  },

  /** Returns a row of equal requests, unless a refresh or an action lies between. */
  findEqual(key, start, position) {
    for (let index = position - 1; index >= this.mergeFrom; index -= 1) {
      const row = this.rows[index];
      if (row.key === key && start - row.last <= COALESCE_MS) return row;
      if (row.path === "/refresh" || row.from === "browser") break;
    }
    const next = this.rows[position];
    const mergeable = next && position >= this.mergeFrom && next.key === key;
    return mergeable && next.start - start <= COALESCE_MS ? next : null;
  },

  createItem(row, { to, method }) {
    const { from, path, status } = row;
    const tone =
      status === null || status >= 400 ? "bad" : path === "/refresh" ? "ember" : from === "client" ? "good" : "plain";
    row.times = element("span", { className: "took" });
    row.badge = element("span", { className: "count" });
    const offset = Math.max(0, row.start + this.clockOffset - this.origin) / 1000;
    const call = element(
      "span",
      { className: "call", title: `${from} to ${to}: ${method} ${path}` },
      element("span", { className: "method", textContent: method }),
      " ",
      element("span", { className: "path", textContent: shortenIds(path) }),
      " ",
      element("span", { className: "to", textContent: "→" }),
      " ",
      element("span", { className: "status", textContent: status ?? "no response" }),
    );
    const arrow = element("span", { className: "arrow" });
    arrow.setAttribute("aria-hidden", "true");
    const when = element("span", { className: "when", textContent: `+${offset.toFixed(offset < 100 ? 2 : 0)} s` });
    const times = element("span", { className: "times" }, when, row.times);
    const lanes = element("span", { className: "visually-hidden", textContent: `${from} to ${to}: ` });
    const data = { from, to, method, path, status: status ?? "none", tone };
    return element("li", { data }, element("div", { className: "span" }, lanes, call, arrow, row.badge, times));
  },

  update(row) {
    row.item.dataset.count = row.count;
    row.badge.textContent = row.count > 1 ? `×${row.count}` : "";
    row.times.textContent =
      row.shortest === row.longest ? `${row.longest} ms` : `${row.shortest}–${row.longest} ms`;
  },

  trim() {
    while (this.rows.length > MAX_ROWS) {
      this.rows.shift().item.remove();
      this.mergeFrom = Math.max(0, this.mergeFrom - 1);
      this.sortFrom = Math.max(0, this.sortFrom - 1);
    }
    const list = byId("exchanges");
    while (list.firstElementChild?.classList.contains("note")) list.firstElementChild.remove();
  },

  isAtEnd() {
    const region = byId("exchanges-region");
    return region.scrollHeight - region.scrollTop - region.clientHeight < 80;
  },

  scrollToEnd() {
    const region = byId("exchanges-region");
    region.scrollTop = region.scrollHeight;
  },

  /** Announces new requests to screen readers, in one sentence per group. */
  announce(method, path, status) {
    this.unannounced += 1;
    const last = `${method} ${shortenIds(path)} → ${status ?? "no response"}`;
    clearTimeout(this.announcement);
    this.announcement = setTimeout(() => {
      if (this.unannounced === 0) return;
      byId("summary").textContent = this.unannounced === 1 ? last : `${this.unannounced} new, the last ${last}`;
      this.unannounced = 0;
    }, SUMMARY_DELAY_MS);
  },
};
