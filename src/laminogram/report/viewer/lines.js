// Lines: hover reads the values, a click selects.

import { h, letter, polyline, prepareCanvas } from "./dom.js";
import { number, shortLabel } from "./format.js";
import { cellCanvas, upTo, within } from "./kit.js";

const LINE_LEFT = 46, LINE_RIGHT = 18, LINE_TOP = 8, LINE_BOTTOM = 34, DASHES = [[], [7, 3], [2, 3], [9, 3, 2, 3], [4, 4]], CORNERS = [24, 4, 3, 5];
const GRIDS = [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9]];

// Marks tell lines apart without colours: so many corners each.
function lineMark(c, corners, x, y, radius, colour) {
  c.fillStyle = colour;
  c.beginPath();
  for (let i = 0; i < corners; i++) c.lineTo(x + radius * Math.sin(2 * Math.PI * i / corners), y - radius * Math.cos(2 * Math.PI * i / corners));
  c.fill();
}

// Ticks to choose from, ascending.
function axisTicks(kind, low, high) {
  const both = kind === "symlog";
  if (!both && kind !== "log" && kind !== "rank") {
    const rough = (high - low || 1) / 4, power = 10 ** Math.floor(Math.log10(rough)), step = [1, 2, 2.5, 5, 10].find((s) => s * power >= rough) * power;
    return upTo(7).map((i) => +((Math.ceil(low / step) + i) * step).toPrecision(10));
  }
  // The coarsest with three marks in the range.
  const [from, to] = both ? [0, 5] : [low, high].map((v) => Math.floor(Math.log10(v))), decades = upTo(to - from + 2).map((i) => from + i);
  const grids = GRIDS.map((grid) => decades.flatMap((e) => grid.map((m) => m * 10 ** e))).map((up) => (both ? [...up.map((t) => -t).reverse(), 0, ...up] : up));
  return grids.find((ticks) => ticks.filter((t) => t > low * 0.9 && t < high * 1.1).length > 2) || grids[3];
}

// kind: "probability" (0 to 1), "linear" (from 0), "symlog", "log" or "rank" (a log, 1 at the top).
function lineScale(asked, series, tall) {
  const all = series.flatMap((s) => [s.values, s.dashed, s.low, s.high].flatMap((some) => (some ? [...some] : []))).filter(Number.isFinite), whole = asked === "probability";
  let kind = asked === "log" && all.some((v) => v <= 0) ? "symlog" : asked;
  if (kind === "symlog" && all.every((v) => v * v < 1)) kind = "linear";
  const ratio = kind === "log" || kind === "rank";
  const fits = (v) => Number.isFinite(v) && (!ratio || v > 0), known = all.filter(fits);
  let [low, high] = known.length ? [Math.min, Math.max].map((most) => known.reduce((a, b) => most(a, b))) : [+ratio, 1];
  if (kind === "rank") low = 1;
  else if (whole) [low, high] = [0, 1];
  else if (!ratio) low = Math.min(0, low);
  if (ratio) high = Math.max(high, 2 * low);
  const fold = ratio ? Math.log10 : kind === "symlog" ? (v) => Math.sign(v) * Math.log10(1 + Math.abs(v)) : (v) => v;
  const room = whole ? 0 : (fold(high) - fold(low) || 1) * 0.06, start = fold(low) - (ratio || low < 0 ? room : 0), end = fold(high) + room;
  const place = (v) => (fold(v) - start) / (end - start), y = (v) => LINE_TOP + tall * (kind === "rank" ? place(v) : 1 - place(v));
  const ticks = axisTicks(kind, low, high).filter((t) => place(t) > -1e-9 && place(t) < 1 + 1e-9), every = Math.ceil(ticks.length / 6);
  return { fits, y, ticks: ticks.filter((_, i) => i % every === 0) };
}

