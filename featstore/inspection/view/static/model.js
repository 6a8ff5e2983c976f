// Derived from the data and the state: who says what, and which rows the filters leave.

import { corpus, loadFold, loadStudent } from "./data.js";
import { confidences, divergences, predictions } from "./maths.js";
import { state } from "./state.js";

export const ROLES = ["left out", "training", "validation", "test"];

/** Filled by `load` and `filter`. `sources` are {slot, name, logits, said, sure}: a, b, s. */
export const model = { sources: [], all: new Map(), divergence: null, rows: new Int32Array(0), role: null };

const CROSS_FITTED = /-crossfit\d+$/;

/** The names that the two teachers' places have: what the address asks for, else the first. */
export function chosen() {
  const names = corpus.folds[state.fold - 1] ?? [];
  const plain = names.filter((name) => !CROSS_FITTED.test(name));
  const order = [...plain, ...names.filter((name) => !plain.includes(name))];
  const a = names.includes(state.a) ? state.a : order[0];
  const others = order.filter((name) => name !== a);
  const b = names.includes(state.b) && state.b !== a ? state.b : others[0];
  return [a, b].filter((name) => name !== undefined);
}

/** The students of the fold: [number, run]. */
export const students = () =>
  corpus.students.map((run, i) => [i, run]).filter(([, run]) => run.fold === state.fold);

/** The student that is shown: what the address asks for, or its like in this fold, else the first;
 * undefined without any. */
export function student() {
  const here = students();
  const like = (place) => place.replace(/fold\d+(?=-seed\d+$)/, "fold");
  const found = here.find(([, run]) => run.place === state.student)
    ?? here.find(([, run]) => like(run.place) === like(state.student));
  return (found ?? here[0])?.[0];
}

/** Bring everything that depends on fold, teachers and student; true where it is still wanted. */
export async function load() {
  const [fold, names, number] = [state.fold, chosen(), student()];
  const [all, said] = await Promise.all([
    loadFold(fold),
    number === undefined ? null : loadStudent(number),
  ]);
  if (fold !== state.fold || number !== student() || names.join() !== chosen().join()) return false;
  const classes = corpus.classes.length;
  const source = (slot, name, logits) => ({ slot, name, logits, said: predictions(logits, classes) });
  model.all = all;
  model.sources = names.map((name, i) => source("ab"[i], name, all.get(name)));
  if (said) model.sources.push(source("s", "student", said));
  model.role = corpus.roles.subarray((fold - 1) * corpus.n, fold * corpus.n);
  soften();
  return true;
}

/** Bring what depends on the temperature. */
export function soften() {
  const classes = corpus.classes.length;
  for (const source of model.sources) source.sure = confidences(source.logits, classes, state.tau);
  const [a, b] = ["a", "b"].map(of);
  model.divergence = a && b ? divergences(a.logits, b.logits, classes, state.tau) : null;
}

/** The source in a place: a, b or s. */
export const of = (slot) => model.sources.find((source) => source.slot === slot);

/** Names of classes in the address: a name may hold what separates them. */
export const pack = (names) => names.map(encodeURIComponent).join(",");

/** The names again; what is no such list is one odd name. */
export function unpack(text) {
  try {
    return text.split(",").map(decodeURIComponent);
  } catch {
    return [text];
  }
}

/** Rows that pass every filter, in the table's order; `withCell` false leaves the matrix' out. */
export function filter(withCell = true) {
  performance.mark("filter-begin");
  const tests = [...own(), ...(withCell ? cell() : [])];
  const rows = [];
  for (let row = 0; row < corpus.n; row++) {
    if (tests.every((test) => test(row))) rows.push(row);
  }
  if (withCell) model.rows = Int32Array.from(sorted(rows));
  performance.measure("filter", "filter-begin");
  return rows;
}

function own() {
  const { rows } = corpus;
  const said = Object.fromEntries(model.sources.map((source) => [source.slot, source.said]));
  const tests = [];
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length) tests.push((row) => words.every((word) => corpus.haystack[row].includes(word)));
  if (state.label) {
    const wanted = new Set(unpack(state.label).map((name) => corpus.classes.indexOf(name)));
    tests.push((row) => wanted.has(rows.label[row]));
  }
  const equal = (values, names, asked) => {
    const wanted = names.indexOf(asked);
    if (asked) tests.push((row) => values[row] === wanted);
  };
  equal(rows.speaker, corpus.speakers, state.speaker);
  equal(rows.kind, corpus.kinds, state.kind);
  equal(model.role, ROLES, state.role);
  for (const slot of ["a", "b", "s"]) {
    const asked = state[`${slot}_is`];
    if (!asked || !said[slot]) continue;
    tests.push((row) => said[slot][row] >= 0 && (said[slot][row] === rows.label[row]) === (asked === "right"));
  }
  if (state.agree && said.a && said.b) {
    tests.push((row) => (said.a[row] === said.b[row]) === (state.agree === "yes"));
  }
  return tests;
}

/** The cell of a confusion matrix that was chosen: "a:ang:sad" is slot, truth, prediction. */
export function cell() {
  const [slot, ...names] = state.cell.split(":");
  const [truth, predicted] = names.flatMap(unpack).map((name) => corpus.classes.indexOf(name));
  const source = of(slot);
  if (!source || !(truth >= 0) || !(predicted >= 0)) return [];
  return [(row) => corpus.rows.label[row] === truth && source.said[row] === predicted];
}

function sorted(rows) {
  const key = keyOf(state.sort);
  if (!key) return rows;
  const sign = state.desc ? -1 : 1;
  const keys = rows.map(key);
  const order = rows.map((_, i) => i);
  const compare = typeof keys[0] === "string"
    ? (i, j) => (keys[i] < keys[j] ? -1 : keys[i] > keys[j] ? 1 : 0)
    : (i, j) => (keys[i] || 0) - (keys[j] || 0);
  order.sort((i, j) => sign * compare(i, j) || i - j);
  return order.map((i) => rows[i]);
}

function keyOf(column) {
  const { rows } = corpus;
  const by = {
    id: (row) => rows.utterance_id[row], text: (row) => rows.text[row],
    speaker: (row) => rows.speaker[row], kind: (row) => rows.kind[row],
    label: (row) => rows.label[row], role: (row) => model.role[row],
    length: (row) => rows.duration_s[row],
    divergence: model.divergence ? (row) => model.divergence[row] : null,
  };
  const source = of(column);
  return source ? (row) => source.said[row] * 2 + source.sure[row] : Object.hasOwn(by, column) ? by[column] : null;
}
