// Each teacher's embeddings in two dimensions: principal axes, or t-SNE. Click to hear.

import { corpus, loadMap } from "./data.js";
import { choice, colour, el, percent } from "./dom.js";
import { classText, draw, SHAPES } from "./marks.js";
import { model, of, ROLES } from "./model.js";
import { set, state } from "./state.js";

const panel = document.getElementById("panel-map");
const maps = el("div", { class: "maps" });
const legend = el("div", { class: "legend" });
const toolbar = el("div", { class: "toolbar" });
const words = el("p", { class: "hint" });
const HOW = "Click a point to hear it; wheel to zoom, drag to move, double click to see all. Rows that the filters leave out are faint.";
const WAYS = {
  axes: `Principal axes of all utterances of the corpus, training rows included, with their share of the variance. ${HOW}`,
  tsne: `t-SNE of all utterances of the corpus, training rows included: neighbours stay together; distances between groups, and their sizes, mean nothing. ${HOW}`,
};
const NEAR = 14; // px around a point that still mean it
let play = () => {};
let drawn = [];

/** Make the panel; `onPlay` is called to hear the row that was chosen. */
export function start(onPlay) {
  play = onPlay;
  panel.append(toolbar, maps, legend, words);
  new ResizeObserver(() => repaint()).observe(maps);
}

/** How points are told apart: for each row a group; per group a name, a shape and a colour. */
function grouping() {
  const { rows } = corpus;
  const shape = (i) => SHAPES[(i + Math.floor(i / 8)) % 8];
  const tint = (i) => `--c${i % 8}`;
  const named = (names, of_) => ({ of: of_, groups: names.map((name, i) => ({ name, shape: shape(i), tint: tint(i) })) });
  if (state.colour === "speaker") return named(corpus.speakers, (row) => rows.speaker[row]);
  if (state.colour === "role") return named(ROLES, (row) => model.role[row]);
  if (/^[abs]$/.test(state.colour) && of(state.colour)) {
    const { said } = of(state.colour);
    return {
      of: (row) => (said[row] < 0 ? 2 : Number(said[row] !== rows.label[row])),
      groups: [
        { name: "right", shape: "circle", tint: "--c0" }, { name: "wrong", shape: "cross", tint: "--c1" },
        { name: "says nothing", shape: "square", tint: "--c6" },
      ],
    };
  }
  return named(corpus.classes, (row) => rows.label[row]);
}

/** Fetch what is missing and draw. */
export async function update() {
  if (panel.hidden) return;
  const sources = model.sources.filter((source) => source.slot !== "s");
  const ways = [["label", "label"], ["speaker", "speaker"], ["role", "role"],
    ...model.sources.map(({ slot, name }) => [slot, `${name} right or wrong`])];
  const way = corpus.tsne && state.map === "tsne" ? "tsne" : "axes";
  const tools = [choice("colour and shape", ways, ways.some(([key]) => key === state.colour) ? state.colour : "label", (value) => set({ colour: value }), { id: "colour" })];
  if (corpus.tsne) tools.push(choice("map", [["axes", "principal axes"], ["tsne", "t-SNE (slow at first)"]], way, (value) => set({ map: value }), { id: "map-way" }));
  toolbar.replaceChildren(...tools);
  words.textContent = way === "tsne" ? `Computing ... ${WAYS.tsne}` : WAYS.axes;
  const fold = state.fold;
  const found = await Promise.all(sources.map((source) => loadMap(fold, source.name, way)));
  if (fold !== state.fold || (way === "tsne") !== (state.map === "tsne" && corpus.tsne)) return;
  words.textContent = WAYS[way];
  const views = new Map(drawn.map((one) => [one.name, one.view]));
  drawn = sources.map((source, i) => one(source, found[i], `${fold} ${way}`, views));
  maps.replaceChildren(...drawn.map((each) => each.figure));
  repaint();
}

function one(source, { points, shares }, what, views) {
  const canvas = el("canvas", { role: "img", tabindex: -1,
    "aria-label": `Map of the ${source.name} teacher's embeddings; the table lists the same utterances` });
  const tip = el("div", { class: "tip", hidden: true });
  const figure = el("figure", {},
    el("figcaption", {}, `${source.slot.toUpperCase()}: ${source.name}`, el("small", {}, shares ? `PC1 ${percent(shares[0])} %, PC2 ${percent(shares[1])} %` : "t-SNE")),
    el("div", { class: "frame" }, canvas, tip));
  const made = { name: `${what} ${source.name}`, source, points, canvas, tip, figure, box: bounds(points) };
  made.view = views.get(made.name) ?? { x: 0, y: 0, zoom: 1 };
  listen(made);
  return made;
}

function bounds(points) {
  const box = [Infinity, Infinity, -Infinity, -Infinity];
  for (let i = 0; i < points.length; i += 2) {
    if (Number.isNaN(points[i])) continue;
    box[0] = Math.min(box[0], points[i]);
    box[1] = Math.min(box[1], points[i + 1]);
    box[2] = Math.max(box[2], points[i]);
    box[3] = Math.max(box[3], points[i + 1]);
  }
  return box;
}

