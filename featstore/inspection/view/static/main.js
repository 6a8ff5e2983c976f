// Begin here: load, then redraw what each change of the state touches.

import * as overview from "./corpus.js";
import { corpus, loadCorpus } from "./data.js";
import * as detail from "./detail.js";
import { el, keepingFocus } from "./dom.js";
import * as controls from "./filters.js";
import * as map from "./map.js";
import * as matrices from "./matrices.js";
import * as model from "./model.js";
import { onChange, read, set, state } from "./state.js";
import * as table from "./table.js";

const TABS = [["utterance", "Utterance"], ["map", "Map"], ["confusion", "Confusion"], ["corpus", "Corpus"]];
const THEMES = { "": "◐ system", light: "○ light", dark: "● dark" };
const KEYS = [
  ["↑ ↓, Page, Home, End", "walk through the table"], ["Enter, Space", "hear it; Space again stops"],
  ["/", "search; Esc goes back to the table"], ["[ ]", "fold before, fold after"],
  ["1 2 3 4", "utterance, map, confusion, corpus"], ["?", "this list"],
];
const $ = (id) => document.getElementById(id);

function trouble(error) {
  $("trouble").hidden = !error;
  $("trouble").textContent = error ? error.message : "";
}

function tabs() {
  const known = TABS.some(([key]) => key === state.tab) ? state.tab : "utterance";
  $("tabs").replaceChildren(...TABS.map(([key, name]) => el("button",
    { type: "button", role: "tab", id: `tab-${key}`, "aria-selected": key === known, "aria-controls": `panel-${key}`,
      tabindex: key === known ? 0 : -1, onclick: () => set({ tab: key }) }, name)));
  for (const [key] of TABS) $(`panel-${key}`).hidden = key !== known;
}

function theme() {
  const known = Object.hasOwn(THEMES, state.theme) ? state.theme : "";
  document.documentElement.dataset.theme = known;
  $("theme").textContent = THEMES[known];
}

function count() {
  const [shown, all] = [model.model.rows.length, corpus.n];
  $("counts").textContent = `${shown === all ? all : `${shown} of ${all}`} utterances`;
}

/** Everything that depends on which rows are shown, and in which order. */
function list() {
  model.filter();
  controls.filters();
  table.update();
  table.rows();
  count();
  map.repaint();
  matrices.update();
}

async function fold() {
  controls.choices();
  if (!(await model.load())) return;
  keepingFocus(() => {
    controls.choices();
    list();
    table.reveal();
    table.rows();
    detail.update();
    overview.update();
  });
  await map.update();
}

const LISTED = ["q", "label", "speaker", "role", "kind", "a_is", "b_is", "s_is", "agree", "cell", "sort", "desc"];

function changed(keys) {
  const has = (...names) => names.some((name) => keys.has(name));
  if (has("theme")) theme();
  if (has("tab")) tabs();
  if (has("fold") && !(state.fold in corpus.folds || state.fold === corpus.folds.length)) set({ fold: 1 });
  if (has("fold", "a", "b", "student")) {
    fold().catch(trouble);
    return;
  }
  if (has("tau")) {
    model.soften();
    controls.temperature();
  }
  if (has(...LISTED) || (has("tau") && ["a", "b", "s", "divergence"].includes(state.sort))) list();
  else if (has("u", "tau")) table.rows();
  if (has("u")) {
    table.reveal();
    detail.update();
    map.repaint();
  }
  if (has("tau")) detail.opinions();
  if (has("theme", "tab")) {
    matrices.update();
    overview.update();
  }
  if (has("tab", "colour", "map", "theme")) map.update().catch(trouble);
}

function keys(event) {
  const typing = event.target.matches?.("input, select, textarea");
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" && typing) $("grid").focus();
  if (typing || $("help").open) return;
  const tab = TABS[Number(event.key) - 1];
  if (event.key === "/") controls.focusSearch();
  else if (event.key === "?") $("help").showModal();
  else if (event.key === " " && !event.target.matches?.("button, audio, a, summary")) detail.toggle();
  else if (event.key === "[" && state.fold > 1) set({ fold: state.fold - 1, cell: "" });
  else if (event.key === "]" && state.fold < corpus.folds.length) set({ fold: state.fold + 1, cell: "" });
  else if (tab && event.key.trim()) set({ tab: tab[0] });
  else return;
  event.preventDefault();
}

function tabKeys(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const at = TABS.findIndex(([key]) => key === state.tab);
  const next = TABS[(at + step + TABS.length) % TABS.length][0];
  set({ tab: next });
  $(`tab-${next}`).focus();
}

function help() {
  $("help").append(el("h2", {}, "Keys"),
    el("dl", {}, KEYS.flatMap(([key, what]) => [el("dt", {}, key), el("dd", {}, what)])),
    el("form", { method: "dialog" }, el("button", {}, "Close")));
}

async function begin() {
  help();
  await loadCorpus();
  $("name").textContent = corpus.overview.store;
  document.title = `${corpus.overview.store} – featstore view`;
  read();
  if (state.fold > corpus.folds.length) set({ fold: 1 });
  onChange((touched) => keepingFocus(() => changed(touched)));
  theme();
  tabs();
  table.start(detail.play);
  map.start(detail.play);
  detail.start();
  $("theme").addEventListener("click", () => {
    const order = Object.keys(THEMES);
    set({ theme: order[(order.indexOf(state.theme) + 1) % order.length] });
  });
  $("keys").addEventListener("click", () => $("help").showModal());
  $("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address holds the state, not a place in the page
    $("grid").focus();
  });
  $("tabs").addEventListener("keydown", tabKeys);
  addEventListener("keydown", keys);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => map.repaint());
  matchMedia("(max-width: 700px)").addEventListener("change", () => list());
  await fold();
  performance.mark("shown");
  if (!state.u && model.model.rows.length) set({ u: corpus.rows.utterance_id[model.model.rows[0]] });
  document.body.dataset.ready = "yes";
}

begin().catch(trouble);
