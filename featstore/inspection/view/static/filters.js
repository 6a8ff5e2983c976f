// The controls above the table and in the header.

import { corpus } from "./data.js";
import { choice, el } from "./dom.js";
import { classTag } from "./marks.js";
import { chosen, model, of, pack, ROLES, student, students, unpack } from "./model.js";
import { set, state } from "./state.js";

const FILTERS = ["q", "label", "speaker", "role", "kind", "a_is", "b_is", "s_is", "agree", "cell"];
const search = el("input", {
  type: "search", id: "search", placeholder: "Search text, id, raw label  ( / )", "aria-label": "Search",
  autocomplete: "off", spellcheck: "false", oninput: (event) => set({ q: event.target.value }),
});
const tau = el("input", { type: "range", id: "tau", min: -1, max: 1.3, step: 0.01, "aria-label": "Temperature tau",
  oninput: (event) => set({ tau: Number((10 ** Number(event.target.value)).toPrecision(4)) }) });
const exact = el("input", { type: "number", id: "tau-exact", min: 0.01, max: 100, step: "any", "aria-label": "tau, exactly",
  onchange: (event) => {
    const value = Number(event.target.value);
    if (value >= 0.01 && value <= 100) set({ tau: value });
    else event.target.value = state.tau;
  } });

/** Put the cursor into the search field. */
export function focusSearch() {
  search.focus();
  search.select();
}

/** Draw the header's choices: fold, teachers, student, temperature. */
export function choices() {
  const folds = corpus.folds.map((names, i) => {
    const facts = corpus.overview.folds[i];
    return [i + 1, `${i + 1}: tests ${facts.test.join(", ")}${names.length ? "" : " (no teacher yet)"}`];
  });
  const [a, b] = chosen();
  const names = (corpus.folds[state.fold - 1] ?? []).map((name) => [name, name]);
  const runs = students().map(([number, run]) => [number, runText(run)]);
  document.getElementById("choices").replaceChildren(
    choice("fold", folds, state.fold, (value) => set({ fold: Number(value), cell: "" }), { id: "fold" }),
    ...(a ? [choice("teacher A", names, a, (value) => set({ a: value, b: value === b ? a : b }), { id: "teacher-a" })] : []),
    ...(b ? [choice("teacher B", names, b, (value) => set({ b: value, a: value === a ? b : a }), { id: "teacher-b" })] : []),
    ...(runs.length ? [choice("student", runs, student(), (value) => set({ student: corpus.students[value].place }), { id: "student" })] : []),
    el("label", { class: "tau" }, el("span", {}, "tau"), tau, exact));
  temperature();
}

/** What tells a run from the others of its fold: its place only where nothing else does. */
function runText(run) {
  const short = ({ experiment, seed }) => `${experiment}, seed ${seed}`;
  const alike = students().filter(([, other]) => short(other) === short(run));
  return alike.length > 1 ? `${short(run)} (${run.place})` : short(run);
}

/** Show the temperature. */
export function temperature() {
  tau.value = Math.log10(state.tau);
  tau.setAttribute("aria-valuetext", `tau ${state.tau}`);
  if (document.activeElement !== exact) exact.value = state.tau;
}

/** Draw the filters. */
export function filters() {
  if (search.value !== state.q) search.value = state.q;
  const any = [["", "any"]];
  const same = (names) => [...any, ...names.map((name) => [name, name || "(none)"])];
  const isRight = (slot) => {
    const source = of(slot);
    if (!source) return [];
    return [choice(source.name, [...any, ["right", "right ✓"], ["wrong", "wrong ✗"]], state[`${slot}_is`],
      (value) => set({ [`${slot}_is`]: value }), { id: `is-${slot}` })];
  };
  const place = document.getElementById("filters");
  const parts = [
    el("div", { class: "labels", role: "group", "aria-label": "Truth" }, corpus.classes.map(toggle)),
    choice("speaker", same(corpus.speakers), state.speaker, (speaker) => set({ speaker }), { id: "speaker" }),
    choice("role", same(ROLES.filter((_, i) => model.role?.includes(i))), state.role, (role) => set({ role }), { id: "role" }),
    ...(corpus.kinds.length > 1 ? [choice("kind", same(corpus.kinds), state.kind, (kind) => set({ kind }), { id: "kind" })] : []),
    ...["a", "b", "s"].flatMap(isRight),
    ...(of("a") && of("b") ? [choice("A and B", [...any, ["yes", "agree"], ["no", "disagree"]], state.agree, (agree) => set({ agree }), { id: "agree" })] : []),
    state.cell ? el("button", { type: "button", class: "chip", title: "Drop this filter", onclick: () => set({ cell: "" }) }, cellText(), " ✕") : null,
    el("button", { type: "button", id: "reset", disabled: !FILTERS.some((name) => state[name]), onclick: () =>
      set(Object.fromEntries(FILTERS.map((name) => [name, ""]))) }, "Reset"),
  ].filter(Boolean);
  // The search field stays where it is: moved, it would lose the cursor and half-typed words.
  if (search.parentNode !== place) place.replaceChildren(search);
  while (search.nextSibling) search.nextSibling.remove();
  place.append(...parts);
}

function cellText() {
  const [slot, ...names] = state.cell.split(":");
  const [truth, said] = names.flatMap(unpack);
  return `${of(slot)?.name ?? slot}: ${truth} taken for ${said}`;
}

function toggle(name, index) {
  const on = unpack(state.label).includes(name);
  const flip = () => {
    const wanted = corpus.classes.filter((other) => unpack(state.label).includes(other) !== (other === name));
    set({ label: pack(wanted) });
  };
  return el("button", { type: "button", id: `label-${index}`, "aria-pressed": on, onclick: flip }, classTag(index));
}
