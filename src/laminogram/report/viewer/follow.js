// One channel over the text, and the same one in the other layers.

import { dot, drawCached, letter, polyline, prepareCanvas } from "./dom.js";
import { EDGE, GUTTER } from "./heatmap.js";

const FOLLOW_HEIGHT = 92;

export function drawFollow(canvas, { recording, token, scale, theme, pin, store }) {
  const frame = prepareCanvas(canvas, FOLLOW_HEIGHT, theme), { context: c, width, height } = frame;
  const wide = width - GUTTER - EDGE, cell = wide / recording.tokens, middle = height / 2 - 4, swing = middle - 6;
  const xOf = (t) => GUTTER + (t + 0.5) * cell, yOf = (v) => middle - swing * scale.place(v), every = [...Array(recording.tokens).keys()];
  c.fillStyle = theme.band;
  c.fillRect(xOf(token) - Math.max(1.5, cell / 2), 2, Math.max(3, cell), height - 14);
  c.fillStyle = theme.line;
  c.fillRect(GUTTER, middle - 0.5, wide, 1);
  if (pin) {
    drawCached(store, "others", [scale.kind, theme.name, pin.row, pin.column], frame, (others) => {
      for (let row = 0; row < recording.rows; row++) {
        if (row !== pin.row) polyline(others, every.map((t) => [xOf(t), yOf(recording.at(row, t, pin.column))]), theme.faint);
      }
    });
    for (const t of every) {
      const y = yOf(recording.at(pin.row, t, pin.column)), now = t === token, thick = cell > 6 ? 2 : 1;
      c.fillStyle = now ? theme.accent : theme.trace;
      c.fillRect(xOf(t) - thick / 2, Math.min(y, middle), thick, Math.abs(y - middle));
      if (cell > 5 || now) dot(c, xOf(t), y, now ? 3.2 : 2, c.fillStyle);
    }
  }
  const cut = recording.model.promptLength;
  c.fillStyle = theme.soft;
  if (cut < recording.tokens) for (let y = 2; y < height - 14; y += 6) c.fillRect(xOf(cut) - cell / 2, y, 1, 3);
  const step = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((s) => s * cell >= 28) || 1000;
  for (let t = 0; t < recording.tokens; t += step) letter(c, t, xOf(t), height - 6, theme.soft);
  letter(c, "0", GUTTER - 8, middle, theme.soft, "right");
}
