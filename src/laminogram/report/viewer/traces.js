// Stacked traces, like an electroencephalogram: one line a layer over the channels, at one moment.

import { drawCached, placePlate, plate, prepareCanvas } from "./dom.js";
import { number, shortLabel, signed } from "./format.js";
import { EDGE, GUTTER, placedFrame, roomOf } from "./heatmap.js";

// How dark the bands are, from the widest (all tokens) to the narrowest (the middle half).
const BANDS = [0.45, 0.99, 1];

export function traceGeometry(rows, rowHeight) {
  const swing = Math.max(rowHeight * 1.15, 26);
  const top = swing + 4;
  return { swing, top, height: top + (rows - 1) * rowHeight + swing + 4 };
}

export function drawTraces(canvas, panel) {
  const { recording, token, scale, theme, peaks, marks, rowHeight } = panel, { rows, columns } = recording;
  const { swing, top, height } = traceGeometry(rows, rowHeight);
  const frame = prepareCanvas(canvas, height), { context: c, width, ratio } = frame;
  const wide = width - GUTTER - EDGE, cell = wide / columns;
  const xOf = (k) => GUTTER + (k + 0.5) * cell, base = (row) => top + row * rowHeight;
  drawCached(panel.store, "ground", scale.kind + theme.name, frame, (ground) => drawGround(ground, panel, xOf, base, swing, wide));
  c.font = theme.font;
  c.textBaseline = "middle";
  c.lineJoin = "bevel";
  for (const mark of marks) {
    c.globalAlpha = mark.strong ? 0.5 : 0.3;
    c.fillStyle = mark.strong ? theme.accent : theme.ink;
    c.fillRect(xOf(mark.column) - 0.5, 4, 1, height - 8);
  }
  c.globalAlpha = 1;
  c.strokeStyle = theme.trace;
  c.lineWidth = rows > 16 ? 1 : 1.1;
  const { room, places } = placedFrame(panel, roomOf(width, ratio)), step = wide / room;
  for (let row = 0; row < rows; row++) {
    const y = base(row);
    let drawing = false;
    c.beginPath();
    for (let k = 0; k < room; k++) {
      const v = places[row * room + k];
      if (v !== v) { drawing = false; continue; }
      const x = GUTTER + (k + 0.5) * step, at = y - swing * v;
      if (drawing) c.lineTo(x, at); else c.moveTo(x, at);
      drawing = true;
      // Short paths are stroked several times faster than one long one.
      if (k % 48 === 47) {
        c.stroke();
        c.beginPath();
        c.moveTo(x, at);
      }
    }
    c.stroke();
  }
  if (panel.clipsNow) drawBeyond(c, panel, xOf, base, swing);
  c.textAlign = "left";
  const taken = [];
  for (const mark of [...marks, ...peaks]) {
    const x = xOf(mark.column), y = base(mark.row) - swing * scale.place(mark.value);
    c.strokeStyle = mark.strong ? theme.accent : theme.ink;
    c.fillStyle = theme.paper;
    c.lineWidth = mark.strong ? 1.75 : 1.1;
    c.beginPath();
    c.arc(x, y, 3, 0, 7);
    c.fill();
    c.stroke();
    const text = `${shortLabel(recording.model.labels[mark.row])}·${mark.channel} ${signed(mark.value, 3)}`;
    const at = placePlate(taken, x, y, c.measureText(text).width + 8, GUTTER, width - 2, 0, height);
    if (at) plate(c, text, at[0], at[1], theme, mark.strong);
  }
  drawCalibration(c, panel, swing, height);
}

// Bands, zero lines and names of the layers: the same at every token.
function drawGround(c, panel, xOf, base, swing, wide) {
  const { recording, scale, theme, rowHeight } = panel, { rows, columns } = recording;
  c.font = theme.font;
  c.textBaseline = "middle";
  c.textAlign = "right";
  for (let row = 0; row < rows; row++) {
    const y = base(row), first = row * columns;
    const { bands } = recording;
    for (let i = 0; i < bands.length / 2; i++) {
      [c.fillStyle, c.globalAlpha] = BANDS[i] < 1 ? [theme.band, BANDS[i]] : [theme.middle, 1];
      c.beginPath();
      for (let k = 0; k < columns; k++) c.lineTo(xOf(k), y - swing * scale.place(bands[bands.length - 1 - i][first + k]));
      for (let k = columns - 1; k >= 0; k--) c.lineTo(xOf(k), y - swing * scale.place(bands[i][first + k]));
      c.fill();
    }
    c.globalAlpha = 1;
  }
  for (let row = 0; row < rows; row++) {
    c.fillStyle = theme.line;
    c.fillRect(GUTTER, base(row) - 0.5, wide, 1);
    c.fillStyle = theme.soft;
    if (row % Math.ceil(13 / rowHeight) === 0) c.fillText(shortLabel(recording.model.labels[row]), GUTTER - 8, base(row));
  }
  c.fillText("layer", GUTTER - 8, 9);
}

function drawBeyond(c, panel, xOf, base, swing) {
  const { recording, token, scale, theme } = panel;
  c.fillStyle = theme.accent;
  c.beginPath();
  for (let row = 0; row < recording.rows; row++) {
    const start = recording.start(row, token);
    for (let k = 0; k < recording.columns; k++) {
      const v = recording.values[start + k];
      if (!(Math.abs(v) > scale.limit)) continue;
      const s = v > 0 ? 1 : -1, x = xOf(k), y = base(row) - s * swing;
      c.moveTo(x, y - s * 4);
      c.lineTo(x - 3, y + s);
      c.lineTo(x + 3, y + s);
    }
  }
  c.fill();
}

// The bar an electroencephalogram has in its corner: how high the full scale stands.
function drawCalibration(c, panel, swing, height) {
  const { scale, theme } = panel, x = 8, y = height - 3 - swing;
  c.strokeStyle = theme.soft;
  c.lineWidth = 1;
  c.beginPath();
  c.moveTo(x - 3, y - 0.5);
  c.lineTo(x + 3, y - 0.5);
  c.moveTo(x, y);
  c.lineTo(x, y + swing);
  c.moveTo(x - 3, y + swing + 0.5);
  c.lineTo(x + 3, y + swing + 0.5);
  c.stroke();
  c.fillStyle = theme.soft;
  c.textAlign = "left";
  c.fillText(number(scale.limit, 3), 2, y - 9);
}
