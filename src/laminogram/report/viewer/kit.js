// What the pictures of a page share: theme, linked selection, names of tokens, bars, legends, keys.

import { darkTheme, hexAt, readTheme } from "./colour.js";
import { h, prepareCanvas } from "./dom.js";
import { tokenText } from "./format.js";

const LINKED = ["layer", "token", "key", "channel", "head", "state"];
const NOT_A_NUMBER = "#d04f9a";

// The selection holds a layer's label and whole numbers; it lives in the URL's fragment.
export class PicturePage {
  constructor(payload) {
    Object.assign(this, { palette: payload.palette, theme: readTheme(payload.palette), selection: {}, listeners: [] });
    this.readLink();
    darkTheme.addEventListener("change", () => {
      this.theme = readTheme(payload.palette);
      this.tell();
    });
    window.addEventListener("hashchange", () => { this.readLink(); this.tell(); });
  }

  readLink() {
    const given = new URLSearchParams(location.hash.slice(1));
    this.selection = {};
    for (const name of LINKED) {
      const value = given.get(name);
      if (value !== null && (name === "layer" || /^\d{1,7}$/.test(value))) this.selection[name] = name === "layer" ? value : +value;
    }
  }

  select(change) {
    Object.assign(this.selection, change);
    for (const name of LINKED) if (this.selection[name] === null) delete this.selection[name];
    try {
      history.replaceState(null, "", "#" + new URLSearchParams(this.selection));
    } catch (refused) {
      // A frame without an address of its own, as in a notebook, keeps its selection to itself.
    }
    this.tell();
  }

  listen(draw) { this.listeners.push(draw); }

  tell() { for (const draw of this.listeners) draw(); }

  // The selected number if this picture has so many, else its own choice.
  index(name, length, otherwise = -1) {
    const value = this.selection[name];
    return value === undefined || value >= length ? otherwise : value;
  }

  // The row of the selected layer. A layer that runs at several steps stands for the first of them.
  row(labels, otherwise = -1) {
    const { layer } = this.selection, bare = (text) => String(text).replace(/ \(step \d+\)$/, "");
    if (layer === undefined) return otherwise;
    const exact = labels.indexOf(layer), near = labels.findIndex((label) => bare(label) === bare(layer));
    return exact >= 0 ? exact : near >= 0 ? near : otherwise;
  }

  // A colour of the one-sided table for a place between 0 and 1; of the two-sided, between -1 and 1.
  shade(place) { return Number.isFinite(place) ? hexAt(this.palette.tables["sequential-" + this.theme.name], 2 * place - 1) : NOT_A_NUMBER; }

  signedShade(place) { return Number.isFinite(place) ? hexAt(this.theme.hex, place) : NOT_A_NUMBER; }
}

// Black or white, whichever reads better on a colour given as #rrggbb.
export function inkOn(colour) {
  const [r, g, b] = [1, 3, 5].map((i) => (parseInt(colour.slice(i, i + 2), 16) / 255) ** 2.2);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.3 ? "#14191c" : "#ffffff";
}

// A token where room is short: a blank at either end becomes a dot that can be seen.
export function cellText(text) {
  return tokenText(text).replace(/^ +| +$/g, (blanks) => "·".repeat(blanks.length)) || "∅";
}

// Tokens of a text, those that occur more than once told apart by their position.
export function tokenNames(tokens) {
  const times = new Map();
  for (const text of tokens) times.set(text, (times.get(text) || 0) + 1);
  const low = (n) => [...String(n)].map((d) => "₀₁₂₃₄₅₆₇₈₉"[d]).join("");
  return tokens.map((text, i) => cellText(text) + (times.get(text) > 1 ? low(i) : ""));
}

export function inQuotes(text) { return "“" + tokenText(text) + "”"; }

