// The heat map: layers x channels of one moment, through a colour table.

import { paintPixels } from "./colour.js";
import { box, h, letter, namePlates, prepareCanvas } from "./dom.js";
import { shortLabel } from "./format.js";

export const GUTTER = 44;
export const EDGE = 10;

const sheet = h("canvas");

// A moment as places on the scale, (rows, room), kept until another is asked for. Narrower than its
// columns, a picture has of each pixel the value largest in size.
export function placedFrame({ recording, token, scale, store }, width, ratio) {
  const { rows, columns, values } = recording, room = Math.min(columns, Math.floor((width - GUTTER - EDGE) * ratio));
  const key = [token, scale.kind, room].join();
  if (store.placed?.key === key) return store.placed;
  const places = new Float32Array(rows * room), wide = columns / room;
  for (let row = 0; row < rows; row++) {
    const start = recording.start(row, token);
    for (let x = 0; x < room; x++) {
      const first = start + Math.floor(x * wide), end = start + Math.floor((x + 1) * wide);
      let best = values[first];
      for (let k = first + 1; k < end; k++) if (Math.abs(values[k]) > Math.abs(best) || values[k] !== values[k]) best = values[k];
      places[row * room + x] = scale.place(best);
    }
  }
  store.placed = { key, room, places };
  return store.placed;
}

// A triangle for each value beyond the scale: its tip points outwards.
export function markBeyond(c, beyond, colour, xOf, yOf, size) {
  c.fillStyle = colour;
  c.beginPath();
  for (const [row, column, side] of beyond) {
    const x = xOf(column), y = yOf(row, side);
    c.moveTo(x, y - side * size);
    c.lineTo(x - 3, y + side);
    c.lineTo(x + 3, y + side);
  }
  c.fill();
}

export function drawHeatmap(canvas, panel) {
  const { recording, theme, named, heatRow } = panel, { rows, columns, model } = recording, tall = rows * heatRow;
  const { context: c, width, ratio } = prepareCanvas(canvas, tall + 20, theme), wide = width - GUTTER - EDGE, cell = wide / columns;
  const { room, places } = placedFrame(panel, width, ratio), xOf = (k) => GUTTER + (k + 0.5) * cell, yOf = (row) => (row + 0.5) * heatRow;
  c.imageSmoothingEnabled = false;
  c.drawImage(paintPixels(sheet, room, rows, places, theme.twoTable), 0, 0, room, rows, GUTTER, 0, wide, tall);
  markBeyond(c, panel.beyond, theme.paper, xOf, yOf, 2.5);
  for (let row = 0; row < rows; row += Math.ceil(13 / heatRow)) letter(c, shortLabel(model.labels[row]), GUTTER - 8, yOf(row), theme.soft, "right");
  let step = 16;
  while (step < 16384 && model.channels / step > wide / 56) step *= 2;
  for (let channel = 0; channel < model.channels; channel += step) {
    const x = xOf(channel / model.width);
    letter(c, channel, x, tall + 13, theme.soft);
    c.fillRect(x, tall + 2, 1, 3);
  }
  const marks = named.map((mark) => ({ ...mark, x: xOf(mark.column), y: yOf(mark.row) })), w = Math.max(7, cell + 3), high = Math.max(7, heatRow + 1);
  for (const { x, y, strong } of marks) box(c, x - w / 2, y - high / 2, w, high, strong ? theme.accent : theme.ink, strong ? 1.75 : 1);
  namePlates(c, marks.map((mark) => ({ ...mark, y: Math.max(8, Math.min(tall - 8, mark.y)) })), [GUTTER, width - 2, 0, tall], theme);
}
