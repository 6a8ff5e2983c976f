// One utterance: its signal and curves, and who takes it for what at the chosen temperature.

import { corpus, loadUtterance } from "./data.js";
import { el, percent, seconds, svg } from "./dom.js";
import { classTag, verdict } from "./marks.js";
import { softmax } from "./maths.js";
import { model, of, ROLES, student } from "./model.js";
import { state } from "./state.js";

const audio = document.getElementById("audio");
const now = document.getElementById("now");
const panel = document.getElementById("panel-utterance");
const bars = el("div", { class: "bars" });
const curves = el("div", { class: "curves" });
const heads = [];
let wanted = -1;
let timer = 0;
let length = 0;

/** Make the panel. */
export function start() {
  panel.append(bars, curves);
  if (!corpus.audio) {
    audio.replaceWith(el("p", { class: "hint" }, "This store holds no signals (--no-embed-audio), so there is nothing to play."));
  }
  for (const name of ["timeupdate", "seeked", "loadedmetadata"]) audio.addEventListener(name, moveHeads);
  audio.addEventListener("play", follow);
}

/** Hear the chosen utterance, or stop. */
export function toggle() {
  if (!corpus.audio || !audio.src) return;
  if (audio.paused) audio.play().catch(() => {});
  else audio.pause();
}

/** Hear the chosen utterance from its beginning. */
export function play() {
  if (!corpus.audio || !audio.src) return;
  audio.currentTime = 0;
  audio.play().catch(() => {});
}

/** Show another utterance. */
export function update() {
  const row = corpus.rowOf.get(state.u);
  if (row === undefined) {
    now.replaceChildren(el("p", { class: "hint" }, state.u
      ? `${state.u}: no such utterance in this store` : "Choose an utterance: click, or the arrow keys in the table."));
    bars.replaceChildren();
    curves.replaceChildren();
    audio.removeAttribute("src");
    wanted = -1;
    return;
  }
  title(row);
  opinions();
  if (row === wanted) return;
  wanted = row;
  if (corpus.audio) audio.src = `/audio/${row}.wav`;
  clearTimeout(timer); // an arrow key that is held down passes many rows a second
  timer = setTimeout(() => draw(row), 60);
}

function title(row) {
  const { rows } = corpus;
  const speaker = corpus.speakers[rows.speaker[row]];
  const gender = corpus.genders[rows.gender[row]];
  const facts = [
    `${speaker}${gender ? ` (${gender})` : ""}`, `${ROLES[model.role?.[row] ?? 0]} in fold ${state.fold}`,
    corpus.kinds[rows.kind[row]], seconds(rows.duration_s[row]), `row ${row}`,
  ];
  now.replaceChildren(
    el("h2", { id: "chosen" }, rows.utterance_id[row]),
    el("p", { class: "transcript", dir: "ltr" }, rows.text[row] || "(no transcript in this store)"),
    el("p", { class: "facts" }, el("span", {}, "truth ", classTag(rows.label[row]), ` (raw: ${rows.label_raw[row]})`),
      facts.filter((fact) => fact && fact !== "unknown").map((fact) => el("span", {}, fact))));
}

/** Everybody's class probabilities, softened here from raw logits. */
export function opinions() {
  const row = corpus.rowOf.get(state.u);
  if (row === undefined) return;
  const voices = [...model.all].map(([name, logits]) => [name, logits, slotOf(name)]);
  const learner = of("s");
  if (learner) voices.push([`student: ${corpus.students[student()].experiment}`, learner.logits, "s"]);
  bars.replaceChildren(...voices.map(([name, logits, slot]) => voice(name, logits, row, slot)));
  if (!voices.length) bars.append(el("p", { class: "hint" }, `Fold ${state.fold} has no teacher yet.`));
}

const slotOf = (name) => model.sources.find((source) => source.name === name)?.slot ?? "";

function voice(name, logits, row, slot) {
  const p = softmax(logits, row, corpus.classes.length, state.tau);
  const truth = corpus.rows.label[row];
  const caption = el("h3", {}, slot === "a" || slot === "b" ? `${slot.toUpperCase()}: ${name}` : name);
  if (Number.isNaN(p[0])) {
    return el("section", { class: "voice" }, caption, el("p", { class: "hint" }, "says nothing of this utterance: it was neither tested nor validated on."));
  }
  const best = p.indexOf(Math.max(...p));
  caption.append(" ", verdict(best === truth));
  return el("section", { class: "voice", "data-voice": name }, caption,
    Array.from(p, (share, index) => bar(share, index, index === truth, logits[row * p.length + index])));
}

