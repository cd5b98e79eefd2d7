// Massive activations: one layer's magnitudes as a surface over tokens and channels, all layers as lines.

import { h, placePlate, plate, prepareCanvas } from "./dom.js";
import { number, shortLabel, signed } from "./format.js";
import { button, cellCanvas, choices, inQuotes, longRows, tokenNames, topOf, upTo, within } from "./kit.js";
import { layerLines, lineKey } from "./lines.js";
import { dataTable, fold } from "./tables.js";

const RELIEF_HEIGHT = 530, RIDGES = 128;

export function drawMassive(picture, page) {
  const data = picture.data, { labels, tokens, width, top, median, places, signedTop } = data, [T, C] = data.surface.shape;
  const values = data.surface.values, names = tokenNames(tokens), bunch = Math.ceil(T / RIDGES), ridges = Math.ceil(T / bunch);
  const limit = topOf(values, Math.abs) || 1, quiet = median.values[data.row] || limit / 1000;
  const highs = { linear: (v) => v / limit, log: (v) => Math.log1p(v / quiet) / Math.log1p(limit / quiet) };
  let high = highs.linear, yaw = -0.5, pitch = 0.5, hovered = null, drag = null, shape = null;
  // Texts longer than the ridges: each stands for a few tokens, channel by channel the largest.
  const token = new Uint32Array(ridges * C), size = new Float32Array(ridges * C);
  for (let i = 0; i < ridges; i++) for (let c = 0; c < C; c++) {
    let best = i * bunch;
    for (let t = best; t < Math.min(T, (i + 1) * bunch); t++) if (Math.abs(values[t * C + c]) > Math.abs(values[best * C + c])) best = t;
    token[i * C + c] = best;
    size[i * C + c] = Math.abs(values[best * C + c]);
  }

  // What is not a number lies flat; what is infinite goes to the top.
  const lift = (z) => (z === z ? Math.min(1, high(Math.min(z, limit))) : 0);

  // Places on the floor run from -1 to 1 along the channels and along the tokens; height from 0 to 1.
  function projection(wide) {
    const [cos, sin] = [Math.cos(yaw), Math.sin(yaw)], deep = 0.62, tall = 262 * Math.cos(pitch);
    const spread = Math.min(520, (wide / 2 - 62) / (cos + deep * Math.abs(sin))), lean = Math.abs(sin) + deep * cos;
    const flat = Math.min(0.75 * Math.sin(pitch), (RELIEF_HEIGHT - 70 - tall) / 2 / (spread * lean)), middle = 24 + tall + spread * lean * flat;
    const x = (u, v) => wide / 2 + spread * (u * cos - v * deep * sin);
    const y = (u, v, z) => middle + spread * (u * sin + v * deep * cos) * flat - tall * z;
    return { tall, x, y, u: (c) => (C > 1 ? 2 * c / (C - 1) - 1 : 0), v: (i) => (ridges > 1 ? 2 * i / (ridges - 1) - 1 : 0) };
  }

  const relief = cellCanvas(picture.alt, {
    at: (px, py) => {
      if (!shape) return null;
      let best = null, taken = -1;
      for (let i = 0; i < ridges; i++) for (let c = 0; c < C; c++) {
        const u = shape.u(c), v = shape.v(i), z = size[i * C + c];
        if (!(z > taken) || Math.abs(shape.x(u, v) - px) > 5) continue;
        if (py > shape.y(u, v, 0) + 4 || py < shape.y(u, v, lift(z)) - 6) continue;
        taken = z;
        best = { i, c };
      }
      return best;
    },
    hover: (found) => { hovered = found; if (!drag) drawRelief(); },
    pick: ({ i, c }) => { if (!drag || !drag.moved) page.select({ token: token[i * C + c], channel: c * width }); },
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
  const channelName = (c) => (width > 1 ? `${c * width} to ${Math.min(data.channels, (c + 1) * width) - 1}` : c);
  const turn = (dx, dy) => {
    yaw = Math.max(-1.25, Math.min(1.25, yaw + dx));
    pitch = Math.max(0.12, Math.min(1.25, pitch + dy));
    drawRelief();
  };
  const readout = h("p", { class: "legend-text", "aria-live": "polite" });

  function drawFloor(c, { x, y, u, v }, theme) {
    c.strokeStyle = theme.line;
    c.fillStyle = theme.soft;
    c.lineWidth = 1;
    c.beginPath();
    for (const [a, b] of [[-1, -1], [1, -1], [1, 1], [-1, 1]]) c.lineTo(x(a, b), y(a, b, 0));
    c.closePath();
    c.stroke();
    const total = data.channels, left = yaw < 0 ? -1 : 1;
    c.textAlign = "center";
    for (const part of [0, 0.25, 0.5, 0.75, 1]) {
      const at = Math.round(part * (C - 1));
      c.fillText(Math.min(total - 1, at * width), x(u(at), 1), y(u(at), 1, 0) + 14);
    }
    c.fillText("channel", x(0, 1), y(0, 1, 0) + 32);
    c.textAlign = left < 0 ? "right" : "left";
    const every = Math.ceil(ridges / 8);
    for (let i = 0; i < ridges; i += every) c.fillText(names[i * bunch], x(left, v(i)) + 8 * left, y(left, v(i), 0) + 4);
    c.textAlign = left < 0 ? "left" : "right";
    for (const part of high === highs.log ? [0, 0.001, 0.01, 0.1, 1] : [0, 0.25, 0.5, 0.75, 1]) {
      const value = limit * part, [px, py] = [x(-left, -1), y(-left, -1, high(value))];
      c.fillRect(px - 3 * (left < 0 ? 0 : 1), py - 0.5, 4, 1);
      if (part === 0 || high(value) > 0.08) c.fillText(number(value, 3), px - 8 * left, py);
    }
    c.beginPath();
    c.moveTo(x(-left, -1), y(-left, -1, 0));
    c.lineTo(x(-left, -1), y(-left, -1, 1));
    c.stroke();
  }

  function drawRelief() {
    const { theme } = page, { context: c, width: wide } = prepareCanvas(relief, RELIEF_HEIGHT), p = shape = projection(wide);
    const chosen = page.index("token", T), channel = page.index("channel", data.channels), ridge = chosen < 0 ? -1 : Math.floor(chosen / bunch);
    c.font = theme.font;
    c.textBaseline = "middle";
    c.lineJoin = "round";
    drawFloor(c, p, theme);
    for (let i = 0; i < ridges; i++) {
      const v = p.v(i), [ax, ay, dx, dy] = [p.x(-1, v), p.y(-1, v, 0), p.x(1, v) - p.x(-1, v), p.y(1, v, 0) - p.y(-1, v, 0)];
      // Across the ridge's foot, so that equal heights have equal colours.
      const up = p.tall * dx / (dx * dx + dy * dy), grade = c.createLinearGradient(ax, ay, ax + dy * up, ay - dx * up);
      for (let s = 0; s <= 4; s++) grade.addColorStop(s / 4, s ? page.shade(0.35 + 0.6 * s / 4) : theme.faint);
      const line = new Path2D();
      for (let k = 0; k < C; k++) line.lineTo(p.x(p.u(k), v), p.y(p.u(k), v, lift(size[i * C + k])));
      const body = new Path2D(line);
      body.lineTo(p.x(1, v), p.y(1, v, 0));
      body.lineTo(p.x(-1, v), p.y(-1, v, 0));
      Object.assign(c, { fillStyle: theme.paper, globalAlpha: 0.7, strokeStyle: i === ridge ? theme.accent : grade, lineWidth: i === ridge ? 1.6 : 1.1 });
      c.fill(body);
      c.globalAlpha = 1;
      c.stroke(line);
    }
    const column = channel < 0 ? -1 : Math.floor(channel / width);
    if (column >= 0) {
      c.strokeStyle = theme.accent;
      c.beginPath();
      for (let i = 0; i < ridges; i++) c.lineTo(p.x(p.u(column), p.v(i)), p.y(p.u(column), p.v(i), lift(size[i * C + column])));
      c.stroke();
    }
    const marks = peaks().map((mark) => ({ ...mark, strong: false }));
    if (hovered) marks.unshift({ ...hovered, strong: true });
    else if (ridge >= 0 && column >= 0) marks.unshift({ i: ridge, c: column, strong: true });
    const taken = [];
    c.textAlign = "left";
    for (const mark of marks) {
      const x = p.x(p.u(mark.c), p.v(mark.i)), y = p.y(p.u(mark.c), p.v(mark.i), lift(size[mark.i * C + mark.c]));
      c.fillStyle = mark.strong ? theme.accent : theme.ink;
      c.beginPath();
      c.arc(x, y, 3, 0, 7);
      c.fill();
      const t = token[mark.i * C + mark.c], text = `${names[t]} · ${channelName(mark.c)}  ${signed(values[t * C + mark.c], 3)}`;
      const at = placePlate(taken, x, y, c.measureText(text).width + 8, 2, wide - 2, 0, RELIEF_HEIGHT);
      if (at) plate(c, text, at[0], at[1], theme, mark.strong);
    }
    const shown = marks[0], t = shown && token[shown.i * C + shown.c];
    readout.replaceChildren(...(shown ? [`Layer ${labels[data.row]}, token ${t} `, h("bdi", {}, inQuotes(tokens[t])), `, channel ${channelName(shown.c)}: `,
      h("b", {}, signed(values[t * C + shown.c], 5)), hovered || shown.strong ? "" : ", the largest"] : ["No value is a finite number above zero."]));
    if (shown) Object.assign(readout.dataset, { token: t, channel: shown.c * width, value: values[t * C + shown.c] });
  }

  // The three largest of the surface, channels apart.
  function peaks() {
    const found = [];
    for (let n = 0; n < 3; n++) {
      let best = -1;
      for (let k = 0; k < size.length; k++) if (size[k] > 0 && Number.isFinite(size[k]) && !found.includes(k) && (best < 0 || size[k] > size[best])) best = k;
      if (best >= 0) found.push(best);
    }
    return found.map((k) => ({ i: Math.floor(k / C), c: k % C }));
  }

  const lines = layerLines(page, { title: "Largest three magnitudes and the median, by layer", kind: "log", labels, tall: 210 });
  const key = h("div", {}), series = () => ["top 1", "top 2", "top 3"].map((name, n) => ({ name, values: labels.map((_, r) => top.values[r * 3 + n]),
    colour: page.theme.models[n] })).concat({ name: "median", values: median.values, colour: page.theme.soft });
  page.listen(() => {
    drawRelief();
    key.replaceChildren(lineKey(series()));
    lines.show(series());
  });
  const place = (r, n) => { const t = places.values[(r * 3 + n) * 2]; return h("bdi", {}, `${number(signedTop.values[r * 3 + n])} at ${names[t] ?? t} · ${places.values[(r * 3 + n) * 2 + 1]}`); };
  const node = h("div", {}, h("div", { class: "tools bar" }, choices("Height", [["linear", "linear"], ["log", "log"]], (name) => { high = highs[name]; drawRelief(); }),
    button("⟲", "Turn left", () => turn(-0.2, 0)), button("⟳", "Turn right", () => turn(0.2, 0)), button("⇡", "Look flatter", () => turn(0, -0.12)), button("⇣", "Look from above", () => turn(0, 0.12)),
    h("span", { class: "quiet" }, "drag to turn")),
  h("div", { class: "relief" }, relief, readout), key, lines.node,
  fold("The places of the largest values, layer by layer (value at token · channel)", dataTable("", [{ name: "layer" }, { name: "top 1", text: true }, { name: "top 2", text: true },
    { name: "top 3", text: true }, { name: "median" }], labels.map((label, r) => [shortLabel(label), place(r, 0), place(r, 1), place(r, 2), number(median.values[r], 3)]))));
  node.csv = () => longRows([["layer", labels], ["place", [1, 2, 3]]], { magnitude: top.values, value: signedTop.values,
    token: places.values.filter((_, i) => i % 2 === 0), channel: places.values.filter((_, i) => i % 2 === 1), median: labels.flatMap((_, r) => upTo(3).map(() => median.values[r])) });
  return node;
}
