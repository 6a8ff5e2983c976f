// What is looked at, and its place in the address: a link shows what its sender saw.

const DEFAULTS = {
  fold: 1, a: "", b: "", student: "", tau: 1, u: "", tab: "utterance", q: "", label: "", speaker: "",
  role: "", kind: "", a_is: "", b_is: "", s_is: "", agree: "", cell: "", sort: "", desc: false,
  colour: "label", map: "axes", theme: "",
};
const RANGES = { tau: [0.01, 100], fold: [1, 9999] };
const WRITE_AFTER_MS = 150; // browsers refuse hundreds of changes in a few seconds

export const state = { ...DEFAULTS };
const listeners = [];
let timer = 0;

/** Call `listener(changed)` with the set of changed keys after every change. */
export function onChange(listener) {
  listeners.push(listener);
}

/** Change some of the state, tell everybody, and write the address. */
export function set(patch) {
  const changed = new Set(Object.keys(patch).filter((key) => state[key] !== patch[key]));
  if (!changed.size) return;
  Object.assign(state, patch);
  clearTimeout(timer);
  timer = setTimeout(write, WRITE_AFTER_MS);
  for (const listener of listeners) listener(changed);
}

/** The state that an address asks for; what it does not name is as at first. */
export function parse(hash) {
  const asked = new URLSearchParams(hash.replace(/^#/, ""));
  const out = { ...DEFAULTS };
  for (const [key, fallback] of Object.entries(DEFAULTS)) {
    const text = asked.get(key);
    if (text === null) continue;
    if (typeof fallback === "number") {
      const [low, high] = RANGES[key];
      const value = Number(text);
      if (value >= low && value <= high) out[key] = value;
    } else out[key] = typeof fallback === "boolean" ? text === "1" : text;
  }
  return out;
}

/** Take over what the address says. */
export function read() {
  clearTimeout(timer);
  set(parse(location.hash));
}

function write() {
  const said = new URLSearchParams();
  for (const [key, fallback] of Object.entries(DEFAULTS)) {
    if (state[key] !== fallback) said.set(key, state[key] === true ? "1" : String(state[key]));
  }
  history.replaceState(null, "", `#${said}`);
}

addEventListener("hashchange", read);
