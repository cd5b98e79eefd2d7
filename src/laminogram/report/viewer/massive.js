// Massive activations: one layer as a surface over tokens and channels, all layers as lines.

import { dot, h, letter, namePlates, polyline, prepareCanvas } from "./dom.js";
import { inQuotes, number, signed } from "./format.js";
import { button, cellCanvas, choices, topOf, upTo } from "./kit.js";
import { lineChart, lineKey } from "./lines.js";
import { dataTable, fold } from "./tables.js";

const RELIEF_HEIGHT = 530;

export function drawMassive(picture, page) {
  const { labels, tokens, names, width, bunch, channels, columns, row, peaks, surface, surfaceTokens, top, median } = picture.data;
  // A ridge is a token, or a few tokens' largest, channel by channel.
  const [ridges, C] = surface.shape;
  const limit = topOf(surface, Math.abs) || 1, quiet = median[row] || limit / 1000;
  const heights = [{ name: "linear", high: (v) => v / limit }, { name: "log", high: (v) => Math.log1p(v / quiet) / Math.log1p(limit / quiet) }];
  let { high } = heights[0], yaw = -0.5, pitch = 0.5, hovered = null, drag = null, shape = null;
  const tokenOf = ({ i, c }) => (surfaceTokens ? surfaceTokens[i * C + c] : i);
  const size = (i, c) => Math.abs(surface[i * C + c]);
  // What is not a number lies flat; what is infinite goes to the top.
  const lift = (z) => (z === z ? Math.min(1, high(Math.min(z, limit))) : 0);

  // Places on the floor run from -1 to 1 along channels and tokens; height from 0 to 1.
  function projection(wide) {
    const [cos, sin] = [Math.cos(yaw), Math.sin(yaw)], deep = 0.62, tall = 262 * Math.cos(pitch);
    const spread = Math.min(520, (wide / 2 - 62) / (cos + deep * Math.abs(sin))), lean = Math.abs(sin) + deep * cos;
    const flat = Math.min(0.75 * Math.sin(pitch), (RELIEF_HEIGHT - 70 - tall) / 2 / (spread * lean)), middle = 24 + tall + spread * lean * flat;
    const at = (u, v, z = 0) => [wide / 2 + spread * (u * cos - v * deep * sin), middle + spread * (u * sin + v * deep * cos) * flat - tall * z];
    const u = (c) => (C > 1 ? 2 * c / (C - 1) - 1 : 0), v = (i) => (ridges > 1 ? 2 * i / (ridges - 1) - 1 : 0);
    return { tall, at, u, v, peak: (i, c) => at(u(c), v(i), lift(size(i, c))) };
  }

  const relief = cellCanvas(picture.alt, {
    at: (px, py) => {
      let best = null, taken = -1;
      for (let i = 0; shape && i < ridges; i++) for (let c = 0; c < C; c++) {
        const z = size(i, c), [x, foot] = shape.at(shape.u(c), shape.v(i));
        if (!(z > taken) || Math.abs(x - px) > 5 || py > foot + 4 || py < foot - shape.tall * lift(z) - 6) continue;
        taken = z;
        best = { i, c };
      }
      return best;
    },
    hover: (found) => { hovered = found; if (!drag) drawRelief(); },
    pick: (found) => { if (!drag || !drag.moved) page.select({ token: tokenOf(found), channel: found.c * width }); },
    move: (dx, dy) => turn(0.1 * dx, -0.06 * dy) });
  relief.addEventListener("pointerdown", (event) => { drag = { x: event.clientX, y: event.clientY, moved: false }; });
  relief.addEventListener("pointermove", (event) => {
    if (!drag || !event.buttons) { drag = null; return; }
    const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
    if (!drag.moved && Math.hypot(dx, dy) < 4) return;
    drag = { x: event.clientX, y: event.clientY, moved: true };
    turn(dx * 0.006, dy * 0.004);
  });
  relief.addEventListener("pointerleave", () => { drag = null; });
  const turn = (dx, dy) => {
    yaw = Math.max(-1.25, Math.min(1.25, yaw + dx));
    pitch = Math.max(0.12, Math.min(1.25, pitch + dy));
    drawRelief();
  };
  const readout = h("p.legend-text", { "aria-live": "polite" });

  function drawFloor(c, { at, u, v }, { line, soft }) {
    const left = yaw < 0 ? -1 : 1, [inner, outer] = left < 0 ? ["left", "right"] : ["right", "left"];
    polyline(c, [[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]].map(([a, b]) => at(a, b)), line);
    polyline(c, [at(-left, -1), at(-left, -1, 1)], line);
    for (const part of [0, 0.25, 0.5, 0.75, 1]) {
      const column = Math.round(part * (C - 1)), [x, y] = at(u(column), 1);
      letter(c, Math.min(channels - 1, column * width), x, y + 14, soft);
    }
    const [x, y] = at(0, 1);
    letter(c, "channel", x, y + 32, soft);
    for (let i = 0; i < ridges; i += Math.ceil(ridges / 8)) {
      const [tx, ty] = at(left, v(i));
      letter(c, names[i * bunch], tx + 8 * left, ty + 4, soft, outer);
    }
    for (const part of high === heights[1].high ? [0, 0.001, 0.01, 0.1, 1] : [0, 0.25, 0.5, 0.75, 1]) {
      const z = high(limit * part), [px, py] = at(-left, -1, z);
      if (part === 0 || z > 0.08) letter(c, number(limit * part, 3), px - 8 * left, py, soft, inner);
      polyline(c, [[px, py], [px - 4 * left, py]], soft);
    }
  }

  function drawRelief() {
    const { theme } = page, { context: c, width: wide } = prepareCanvas(relief, RELIEF_HEIGHT, theme), p = shape = projection(wide), every = upTo(C);
    const token = page.index("token", tokens.length), channel = page.index("channel", channels);
    const ridge = token < 0 ? -1 : Math.floor(token / bunch), column = channel < 0 ? -1 : Math.floor(channel / width);
    c.lineJoin = "round";
    drawFloor(c, p, theme);
    for (let i = 0; i < ridges; i++) {
      const [[ax, ay], [bx, by]] = [-1, 1].map((u) => p.at(u, p.v(i))), [dx, dy] = [bx - ax, by - ay];
      // Across the ridge's foot, so that equal heights have equal colours.
      const up = p.tall * dx / (dx * dx + dy * dy), grade = c.createLinearGradient(ax, ay, ax + dy * up, ay - dx * up);
      for (let s = 0; s <= 4; s++) grade.addColorStop(s / 4, s ? page.shade(0.35 + 0.6 * s / 4) : theme.faint);
      const line = every.map((k) => p.peak(i, k)), body = new Path2D();
      for (const [x, y] of [...line, [bx, by], [ax, ay]]) body.lineTo(x, y);
      Object.assign(c, { fillStyle: theme.paper, globalAlpha: 0.7 });
      c.fill(body);
      c.globalAlpha = 1;
      polyline(c, line, i === ridge ? theme.accent : grade, i === ridge ? 1.6 : 1.1);
    }
    if (column >= 0) polyline(c, upTo(ridges).map((i) => p.peak(i, column)), theme.accent);
    // What is pointed at or selected, and the three largest.
    const first = hovered || (ridge >= 0 && column >= 0 ? { i: ridge, c: column } : null);
    const marks = [first && { ...first, strong: true }, ...peaks.map(([i, k]) => ({ i, c: k }))].filter(Boolean).map((mark) => {
      const [x, y] = p.peak(mark.i, mark.c), value = surface[mark.i * C + mark.c], t = tokenOf(mark);
      return { ...mark, x, y, t, value, text: `${names[t]} · ${columns[mark.c]}  ${signed(value, 3)}` };
    });
    for (const { x, y, strong } of marks) dot(c, x, y, 3, strong ? theme.accent : theme.ink);
    namePlates(c, marks, [2, wide - 2, 0, RELIEF_HEIGHT], theme);
    const [shown] = marks;
    readout.replaceChildren(...(shown ? [`Layer ${labels[row]}, token ${shown.t} `, h("bdi", inQuotes(tokens[shown.t])), `, channel ${columns[shown.c]}: `,
      h("b", signed(shown.value, 5)), shown.strong ? "" : ", the largest"] : ["No value is a finite number above zero."]));
    if (shown) Object.assign(readout.dataset, { token: shown.t, channel: shown.c * width, value: shown.value });
  }

  const lines = lineChart(page, { title: "Largest three magnitudes and the median, by layer", kind: "log", labels, tall: 210 }), key = h("div");
  const series = () => [0, 1, 2].map((n) => ({ name: `top ${n + 1}`, values: upTo(labels.length).map((r) => top[r * 3 + n]), colour: page.theme.models[n] }))
    .concat({ name: "median", values: median, colour: page.theme.soft });
  page.listen(() => {
    drawRelief();
    key.replaceChildren(lineKey(series()));
    lines.show(series());
  });
  return h("div", h("div.tools.bar", choices("Height", heights, (one) => { high = one.high; drawRelief(); }),
    [["⟲", "Turn left", -0.2, 0], ["⟳", "Turn right", 0.2, 0], ["⇡", "Look flatter", 0, -0.12], ["⇣", "Look from above", 0, 0.12]]
      .map(([sign, label, dx, dy]) => button(sign, label, () => turn(dx, dy))), h("span.quiet", "drag to turn")),
  h("div.relief", relief, readout), key, lines.node, fold("The places of the largest values, layer by layer", dataTable(picture.data.table)));
}
