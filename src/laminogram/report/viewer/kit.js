// What the pictures share: theme, selection, bars, choices, keys of colours.

import { readAddress, writeAddress } from "./address.js";
import { darkTheme, hexAt, readTheme } from "./colour.js";
import { box, h, letter, pictureCanvas, prepareCanvas } from "./dom.js";

const LINKED = ["layer", "token", "key", "channel", "head", "state", "M"];

// The selection holds a layer's label and whole numbers; it lives in the page's address.
export class PicturePage {
  constructor(payload) {
    Object.assign(this, { theme: readTheme(payload.palette), listeners: [] });
    this.readLink();
    darkTheme.addEventListener("change", () => {
      this.theme = readTheme(payload.palette);
      this.tell();
    });
    window.addEventListener("hashchange", () => { this.readLink(); this.tell(); });
  }

  readLink() {
    const known = Object.entries(readAddress()).filter(([name, value]) => name === "layer" || (LINKED.includes(name) && /^\d{1,7}$/.test(value)));
    this.selection = Object.fromEntries(known.map(([name, value]) => [name, name === "layer" ? value : +value]));
  }

  // Changes what is selected; null takes one away, nothing all.
  select(change) {
    this.selection = change ? { ...this.selection, ...change } : {};
    for (const name of LINKED) if (this.selection[name] === null) delete this.selection[name];
    writeAddress(this.selection);
    this.tell();
  }

  listen(draw) { this.listeners.push(draw); }

  tell() { for (const draw of this.listeners) draw(); }

  // The selected number if this picture has so many.
  index(name, length, otherwise = -1) {
    const value = this.selection[name];
    return value === undefined || value >= length ? otherwise : value;
  }

  // The row of the selected label. A layer that runs at several steps stands for the first of them.
  row(labels, otherwise = -1, name = "layer") {
    const chosen = this.selection[name], bare = (text) => String(text).replace(/ \(step \d+\)$/, "");
    return [labels.indexOf(chosen), labels.findIndex((label) => bare(label) === bare(chosen)), otherwise].find((row) => row >= 0) ?? -1;
  }

  // A colour of the one-sided table for a place between 0 and 1.
  shade(place) { return hexAt(this.theme.one, 2 * place - 1); }
}

// Black or white, whichever reads better on #rrggbb.
export function inkOn(colour) {
  const [r, g, b] = [1, 3, 5].map((i) => (parseInt(colour.slice(i, i + 2), 16) / 255) ** 2.2);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.3 ? "#14191c" : "#ffffff";
}

// Cuts a text to a width with an ellipsis.
export function fitted(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  let n = Math.min(text.length, Math.ceil(width / 4));
  while (n > 0 && context.measureText(text.slice(0, n) + "…").width > width) n--;
  return n > 0 ? text.slice(0, n) + "…" : "";
}

// Names with bars; `part` is a length between 0 and 1, `look` strong, plus or minus.
export function barList(rows, label) {
  return h("ol.bars", { "aria-label": label }, rows.map((row) =>
    h("li", { class: row.look, title: row.title },
      h("bdi", row.name), h("span.bar", h("i", { style: { width: 100 * (row.part || 0) + "%" } })), h("b", row.text))));
}

// Names and values one under the other: [name, value] or nothing.
export function factList(facts) {
  return h("dl", facts.filter(Boolean).flatMap(([name, value, now]) => [h(now ? "dt.now" : "dt", name), h("dd", value)]));
}

export function sidePanel() { return h("aside.side", { "aria-live": "polite" }); }

let groups = 0;

// One of several, the first to begin with.
export function choices(label, options, onPick, group = "choice" + groups++) {
  return h("div.segments", { role: "radiogroup", "aria-label": label }, options.map((one, i) =>
    h("label", h("input", { type: "radio", name: group, value: one.key ?? one.name, checked: i === 0, onchange: () => onPick(one) }), h("span", one.name))));
}

export function button(text, label, onclick, tag = "button.small") {
  return h(tag, { type: "button", "aria-label": label, title: label, onclick }, text);
}

// The step of an arrow key, [across, down], which the page then does not get.
export function arrowStep(event) {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!step || event.ctrlKey || event.metaKey || event.altKey) return null;
  event.preventDefault();
  return step;
}

// A canvas that is pointed at, clicked, and moved over with the arrow keys.
export function cellCanvas(label, { at, pick, move, hover = () => {} }) {
  const canvas = pictureCanvas("", label, { tabindex: 0 }), cell = (event) => at(event.offsetX, event.offsetY);
  canvas.addEventListener("pointermove", (event) => hover(cell(event)));
  canvas.addEventListener("pointerleave", () => hover(null));
  canvas.addEventListener("click", (event) => { const found = cell(event); if (found !== null) pick(found); });
  canvas.addEventListener("keydown", (event) => { const step = arrowStep(event); if (step) move(...step); });
  return canvas;
}

export function within(value, length) { return Math.max(0, Math.min(length - 1, value)); }

export function colourKey(classes = ".colour-key") { return pictureCanvas(classes, "Colour scale"); }

// A strip of a colour table with ticks, [place between 0 and 1, text]: the first ones that find room.
export function drawColourKey(canvas, theme, ticks, table = theme.one) {
  const { context: c, width } = prepareCanvas(canvas, 34, theme), left = 22, wide = width - 2 * left, drawn = [];
  for (let x = 0; x < wide; x++) {
    c.fillStyle = hexAt(table, 2 * x / wide - 1);
    c.fillRect(left + x, 2, 1.5, 12);
  }
  box(c, left - 0.5, 1.5, wide + 1, 13, theme.line);
  for (const [place, text] of ticks) {
    const x = left + place * wide;
    if (drawn.some((other) => Math.abs(other - x) < 34)) continue;
    drawn.push(x);
    letter(c, text, x, 25, theme.soft);
    c.fillRect(x - 0.5, 14, 1, 4);
  }
}

// Ticks of a key, written by `text`, the ends first.
export function evenTicks(text) { return [0, 1, 0.5, 0.25, 0.75].map((share) => [share, text(share)]); }

// The largest finite value of an array; 0 where there is none.
export function topOf(values, size = (v) => v) {
  return values.reduce((top, v) => (size(v) > top && size(v) < Infinity ? size(v) : top), 0);
}

// Rows of a table from arrays with the same axes: [[name, labels], ...] and {column: values}.
export function longRows(axes, columns) {
  const names = Object.keys(columns);
  const cells = axes.reduce((rows, [, labels]) => rows.flatMap((row) => labels.map((label) => [...row, label])), [[]]);
  return [[...axes.map(([name]) => name), ...names], ...cells.map((row, i) => [...row, ...names.map((name) => columns[name][i])])];
}

export function upTo(length) { return Array.from({ length }, (_, i) => i); }
