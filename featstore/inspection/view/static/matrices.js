// Confusion matrices of the rows in the table; a cell is a filter.

import { corpus } from "./data.js";
import { el, percent } from "./dom.js";
import { classTag } from "./marks.js";
import { confusion, scores } from "./maths.js";
import { filter, model, pack, ROLES } from "./model.js";
import { set, state } from "./state.js";

const panel = document.getElementById("panel-confusion");

/** Count and draw. */
export function update() {
  if (panel.hidden) return;
  const rows = filter(false);
  const counts = new Uint32Array(ROLES.length);
  for (const row of rows) counts[model.role[row]]++;
  const parts = ROLES.map((name, role) => `${counts[role]} ${name}`).filter((_, role) => counts[role]);
  const mixed = counts[1] > 0 && !state.role;
  panel.replaceChildren(
    el("p", {}, `Of ${rows.length} utterances that pass the other filters: ${parts.join(", ") || "none"}. `,
      mixed ? el("span", {}, "A teacher has seen the training ones: ",
        el("button", { type: "button", id: "only-test", onclick: () => set({ role: "test" }) }, "test only")) : null),
    el("div", { class: "matrices" }, model.sources.map((source) => matrix(source, rows))),
    el("p", { class: "hint" }, "Rows are the truth, columns what was said. Click a cell to see its utterances in the table, and again to see all."));
}

function matrix(source, rows) {
  const classes = corpus.classes.length;
  const counts = confusion(rows, corpus.rows.label, source.said, classes);
  const { n, wa, ua } = scores(counts, classes);
  const body = corpus.classes.map((truth, t) => {
    let total = 0;
    for (let c = 0; c < classes; c++) total += counts[t * classes + c];
    return el("tr", {}, el("th", { scope: "row" }, classTag(t)),
      corpus.classes.map((said, c) => cell(source, truth, said, counts[t * classes + c], total)),
      el("td", { class: "total" }, total));
  });
  return el("table", { class: "matrix", "data-source": source.name },
    el("caption", {}, source.slot === "s" ? source.name : `${source.slot.toUpperCase()}: ${source.name}`,
      el("small", {}, n ? `WA ${percent(wa)}, UA ${percent(ua)} of ${n}` : "says nothing of these")),
    el("thead", {}, el("tr", {}, el("td", {}, "truth \\ said"),
      corpus.classes.map((_, c) => el("th", { scope: "col" }, classTag(c))), el("td", { class: "total" }, "n"))),
    el("tbody", {}, body));
}

function cell(source, truth, said, count, total) {
  const name = [source.slot, pack([truth]), pack([said])].join(":");
  const on = state.cell === name;
  const share = total ? count / total : 0;
  const button = el("button", { type: "button", "aria-pressed": on, class: truth === said ? "diagonal" : null,
    id: `cell-${name}`, title: `${truth} taken for ${said}: ${count} of ${total} (${percent(share)} %)`,
    onclick: () => set({ cell: on ? "" : name }) }, String(count));
  button.style.setProperty("--share", share.toFixed(3));
  return el("td", {}, button);
}
