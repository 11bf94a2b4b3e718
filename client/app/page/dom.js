// Helpers for the document.

export const byId = (id) => document.getElementById(id);

export const prefersReducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

/** Creates an element with properties, data attributes and children. */
export function element(name, properties = {}, ...children) {
  const { data = {}, ...rest } = properties;
  const created = Object.assign(document.createElement(name), rest);
  Object.assign(created.dataset, data);
  created.append(...children);
  return created;
}

/** Formats seconds in the two largest units. */
export function duration(seconds) {
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const parts = [];
  let rest = Math.max(0, Math.floor(seconds));
  for (const [size, name] of units) {
    const count = Math.floor(rest / size);
    rest %= size;
    if (count > 0) parts.push(`${count} ${name}`);
  }
  return parts.slice(0, 2).join(" ") || "0 s";
}

/** Shortens the UUIDs in a path. */
export function shortenIds(path) {
  return path.replace(/([0-9a-f]{8})-[0-9a-f-]{27}/g, "$1…");
}
