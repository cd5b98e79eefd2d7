// One channel followed over the text: a stem a token, and the same channel in the other layers.

import { drawCached, prepareCanvas } from "./dom.js";
import { EDGE, GUTTER } from "./heatmap.js";

export const FOLLOW_HEIGHT = 92;

export function drawFollow(canvas, panel) {
  const { recording, token, scale, theme, pin } = panel;
  const frame = prepareCanvas(canvas, FOLLOW_HEIGHT), { context: c, width, height } = frame;
  const wide = width - GUTTER - EDGE, cell = wide / recording.tokens, middle = height / 2 - 4, swing = middle - 6;
  const xOf = (t) => GUTTER + (t + 0.5) * cell, yOf = (v) => middle - swing * scale.place(v);
  c.font = theme.font;
  c.textBaseline = "middle";
  c.fillStyle = theme.band;
  c.fillRect(xOf(token) - Math.max(1.5, cell / 2), 2, Math.max(3, cell), height - 14);
  c.fillStyle = theme.line;
  c.fillRect(GUTTER, middle - 0.5, wide, 1);
  if (pin) {
    drawCached(panel.store, "others", [scale.kind, theme.name, pin.row, pin.column], frame, (others) => {
      others.strokeStyle = theme.faint;
      for (let row = 0; row < recording.rows; row++) {
        if (row === pin.row) continue;
        others.beginPath();
        for (let t = 0; t < recording.tokens; t++) others.lineTo(xOf(t), yOf(recording.at(row, t, pin.column)));
        others.stroke();
      }
    });
    for (let t = 0; t < recording.tokens; t++) {
      const v = recording.at(pin.row, t, pin.column), y = yOf(v);
      c.fillStyle = t === token ? theme.accent : theme.trace;
      c.fillRect(xOf(t) - (cell > 6 ? 1 : 0.5), Math.min(y, middle), cell > 6 ? 2 : 1, Math.abs(y - middle));
      if (cell > 5 || t === token) {
        c.beginPath();
        c.arc(xOf(t), y, t === token ? 3.2 : 2, 0, 7);
        c.fill();
      }
    }
  }
  const cut = recording.model.promptLength;
  if (cut < recording.tokens) {
    c.fillStyle = theme.soft;
    for (let y = 2; y < height - 14; y += 6) c.fillRect(xOf(cut) - cell / 2, y, 1, 3);
  }
  c.fillStyle = theme.soft;
  c.textAlign = "center";
  const step = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((s) => s * cell >= 28) || 1000;
  for (let t = 0; t < recording.tokens; t += step) c.fillText(t, xOf(t), height - 6);
  c.textAlign = "right";
  c.fillText("0", GUTTER - 8, middle);
}
