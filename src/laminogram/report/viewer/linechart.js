// Small charts of one statistic by layer: a line a model, dashed where the first token counts too.

import { h } from "./dom.js";
import { number, shortLabel } from "./format.js";

const W = 300, H = 168, LEFT = 44, RIGHT = 12, TOP = 10, BOTTOM = 24;
const SHAPES = ["M-3.2 0a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0-6.4 0", "M-3-3h6v6h-6z", "M0-4L3.6 3H-3.6z", "M0-4L4 0L0 4L-4 0z"];

function axis(kind, values) {
  const real = values.filter((v) => Number.isFinite(v));
  let low = Math.min(...real), high = Math.max(...real);
  if (!real.length) [low, high] = [0, 1];
  let fold = (v) => v, ticks = [];
  if (kind === "log" && low > 0) {
    fold = Math.log10;
    // The coarsest grid that puts three marks in the range.
    for (const grid of [[1], [1, 3], [1, 2, 3, 5], [1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9]]) {
      ticks = [];
      for (let e = Math.floor(fold(low)); e <= Math.ceil(fold(high)); e++) ticks.push(...grid.map((m) => m * 10 ** e));
      if (ticks.filter((t) => t >= low * 0.9 && t <= high * 1.1).length > 2) break;
    }
  } else if (kind === "log" || kind === "symlog") {
    fold = (v) => Math.sign(v) * Math.log10(1 + Math.abs(v));
    low = Math.min(low, 0);
    ticks = [0, 1, 10, 100, 1e3, 1e4, 1e5, 1e6].flatMap((t) => (t ? [t, -t] : [t]));
  } else {
    low = Math.min(0, low);
    const rough = (high - low || 1) / 4, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].find((s) => s * power >= rough) * power;
    for (let t = Math.ceil(low / step) * step; t <= high + step / 2; t += step) ticks.push(+t.toPrecision(10));
  }
  let [a, b] = [fold(low), fold(high)];
  const room = (b - a || Math.abs(a) || 1) * 0.06;
  [a, b] = [a - (kind === "log" || low < 0 ? room : 0), b + room];
  const y = (v) => TOP + (H - TOP - BOTTOM) * (1 - (fold(v) - a) / (b - a));
  const inside = ticks.filter((t) => fold(t) >= a - 1e-9 && fold(t) <= b + 1e-9);
  const thin = Math.ceil(inside.length / 6), kept = [];
  for (const t of inside.sort((p, q) => p - q).filter((_, i) => i % thin === 0)) {
    if (!kept.length || y(kept[kept.length - 1]) - y(t) >= 13) kept.push(t);
  }
  return { y, ticks: kept };
}

export function lineChart({ title, formula, kind, series, labels, digits = 3 }) {
  const most = Math.max(...series.map((s) => s.rest.length));
  const { y, ticks } = axis(kind, series.flatMap((s) => [...s.rest, ...s.all]));
  const x = (i) => LEFT + (W - LEFT - RIGHT) * (most > 1 ? i / (most - 1) : 0.5);
  const svg = h("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${title} by layer; the numbers are in the table below` });
  for (const t of ticks) {
    svg.append(h("line", { class: "grid", x1: LEFT, x2: W - RIGHT, y1: y(t), y2: y(t) }),
      h("text", { x: LEFT - 7, y: y(t) + 3.5, "text-anchor": "end" }, number(t, 2)));
  }
  const every = Math.ceil(most / 8);
  for (let i = 0; i < most; i += every) svg.append(h("text", { x: x(i), y: H - 7, "text-anchor": "middle" }, shortLabel(labels[i])));
  const guide = h("line", { class: "guide", y1: TOP, y2: H - BOTTOM, visibility: "hidden" });
  svg.append(guide);
  series.forEach((s, which) => {
    const path = (values) => values.map((v, i) => (Number.isFinite(v) ? [x(i), y(v)] : null))
      .reduce((d, p) => (p ? d + (d ? "L" : "M") + p[0].toFixed(1) + " " + p[1].toFixed(1) : d), "");
    const group = h("g", { class: "series" });
    group.style.setProperty("--model", s.colour);
    group.append(h("path", { class: "all", d: path(s.all) }), h("path", { class: "rest", d: path(s.rest) }));
    s.rest.forEach((v, i) => {
      if (!Number.isFinite(v) || most > 40) return;
      group.append(h("path", { class: "mark", d: SHAPES[which % SHAPES.length], transform: `translate(${x(i).toFixed(1)} ${y(v).toFixed(1)})` }));
    });
    svg.append(group);
  });
  const values = h("p", { class: "chart-values" }, formula);
  const point = (event) => {
    const box = svg.getBoundingClientRect(), at = (event.clientX - box.left) / box.width * W;
    const i = Math.max(0, Math.min(most - 1, Math.round((at - LEFT) / (W - LEFT - RIGHT) * (most - 1))));
    guide.setAttribute("x1", x(i));
    guide.setAttribute("x2", x(i));
    guide.setAttribute("visibility", "visible");
    values.replaceChildren(`layer ${labels[i]}: `, ...series.flatMap((s, n) => {
      const b = h("b", { style: { color: s.colour } }, number(s.rest[i], digits));
      return [n ? ", " : "", b, ` (${number(s.all[i], digits)})`];
    }));
  };
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerleave", () => {
    guide.setAttribute("visibility", "hidden");
    values.replaceChildren(formula);
  });
  return h("figure", { class: "chart" }, h("figcaption", {}, title), svg, values);
}