function bar(share, index, isTruth, logit) {
  const filled = el("div", { class: `fill c${index % 8}` });
  filled.style.width = `${100 * share}%`;
  const told = `p ${share.toFixed(9)} at tau ${state.tau}; raw logit ${logit.toFixed(4)}`;
  return el("div", { class: "bar", title: told, "data-class": corpus.classes[index], "data-p": share, role: "img",
    "aria-label": `${corpus.classes[index]} ${percent(share)} percent${isTruth ? ", the truth" : ""}` },
  classTag(index), el("div", { class: "track" }, filled), el("output", {}, percent(share)),
  el("span", { class: "mark" }, isTruth ? "◀ truth" : ""));
}

async function draw(row) {
  let found;
  try {
    found = await loadUtterance(row);
  } catch (error) {
    curves.replaceChildren(el("p", { class: "hint" }, error.message));
    return;
  }
  if (row !== wanted) return;
  heads.length = 0;
  length = found.duration_s;
  curves.replaceChildren(
    ...(found.peaks ? [figure("waveform", waveform(found.peaks), "full scale ±1", 80)] : []),
    ...(found.f0_hz ? [figure("F0", curve(found.f0_hz, true), span(found.f0_hz, "Hz", 0), 70)] : []),
    ...(found.loudness ? [figure("loudness", curve(found.loudness, false), span(found.loudness, "", 2), 60)] : []),
    el("p", { class: "axis" }, el("span", {}, "0 s"), el("span", {}, seconds(length))));
  moveHeads();
}

function figure(name, shape, note, height) {
  const head = svg("line", { class: "playhead", y1: 0, y2: 100, x1: 0, x2: 0 });
  heads.push(head);
  const drawn = svg("svg", { viewBox: "0 0 1000 100", preserveAspectRatio: "none", class: name, role: "img", "aria-label": `${name}: ${note}`, onclick: seek }, shape, head);
  drawn.style.height = `${height}px`;
  return el("figure", {}, el("figcaption", {}, name, el("small", {}, note)), drawn);
}

function waveform([low, high]) {
  const y = (sample) => (50 - (sample / 32768) * 50).toFixed(2);
  const x = (i) => ((1000 * (i + 0.5)) / low.length).toFixed(1);
  const up = high.map((sample, i) => `${x(i)} ${y(sample)}`);
  const down = low.map((sample, i) => `${x(i)} ${y(sample)}`).reverse();
  return svg("path", { d: `M${[...up, ...down].join("L")}Z`, class: "signal" });
}

/** A line through the measured frames; it breaks where nothing was measured. */
function curve(values, breaks) {
  const known = values.filter((value) => value !== null);
  const low = breaks ? Math.min(...known) : 0;
  const range = Math.max(...known) - low || 1;
  let path = "";
  let drawing = false;
  values.forEach((value, i) => {
    if (value === null) {
      drawing = false;
      return;
    }
    const x = ((1000 * (i + 0.5)) / values.length).toFixed(1);
    const y = (95 - (90 * (value - low)) / range).toFixed(1);
    path += drawing ? `L${x} ${y}` : `M${x} ${y}h.1`;
    drawing = true;
  });
  return svg("path", { d: path, class: "line" });
}

function span(values, unit, digits) {
  const known = values.filter((value) => value !== null);
  if (!known.length) return "never voiced";
  return `${Math.min(...known).toFixed(digits)} to ${Math.max(...known).toFixed(digits)} ${unit}`.trim();
}

function seek(event) {
  if (!corpus.audio) return;
  const box = event.currentTarget.getBoundingClientRect();
  const at = ((event.clientX - box.left) / box.width) * length;
  const jump = () => {
    audio.currentTime = at;
    audio.play().catch(() => {});
  };
  if (audio.readyState > 0) jump();
  else {
    audio.addEventListener("loadedmetadata", jump, { once: true });
    audio.load();
    audio.preload = "metadata";
  }
}

function moveHeads() {
  const x = length ? (1000 * audio.currentTime) / length : 0;
  for (const head of heads) {
    head.setAttribute("x1", x);
    head.setAttribute("x2", x);
  }
}

function follow() {
  moveHeads();
  if (!audio.paused) requestAnimationFrame(follow);
}
