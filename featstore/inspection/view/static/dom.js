// Elements made from data. Text only ever becomes text: nothing here parses markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element; keys that begin with "on" are listeners, `null` leaves an attribute out, as does
 * `false` where it is not one of ARIA's. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same in SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined) continue;
    if (key.startsWith("aria-")) element.setAttribute(key, String(value));
    else if (value === false) continue;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Draw anew, and leave the keyboard where it was. */
export function keepingFocus(redraw) {
  const { id } = document.activeElement ?? {};
  redraw();
  if (id && document.activeElement?.id !== id) document.getElementById(id)?.focus();
}

/** A labelled choice; `options` are [value, text] pairs. */
export function choice(label, options, value, onchange, attributes = {}) {
  const select = el(
    "select",
    { ...attributes, onchange: (event) => onchange(event.target.value) },
    options.map(([key, text]) => el("option", { value: key }, text)),
  );
  select.value = value;
  return el("label", {}, el("span", {}, label), select);
}

/** A colour of the style sheet as the canvas wants it. */
export function colour(variable) {
  const probe = el("i", {});
  probe.style.color = `var(${variable})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

export const percent = (share) => (Number.isFinite(share) ? (100 * share).toFixed(1) : "–");
export const seconds = (s) => `${s.toFixed(2)} s`;