// `axis` is what a click selects: a token by its number, all else by its label. `about` stands below
// while nothing is pointed at. A series has its values, a second line or the ends of intervals.
export function lineChart(page, { title, kind, labels, tall = 168, axis = "layer", about = `point at a ${axis} to read its values, click to select it` }) {
  const last = labels.length - 1, chosen = (otherwise) => (axis === "token" ? page.index(axis, labels.length, otherwise) : page.row(labels, otherwise, axis));
  let series = [], hovered = -1, xOf = () => 0;
  const pick = (i) => page.select({ [axis]: axis === "token" ? i : labels[i] });
  const canvas = cellCanvas(title, { pick, at: (x) => within(Math.round((x - xOf(0)) / (last > 0 ? xOf(1) - xOf(0) : 1)), labels.length),
    hover: (i) => { hovered = i ?? -1; draw(); }, move: (dx) => pick(within(chosen(last) + dx, labels.length)) });
  const readout = h("p.chart-values", { "aria-live": "polite" });

  // A line breaks where a value is missing.
  function trace(c, values, colour, dash, { y, fits }) {
    c.setLineDash(dash);
    let run = [];
    for (let i = 0; i <= last + 1; i++) {
      if (i <= last && fits(values[i])) run.push([xOf(i), y(values[i])]);
      else { polyline(c, run, colour, 1.8); run = []; }
    }
    c.setLineDash([]);
  }

  function draw() {
    const { theme } = page, { context: c, width } = prepareCanvas(canvas, LINE_TOP + tall + LINE_BOTTOM, theme);
    const wide = width - LINE_LEFT - LINE_RIGHT, scale = lineScale(kind, series, tall), shown = hovered >= 0 ? hovered : chosen(-1);
    xOf = (i) => LINE_LEFT + (last > 0 ? i / last : 0.5) * wide;
    for (const tick of scale.ticks) {
      polyline(c, [[LINE_LEFT, scale.y(tick)], [LINE_LEFT + wide, scale.y(tick)]], theme.line);
      letter(c, number(tick, 3), LINE_LEFT - 7, scale.y(tick), theme.soft, "right");
    }
    const every = Math.max(1, Math.ceil(labels.length * 30 / wide));
    for (let i = last; i >= 0; i -= every) letter(c, shortLabel(labels[i]), xOf(i), LINE_TOP + tall + 12, theme.soft);
    letter(c, axis, LINE_LEFT + wide / 2, LINE_TOP + tall + 27, theme.soft);
    if (shown >= 0) polyline(c, [[xOf(shown), LINE_TOP], [xOf(shown), LINE_TOP + tall]], hovered >= 0 ? theme.soft : theme.accent);
    c.lineJoin = "round";
    series.forEach((s, n) => {
      if (s.dashed) trace(c, s.dashed, s.colour, [3, 3], scale);
      trace(c, s.values, s.colour, s.dashed ? [] : DASHES[n % DASHES.length], scale);
      for (let i = 0; i <= last; i++) {
        if (s.low && scale.fits(s.low[i])) polyline(c, [[xOf(i), scale.y(s.low[i])], [xOf(i), scale.y(s.high[i])]], s.colour, 1.4);
        if (scale.fits(s.values[i]) && (last <= 40 || i === shown)) lineMark(c, CORNERS[n % CORNERS.length], xOf(i), scale.y(s.values[i]), i === shown ? 4.4 : 3, s.colour);
      }
    });
    readout.replaceChildren(...(shown < 0 ? [about] : [`${axis} ${labels[shown]}: `, ...series.flatMap((s, n) => [n ? ", " : "",
      h("span", { style: { color: s.colour } }, s.name), " ", h("b", number(s.values[shown], 3)), s.dashed ? ` (${number(s.dashed[shown], 3)})` : "",
      s.low ? ` (${number(s.low[shown], 3)} to ${number(s.high[shown], 3)})` : ""])]));
  }

  return { node: h("figure.lines", h("figcaption", title), canvas, readout), draw, show(next) { series = next; draw(); } };
}

// The key of a set of lines: colour and dash of each.
export function lineKey(series) {
  return h("ul.key", series.map((s, n) => {
    const sample = h("canvas.dash", { width: 52, height: 12, "aria-hidden": "true" }), c = sample.getContext("2d");
    c.setLineDash(s.dashed ? [] : DASHES[n % DASHES.length].map((d) => 2 * d));
    polyline(c, [[0, 6], [52, 6]], s.colour, 4);
    return h("li", sample, h("bdi", s.name));
  }));
}
