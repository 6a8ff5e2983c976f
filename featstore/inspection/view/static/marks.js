// A class is told by shape, colour and name, so that no one of them is needed.

import { corpus } from "./data.js";
import { el } from "./dom.js";

export const SHAPES = ["circle", "square", "triangle", "diamond", "plus", "cross", "star", "wedge"];
const GLYPHS = ["●", "■", "▲", "◆", "✚", "✖", "★", "▼"];

/** A class' name with its glyph; -1 is nobody's word. */
export function classTag(index) {
  if (index < 0) return el("span", { class: "none" }, "–");
  return el("span", { class: `tag c${index % 8}` },
    el("i", { "aria-hidden": "true" }, GLYPHS[index % 8]), corpus.classes[index]);
}

/** A class' name with its glyph as plain text, for places that take no elements. */
export const classText = (index) => `${GLYPHS[index % 8]} ${corpus.classes[index]}`;

/** Right or wrong, as a sign and for a reader of screens. */
export function verdict(right) {
  const word = right ? "right" : "wrong";
  return el("span", { class: word, title: word, role: "img", "aria-label": word }, right ? "✓" : "✗");
}

/** Draw one shape on a canvas around (x, y). */
export function draw(context, shape, x, y, r) {
  context.beginPath();
  const polygon = (corners) => {
    corners.forEach(([dx, dy], i) => context[i ? "lineTo" : "moveTo"](x + dx * r, y + dy * r));
    context.closePath();
    context.fill();
  };
  if (shape === "circle") {
    context.arc(x, y, r, 0, 7);
    context.fill();
  } else if (shape === "square") context.fillRect(x - 0.85 * r, y - 0.85 * r, 1.7 * r, 1.7 * r);
  else if (shape === "triangle") polygon([[0, -1.15], [1.05, 0.8], [-1.05, 0.8]]);
  else if (shape === "wedge") polygon([[0, 1.15], [1.05, -0.8], [-1.05, -0.8]]);
  else if (shape === "diamond") polygon([[0, -1.25], [1.1, 0], [0, 1.25], [-1.1, 0]]);
  else if (shape === "star") {
    polygon(Array.from({ length: 10 }, (_, i) => {
      const [angle, reach] = [(i * Math.PI) / 5 - Math.PI / 2, i % 2 ? 0.5 : 1.3];
      return [reach * Math.cos(angle), reach * Math.sin(angle)];
    }));
  } else {
    const turn = shape === "cross" ? Math.PI / 4 : 0;
    for (const angle of [turn, turn + Math.PI / 2]) {
      const [dx, dy] = [1.2 * r * Math.cos(angle), 1.2 * r * Math.sin(angle)];
      context.moveTo(x - dx, y - dy);
      context.lineTo(x + dx, y + dy);
    }
    context.lineWidth = Math.max(1.3, r / 2);
    context.strokeStyle = context.fillStyle;
    context.stroke();
  }
}