// Cuts a text to a width with an ellipsis.
export function fitted(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  let n = Math.min(text.length, Math.ceil(width / 4));
  while (n > 0 && context.measureText(text.slice(0, n) + "…").width > width) n--;
  return n > 0 ? text.slice(0, n) + "…" : "";
}

// A list of names with bars; `part` is the bar's length between 0 and 1.
export function barList(rows, label) {
  return h("ol", { class: "bars", "aria-label": label }, rows.map((row) =>
    h("li", { class: [row.strong && "strong", row.sign > 0 && "plus", row.sign < 0 && "minus"].filter(Boolean).join(" "), title: row.title || null },
      h("bdi", {}, row.name), h("span", { class: "bar" }, h("i", { style: { width: 100 * Math.max(0, Math.min(1, row.part || 0)) + "%" } })),
      h("b", {}, row.text))));
}

let groups = 0;

export function choices(label, options, onPick) {
  const name = "choice" + groups++;
  return h("div", { class: "segments", role: "radiogroup", "aria-label": label }, options.map(([value, text], i) =>
    h("label", {}, h("input", { type: "radio", name, value, checked: i === 0, onchange: () => onPick(value) }), h("span", {}, text))));
}

export function button(text, label, onclick) {
  return h("button", { type: "button", class: "small", "aria-label": label, title: label, onclick }, text);
}

// A canvas that is pointed at, clicked, and moved over with the arrow keys.
export function cellCanvas(label, { at, hover, pick, move }) {
  const canvas = h("canvas", { tabindex: 0, role: "img", "aria-label": label });
  const cell = (event) => at(event.offsetX, event.offsetY);
  canvas.addEventListener("pointermove", (event) => hover(cell(event)));
  canvas.addEventListener("pointerleave", () => hover(null));
  canvas.addEventListener("click", (event) => { const found = cell(event); if (found !== null) pick(found); });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    move(...step);
  });
  return canvas;
}

export function within(value, length) { return Math.max(0, Math.min(length - 1, value)); }

// A strip of the colour table with ticks: [place between 0 and 1, text].
export function drawColourKey(canvas, page, ticks, shade) {
  const { context: c, width } = prepareCanvas(canvas, 30), { theme } = page, left = 14, wide = width - 2 * left;
  for (let x = 0; x < wide; x++) {
    c.fillStyle = shade(x / (wide - 1));
    c.fillRect(left + x, 2, 1.5, 9);
  }
  c.strokeStyle = theme.line;
  c.strokeRect(left - 0.5, 1.5, wide + 1, 10);
  c.font = theme.font;
  c.fillStyle = theme.soft;
  c.textAlign = "center";
  for (const [place, text] of ticks) {
    const x = left + place * wide, half = c.measureText(text).width / 2;
    c.fillRect(Math.min(x, left + wide - 0.5) - 0.5, 11, 1, 4);
    c.fillText(text, Math.max(half, Math.min(width - half, x)), 26);
  }
}

export function colourKey() { return h("canvas", { class: "colour-key", role: "img", "aria-label": "Colour scale" }); }

// The largest finite value of an array; 0 where there is none.
export function topOf(values, size = (v) => v) {
  let top = 0;
  for (const v of values) { const s = size(v); if (Number.isFinite(s) && s > top) top = s; }
  return top;
}

// Rows of a table from arrays with the same axes: [[name, labels], ...] and {column: values}.
export function longRows(axes, columns) {
  const names = Object.keys(columns), rows = [[...axes.map(([name]) => name), ...names]];
  const total = axes.reduce((product, [, labels]) => product * labels.length, 1);
  for (let i = 0; i < total; i++) {
    const row = [];
    for (let a = axes.length - 1, rest = i; a >= 0; a--) {
      const labels = axes[a][1];
      row.unshift(labels[rest % labels.length]);
      rest = Math.floor(rest / labels.length);
    }
    rows.push([...row, ...names.map((name) => columns[name][i])]);
  }
  return rows;
}

export function upTo(length) { return Array.from({ length }, (_, i) => i); }
