// The corpus and its teachers at a glance.

import { corpus } from "./data.js";
import { el, percent } from "./dom.js";
import { classTag } from "./marks.js";
import { set, state } from "./state.js";

const panel = document.getElementById("panel-corpus");
const PARTS = ["train", "validation", "test"];

/** Draw. */
export function update() {
  if (panel.hidden) return;
  const { overview } = corpus;
  const { corpus: about } = overview;
  const facts = [
    ["corpus", about.name], ["utterances", about.utterances], ["hours", about.hours],
    ["speakers", corpus.speakers.length], ["full release", about.full_release ? "yes" : "no"],
    ["left out", tally(about.excluded)], ["other labels", tally(about.other_labels)],
    ["fingerprint", overview.fingerprint], ["content", overview.content],
    ["made with", tally(overview.provenance)],
    ["runs left out", corpus.left_out.join("; ")],
  ];
  panel.replaceChildren(
    el("h3", {}, "Classes"), counted(corpus.classes.map((name, i) => [classTag(i), about.classes[name], `c${i % 8}`])),
    el("h3", {}, "Speakers"), counted(corpus.speakers.map((name, i) => [name, corpus.rows.speaker.filter((s) => s === i).length, "c0"])),
    el("h3", {}, "Teachers: UA by fold"), ...teachers(overview.teachers),
    el("h3", {}, "Store"),
    el("dl", {}, facts.filter(([, value]) => value !== "").flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))])));
}

const tally = (counts) => Object.entries(counts).map(([key, n]) => `${key} ${n}`).join(", ");

function counted(lines) {
  const most = Math.max(...lines.map(([, n]) => n), 1);
  return el("div", { class: "counted" }, lines.map(([name, n, ink]) => {
    const filled = el("div", { class: `fill ${ink}` });
    filled.style.width = `${(100 * n) / most}%`;
    return el("div", { class: "bar" }, el("span", {}, name), el("div", { class: "track" }, filled), el("output", {}, String(n)));
  }));
}

function teachers(told) {
  const names = Object.keys(told);
  if (!names.length) return [el("p", { class: "hint" }, "No fold has a teacher yet.")];
  const score = (name, fold, part) => told[name].folds[fold]?.[part]?.ua;
  const head = el("thead", {},
    el("tr", {}, el("td", {}), names.map((name) => el("th", { colspan: PARTS.length, scope: "colgroup" }, name))),
    el("tr", {}, el("th", { scope: "col" }, "fold"), names.flatMap(() => PARTS.map((part) => el("th", { scope: "col" }, part)))));
  const body = corpus.folds.map((_, i) => el("tr", { class: state.fold === i + 1 ? "here" : null },
    el("th", { scope: "row" }, el("button", { type: "button", id: `look-${i + 1}`, title: `Look at fold ${i + 1}`, onclick: () => set({ fold: i + 1, cell: "" }) }, String(i + 1))),
    names.flatMap((name) => PARTS.map((part) => el("td", {}, percent(score(name, i + 1, part)))))));
  return [el("div", { class: "scroll" }, el("table", { class: "plain" }, head, el("tbody", {}, body)))];
}
