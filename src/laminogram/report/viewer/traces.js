// Stacked traces, one line a layer over the channels, at one moment.

import { dot, drawCached, letter, namePlates, polyline, prepareCanvas } from "./dom.js";
import { number, shortLabel } from "./format.js";
import { EDGE, GUTTER, markBeyond, placedFrame } from "./heatmap.js";

// How dark the bands are, from the widest to the narrowest.
const BANDS = [0.45, 0.99, 1];

export function traceGeometry(rows, rowHeight) {
  const swing = Math.max(rowHeight * 1.15, 26), top = swing + 4;
  return { swing, top, height: top + (rows - 1) * rowHeight + swing + 4 };
}

export function drawTraces(canvas, panel) {
  const { recording, scale, theme, named, rowHeight } = panel, { rows, columns } = recording;
  const { swing, top, height } = traceGeometry(rows, rowHeight);
  const frame = prepareCanvas(canvas, height, theme), { context: c, width, ratio } = frame, wide = width - GUTTER - EDGE;
  const xOf = (k) => GUTTER + (k + 0.5) * wide / columns, base = (row) => top + row * rowHeight;
  drawCached(panel.store, "ground", scale.kind + theme.name, frame, (ground) => drawGround(ground, panel, xOf, base, swing, wide));
  c.lineJoin = "bevel";
  for (const { column, strong } of panel.marks) {
    c.globalAlpha = strong ? 0.5 : 0.3;
    c.fillStyle = strong ? theme.accent : theme.ink;
    c.fillRect(xOf(column) - 0.5, 4, 1, height - 8);
  }
  Object.assign(c, { globalAlpha: 1, strokeStyle: theme.trace, lineWidth: rows > 16 ? 1 : 1.1 });
  const { room, places } = placedFrame(panel, width, ratio), step = wide / room;
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
  markBeyond(c, panel.beyond, theme.accent, xOf, (row, side) => base(row) - side * swing, 4);
  const marks = named.map((mark) => ({ ...mark, x: xOf(mark.column), y: base(mark.row) - swing * scale.place(mark.value) }));
  for (const { x, y, strong } of marks) {
    dot(c, x, y, 3, theme.paper);
    Object.assign(c, { strokeStyle: strong ? theme.accent : theme.ink, lineWidth: strong ? 1.75 : 1.1 });
    c.stroke();
  }
  namePlates(c, marks, [GUTTER, width - 2, 0, height], theme);
  // The bar in the corner: how high the full scale stands.
  const foot = height - 3, [ends, middle] = [[5, 11], 8];
  for (const y of [foot - swing - 0.5, foot + 0.5]) polyline(c, ends.map((x) => [x, y]), theme.soft);
  polyline(c, [[middle, foot - swing], [middle, foot]], theme.soft);
  letter(c, number(scale.limit, 3), 2, foot - swing - 9, theme.soft, "left");
}

// Bands, zero lines and names: the same at every token.
function drawGround(c, { recording, scale, theme, rowHeight }, xOf, base, swing, wide) {
  const { rows, columns, bands } = recording;
  for (let row = 0; row < rows; row++) {
    const y = base(row), first = row * columns;
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
    if (row % Math.ceil(13 / rowHeight) === 0) letter(c, shortLabel(recording.model.labels[row]), GUTTER - 8, base(row), theme.soft, "right");
  }
  letter(c, "layer", GUTTER - 8, 9, theme.soft, "right");
}
