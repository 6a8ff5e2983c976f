// The table of utterances. Only the rows in sight exist, so that five thousand scroll like fifty.

import { corpus } from "./data.js";
import { el, seconds } from "./dom.js";
import { classTag, verdict } from "./marks.js";
import { model, of, ROLES } from "./model.js";
import { set, state } from "./state.js";

const ROW = 30; // px, as in the style sheet
const SPARE = 8;
const grid = document.getElementById("grid");
const head = el("div", { class: "row head", role: "row", "aria-rowindex": 1 });
const body = el("div", { class: "body", role: "rowgroup" });
const empty = el("p", { class: "empty", hidden: true }, "No utterance passes these filters.");
let columns = [];
let play = () => {};

/** Make the table; `onPlay` is called to hear the chosen row. */
export function start(onPlay) {
  play = onPlay;
  grid.append(el("div", { role: "rowgroup", class: "top" }, head), body, empty);
  grid.addEventListener("scroll", () => requestAnimationFrame(rows));
  grid.addEventListener("keydown", key);
  new ResizeObserver(rows).observe(grid);
}

/** Who is shown has changed. */
export function update() {
  const { rows: r } = corpus;
  const narrow = matchMedia("(max-width: 700px)").matches;
  const said = (slot) => ({
    name: of(slot).name, key: slot, rem: narrow ? 5.6 : 7.6,
    cell: (row) => opinion(of(slot), row),
  });
  columns = [
    { name: "utterance", key: "id", rem: narrow ? 9 : width(r.utterance_id), cell: (row) => r.utterance_id[row] },
    { name: "truth", key: "label", rem: 4.8, cell: (row) => classTag(r.label[row]) },
    ...["a", "b", "s"].filter(of).map(said),
    { name: "text", key: "text", rem: 15, grows: true, cell: (row) => r.text[row] },
    model.divergence && { name: "divergence", key: "divergence", rem: 6, wide: true,
      title: "Jensen-Shannon divergence of the two teachers at tau, in nats: 0 where they say the same, 0.693 at most",
      cell: (row) => model.divergence[row].toFixed(3) },
    { name: "role", key: "role", rem: 5.5, wide: true, cell: (row) => ROLES[model.role[row]] },
    { name: "speaker", key: "speaker", rem: 5.5, wide: true,
      cell: (row) => corpus.speakers[r.speaker[row]] },
    corpus.kinds.length > 1 && { name: "kind", key: "kind", rem: 6.5, wide: true,
      cell: (row) => corpus.kinds[r.kind[row]] },
    { name: "length", key: "length", rem: 4.7, wide: true, cell: (row) => seconds(r.duration_s[row]) },
  ].filter(Boolean);
  if (narrow) columns = columns.filter((column) => !column.wide);
  // Every row is a grid of its own: only widths that no content changes keep the columns straight.
  const track = ({ rem, grows }) => (grows ? `minmax(${rem}rem, 1fr)` : `${rem}rem`);
  grid.style.setProperty("--columns", columns.map(track).join(" "));
  grid.style.setProperty("--width", `${columns.reduce((sum, column) => sum + column.rem, 0)}rem`);
  grid.setAttribute("aria-colcount", columns.length);
  head.replaceChildren(...columns.map(heading));
}

/** What the longest of some names takes, in rem, within reason. */
function width(names) {
  const longest = names.reduce((most, name) => Math.max(most, name.length), 0);
  return Math.min(Math.max(0.54 * longest + 1.2, 6), 16);
}

function heading(column) {
  const here = state.sort === column.key;
  const order = here ? (state.desc ? "descending" : "ascending") : "none";
  const next = here && !state.desc ? { desc: true } : here ? { sort: "", desc: false } : { sort: column.key, desc: false };
  return el("div", { role: "columnheader", "aria-sort": order },
    el("button", { type: "button", id: `sort-${column.key}`, title: column.title ?? `Sort by ${column.name}`, onclick: () => set(next) },
      column.name, here ? (state.desc ? " ▾" : " ▴") : ""));
}

function opinion(source, row) {
  const said = source.said[row];
  if (said < 0) return el("span", { class: "none" }, "–");
  return el("span", { class: "opinion" }, verdict(said === corpus.rows.label[row]), classTag(said),
    el("small", {}, source.sure[row].toFixed(2)));
}

/** Draw the rows that are in sight. */
export function rows() {
  body.style.height = `${model.rows.length * ROW}px`;
  grid.setAttribute("aria-rowcount", model.rows.length + 1);
  empty.hidden = model.rows.length > 0;
  const first = Math.max(Math.floor(grid.scrollTop / ROW) - SPARE, 0);
  const last = Math.min(first + Math.ceil(grid.clientHeight / ROW) + 2 * SPARE, model.rows.length);
  const drawn = [];
  for (let at = first; at < last; at++) drawn.push(line(at));
  body.replaceChildren(...drawn);
  const here = corpus.rowOf?.get(state.u);
  grid.setAttribute("aria-activedescendant", here === undefined ? "" : `row-${here}`);
}

function line(at) {
  const row = model.rows[at];
  const chosen = corpus.rows.utterance_id[row] === state.u;
  const made = el("div",
    { class: "row", role: "row", id: `row-${row}`, "aria-rowindex": at + 2, "aria-selected": chosen,
      onclick: () => choose(at), ondblclick: () => play() },
    columns.map((column) => el("div", { role: "gridcell", class: `cell-${column.key}` }, column.cell(row))));
  made.style.top = `${at * ROW}px`;
  return made;
}

function choose(at) {
  if (!model.rows.length) return;
  const row = model.rows[Math.min(Math.max(at, 0), model.rows.length - 1)];
  set({ u: corpus.rows.utterance_id[row] });
}

/** Bring the chosen row into sight. */
export function reveal() {
  const at = model.rows.indexOf(corpus.rowOf.get(state.u));
  if (at < 0) return;
  const height = grid.clientHeight - head.offsetHeight;
  if (at * ROW < grid.scrollTop) grid.scrollTop = at * ROW;
  else if ((at + 1) * ROW > grid.scrollTop + height) grid.scrollTop = (at + 1) * ROW - height;
}

function key(event) {
  if (event.target !== grid || event.ctrlKey || event.metaKey || event.altKey) return;
  const page = Math.max(Math.floor(grid.clientHeight / ROW) - 2, 1);
  const at = model.rows.indexOf(corpus.rowOf.get(state.u));
  const steps = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: model.rows.length - 1 };
  if (event.key in steps) choose(steps[event.key]);
  else if (event.key === "Enter") play();
  else return;
  event.preventDefault();
}
