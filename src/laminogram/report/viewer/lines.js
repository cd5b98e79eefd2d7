// Lines over the layers on a canvas: hover reads the values, a click selects the layer.

import { h, prepareCanvas } from "./dom.js";
import { number, shortLabel } from "./format.js";
import { cellCanvas, within } from "./kit.js";

const LINE_LEFT = 46, LINE_RIGHT = 18, LINE_TOP = 8, LINE_BOTTOM = 34, DASHES = [[], [7, 3], [2, 3], [9, 3, 2, 3], [4, 4]];

// kind: "probability" (0 to 1), "rank" (1 at the top, a step a decade) or "log" (magnitudes).
function lineScale(kind, series, tall) {
  const values = series.flatMap((s) => [...s.values]).filter((v) => Number.isFinite(v) && (kind === "probability" || v > 0));
  if (kind === "probability") return { y: (v) => LINE_TOP + tall * (1 - v), ticks: [0, 0.25, 0.5, 0.75, 1] };
  const least = values.reduce((a, b) => Math.min(a, b), Infinity), most = values.reduce((a, b) => Math.max(a, b), 0);
  let low = kind === "rank" ? 0 : Math.log10(least), high = Math.max(low + 0.3, Math.log10(most));
  if (!values.length) [low, high] = [0, 1];
  const room = (high - low) * 0.06, place = (v) => (Math.log10(v) - low + room) / (high - low + 2 * room);
  const grid = high - low < 1.2 ? [1, 2, 5] : high - low < 2.5 ? [1, 3] : [1], every = Math.ceil((high - low) / 6), ticks = [];
  for (let e = Math.floor(low); e <= Math.ceil(high); e++) if (e % every === 0) ticks.push(...grid.map((m) => m * 10 ** e));
  return { y: (v) => LINE_TOP + tall * (kind === "rank" ? place(v) : 1 - place(v)),
    ticks: ticks.filter((t) => place(t) >= 0 && place(t) <= 1) };
}

export function layerLines(page, { title, kind, labels, tall = 168, axis = "layer" }) {
  let series = [], hovered = -1, xOf = () => 0;
  const nearest = (x) => {
    const step = labels.length > 1 ? xOf(1) - xOf(0) : 1;
    return within(Math.round((x - xOf(0)) / step), labels.length);
  };
  const canvas = cellCanvas(title, { at: (x) => nearest(x), hover: (i) => { hovered = i ?? -1; draw(); },
    pick: (i) => page.select({ layer: labels[i] }),
    move: (dx) => page.select({ layer: labels[within(page.row(labels, labels.length - 1) + dx, labels.length)] }) });
  const readout = h("p", { class: "chart-values", "aria-live": "polite" });

  function draw() {
    const { theme } = page, { context: c, width } = prepareCanvas(canvas, LINE_TOP + tall + LINE_BOTTOM);
    const wide = width - LINE_LEFT - LINE_RIGHT, last = labels.length - 1, { y, ticks } = lineScale(kind, series, tall);
    xOf = (i) => LINE_LEFT + (last ? i / last : 0.5) * wide;
    c.font = theme.font;
    c.textBaseline = "middle";
    c.textAlign = "right";
    for (const tick of ticks) {
      c.fillStyle = theme.line;
      c.fillRect(LINE_LEFT, y(tick) - 0.5, wide, 1);
      c.fillStyle = theme.soft;
      c.fillText(number(tick, 3), LINE_LEFT - 7, y(tick));
    }
    c.textAlign = "center";
    const every = Math.max(1, Math.ceil(labels.length * 30 / wide)), shown = hovered >= 0 ? hovered : page.row(labels);
    for (let i = 0; i <= last; i++) if ((last - i) % every === 0) c.fillText(shortLabel(labels[i]), xOf(i), LINE_TOP + tall + 12);
    c.fillText(axis, LINE_LEFT + wide / 2, LINE_TOP + tall + 27);
    if (shown >= 0) {
      c.fillStyle = hovered >= 0 ? theme.soft : theme.accent;
      c.fillRect(xOf(shown) - 0.5, LINE_TOP, 1, tall);
    }
    series.forEach((s, n) => {
      Object.assign(c, { strokeStyle: s.colour, fillStyle: s.colour, lineWidth: 1.8, lineJoin: "round" });
      c.setLineDash(DASHES[n % DASHES.length]);
      c.beginPath();
      let going = false;
      for (let i = 0; i <= last; i++) {
        const v = s.values[i], fits = Number.isFinite(v) && (kind === "probability" || v > 0);
        if (fits && going) c.lineTo(xOf(i), y(v)); else if (fits) c.moveTo(xOf(i), y(v));
        going = fits;
      }
      c.stroke();
      c.setLineDash([]);
      for (let i = 0; i <= last; i++) {
        if (!(Number.isFinite(s.values[i]) && (kind === "probability" || s.values[i] > 0)) || (last > 40 && i !== shown)) continue;
        c.beginPath();
        c.arc(xOf(i), y(s.values[i]), i === shown ? 3.6 : 2.3, 0, 7);
        c.fill();
      }
    });
    readout.replaceChildren(...(shown < 0 ? ["point at a layer to read its values, click to select it"] : [`${axis} ${labels[shown]}: `,
      ...series.flatMap((s, n) => [n ? ", " : "", h("span", { style: { color: s.colour } }, s.name), " ", h("b", {}, number(s.values[shown], 3))])]));
  }

  return { node: h("figure", { class: "lines" }, h("figcaption", {}, title), canvas, readout),
    show(next) { series = next; draw(); } };
}

// The key of a set of lines: colour and dash of each.
export function lineKey(series, theme) {
  return h("ul", { class: "key" }, series.map((s, n) => {
    const sample = h("canvas", { class: "dash", width: 52, height: 12, "aria-hidden": "true" }), c = sample.getContext("2d");
    Object.assign(c, { strokeStyle: s.colour, lineWidth: 4 });
    c.setLineDash(DASHES[n % DASHES.length].map((d) => 2 * d));
    c.beginPath();
    c.moveTo(0, 6);
    c.lineTo(52, 6);
    c.stroke();
    return h("li", {}, sample, h("bdi", {}, s.name));
  }));
}

