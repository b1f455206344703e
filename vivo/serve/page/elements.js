// Making and finding elements. Text goes in as text alone: nothing of a caption, a tag or a name is ever read as HTML.
export const find = (id) => document.getElementById(id);

// An element with attributes (on*: what to do at an event) and children (text or elements; null is left out).
export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg"), use = document.createElementNS(space, "use");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

// The spaces do not break.
export function percent(share) {
  if (share >= 0.995) return share >= 1 ? "100\u00a0%" : ">\u00a099\u00a0%";
  return share >= 0.005 ? `${Math.round(100 * share)}\u00a0%` : "<\u00a01\u00a0%";
}

export const quoted = (text) => `“${text}”`;
export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

// One stop of the Tab key for a row of buttons; arrows, Home and End go from one to the next.
export function roving(group, buttons) {
  const go = (to) => {
    for (const button of buttons) button.tabIndex = button === to ? 0 : -1;
  };
  go(buttons[0]);
  for (const button of buttons) button.addEventListener("focus", () => go(button));
  group.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };
    const here = buttons.indexOf(document.activeElement);
    if (!(event.key in steps) || here < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    buttons[Math.min(buttons.length - 1, Math.max(0, here + steps[event.key]))].focus();
  });
}

// Says something to who cannot see it, once. An equal text is said again, as a new text.
export function announce(text) {
  const node = find("announcer");
  node.textContent = node.textContent === text ? `${text}\u00a0` : text;
}