/** Where a row lies on the canvas, in CSS pixels. */
function placing({ canvas, points, box, view }) {
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  const scale = Math.min((width - 24) / (box[2] - box[0] || 1), (height - 24) / (box[3] - box[1] || 1)) * view.zoom;
  const [mx, my] = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2];
  return (row) => [width / 2 + view.x + (points[2 * row] - mx) * scale, height / 2 + view.y - (points[2 * row + 1] - my) * scale];
}

/** Draw all maps and the legend. */
export function repaint() {
  if (panel.hidden || !corpus.rows) return;
  const { of: groupOf, groups } = grouping();
  const inks = groups.map((group) => colour(group.tint));
  const ink = colour("--ink");
  const passes = new Uint8Array(corpus.n);
  for (const row of model.rows) passes[row] = 1;
  for (const each of drawn) paint(each, groupOf, groups, inks, ink, passes);
  const counts = new Uint32Array(groups.length);
  for (const row of model.rows) counts[groupOf(row)]++;
  legend.replaceChildren(...groups.map((group, i) => entry(group, counts[i], inks[i])).filter((_, i) => counts[i]));
}

function paint(each, groupOf, groups, inks, ink, passes) {
  const { canvas } = each;
  const sharp = devicePixelRatio || 1;
  canvas.width = canvas.clientWidth * sharp;
  canvas.height = canvas.clientHeight * sharp;
  const context = canvas.getContext("2d");
  context.scale(sharp, sharp);
  const place = placing(each);
  const r = corpus.n > 2000 ? 2.6 : 3.6;
  for (const wanted of [0, 1]) {
    context.globalAlpha = wanted ? 0.85 : 0.12;
    for (let row = 0; row < corpus.n; row++) {
      if (passes[row] !== wanted) continue;
      const group = groupOf(row);
      const [x, y] = place(row);
      context.fillStyle = inks[group];
      draw(context, groups[group].shape, x, y, wanted ? r : r * 0.7);
    }
  }
  context.globalAlpha = 1;
  const chosen = corpus.rowOf.get(state.u);
  if (chosen !== undefined) {
    const [x, y] = place(chosen);
    context.strokeStyle = ink;
    context.lineWidth = 2;
    context.beginPath();
    context.arc(x, y, r + 6, 0, 7);
    context.stroke();
  }
}

function entry(group, count, ink) {
  const canvas = el("canvas", { width: 32, height: 32, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  context.fillStyle = ink;
  draw(context, group.shape, 16, 16, 9);
  return el("span", {}, canvas, `${group.name || "(none)"} ${count}`);
}

function nearest(each, x, y) {
  const place = placing(each);
  let [best, closest] = [-1, NEAR ** 2];
  for (const row of model.rows) {
    const [px, py] = place(row);
    const away = (px - x) ** 2 + (py - y) ** 2;
    if (away < closest) [best, closest] = [row, away];
  }
  return best;
}

function listen(each) {
  const { canvas, tip, view } = each;
  let dragged = null;
  canvas.addEventListener("pointerdown", (event) => {
    dragged = { x: event.offsetX, y: event.offsetY, far: false };
    if (event.pointerType !== "touch") canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (dragged && event.pointerType !== "touch") {
      const [dx, dy] = [event.offsetX - dragged.x, event.offsetY - dragged.y];
      if (!dragged.far && Math.hypot(dx, dy) < 4) return;
      view.x += dx;
      view.y += dy;
      dragged = { x: event.offsetX, y: event.offsetY, far: true };
      tip.hidden = true;
      requestAnimationFrame(repaint);
    } else hint(each, event);
  });
  canvas.addEventListener("pointerleave", () => (tip.hidden = true));
  canvas.addEventListener("click", (event) => {
    const moved = dragged?.far;
    dragged = null;
    const row = moved ? -1 : nearest(each, event.offsetX, event.offsetY);
    if (row < 0) return;
    set({ u: corpus.rows.utterance_id[row] });
    play();
  });
  canvas.addEventListener("dblclick", () => {
    Object.assign(view, { x: 0, y: 0, zoom: 1 });
    repaint();
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const by = Math.min(Math.max(2 ** (-event.deltaY / 300), 0.5), 2);
    const zoom = Math.min(Math.max(view.zoom * by, 0.5), 60);
    const grown = zoom / view.zoom;
    const [cx, cy] = [event.offsetX - canvas.clientWidth / 2, event.offsetY - canvas.clientHeight / 2];
    view.x = cx - (cx - view.x) * grown;
    view.y = cy - (cy - view.y) * grown;
    view.zoom = zoom;
    requestAnimationFrame(repaint);
  }, { passive: false });
}

function hint(each, event) {
  const { canvas, tip, source } = each;
  const row = nearest(each, event.offsetX, event.offsetY);
  tip.hidden = row < 0;
  if (row < 0) return;
  const { rows } = corpus;
  tip.replaceChildren(el("b", {}, rows.utterance_id[row]), el("br"), rows.text[row].slice(0, 80), el("br"),
    `truth ${classText(rows.label[row])}, ${source.name} says ${classText(source.said[row])}`);
  tip.style.left = `${Math.min(event.offsetX + 12, Math.max(canvas.clientWidth - 230, 0))}px`;
  tip.style.top = `${event.offsetY + 14}px`;
}
