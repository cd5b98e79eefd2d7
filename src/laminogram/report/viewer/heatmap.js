// The heat map: layers x channels of one moment, Canvas 2D through a colour table.

import { placePlate, plate, prepareCanvas } from "./dom.js";
import { shortLabel, signed } from "./format.js";

export const GUTTER = 44;
export const EDGE = 10;

const sheet = document.createElement("canvas");

// A moment as places on the scale, (rows, room). Narrower than its columns, a picture keeps the value
// largest in size of each pixel. Kept until another moment, width or scale is asked for.
export function placedFrame(panel, most) {
  const { recording, token, scale, store } = panel, { rows, columns, values } = recording, room = Math.min(columns, most);
  const key = [token, scale.kind, room].join();
  if (store.placed && store.placed.key === key) return store.placed;
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

// How many columns a canvas of this width can show apart from each other.
export function roomOf(width, ratio) { return Math.floor((width - GUTTER - EDGE) * ratio); }

export function channelTicks(channels, width) {
  const step = [16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192].find((s) => channels / s <= width / 56) || 16384;
  const ticks = [];
  for (let c = 0; c < channels; c += step) ticks.push(c);
  return ticks;
}

export function drawHeatmap(canvas, panel) {
  const { recording, token, scale, theme, peaks, marks, heatRow } = panel, { rows, columns } = recording;
  const bottom = 20, tall = rows * heatRow;
  const { context: c, width, ratio } = prepareCanvas(canvas, tall + bottom);
  const wide = width - GUTTER - EDGE, { room, places } = placedFrame(panel, roomOf(width, ratio));
  sheet.width = room;
  sheet.height = rows;
  const ink = sheet.getContext("2d", { willReadFrequently: true }), image = ink.createImageData(room, rows);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < pixels.length; i++) {
    const at = places[i];
    pixels[i] = theme.table[at !== at ? 256 : Math.round((at + 1) * 127.5)];
  }
  ink.putImageData(image, 0, 0);
  c.imageSmoothingEnabled = false;
  c.drawImage(sheet, 0, 0, room, rows, GUTTER, 0, wide, tall);
  c.font = theme.font;
  c.textBaseline = "middle";
  const cell = wide / columns;
  drawClips(c, panel, cell);
  c.fillStyle = theme.soft;
  c.textAlign = "right";
  const every = Math.max(1, Math.ceil(13 / heatRow));
  for (let row = 0; row < rows; row += every) c.fillText(shortLabel(recording.model.labels[row]), GUTTER - 8, (row + 0.5) * heatRow);
  c.textAlign = "center";
  const channels = recording.model.channels;
  for (const tick of channelTicks(channels, wide)) {
    const x = GUTTER + tick / recording.model.width * cell + cell / 2;
    c.fillRect(x, tall + 2, 1, 3);
    c.fillText(tick, x, tall + 13);
  }
  c.textAlign = "left";
  const taken = [];
  for (const mark of [...marks, ...peaks]) {
    const x = GUTTER + (mark.column + 0.5) * cell, y = (mark.row + 0.5) * heatRow;
    const w = Math.max(7, cell + 3), hh = Math.max(7, heatRow + 1);
    c.strokeStyle = mark.strong ? theme.accent : theme.ink;
    c.lineWidth = mark.strong ? 1.75 : 1;
    c.strokeRect(x - w / 2, y - hh / 2, w, hh);
    const text = `${shortLabel(recording.model.labels[mark.row])}·${mark.channel} ${signed(mark.value, 3)}`;
    const at = placePlate(taken, x, y, c.measureText(text).width + 8, GUTTER, width - 2, -6, tall + 6);
    if (at) plate(c, text, at[0], Math.max(8, Math.min(tall - 8, at[1])), theme, mark.strong);
  }
}

function drawClips(c, panel, cell) {
  const { recording, token, scale, theme, heatRow } = panel;
  if (!panel.clipsNow) return;
  c.fillStyle = theme.paper;
  c.beginPath();
  for (let row = 0; row < recording.rows; row++) {
    const start = recording.start(row, token);
    for (let k = 0; k < recording.columns; k++) {
      const v = recording.values[start + k];
      if (!(Math.abs(v) > scale.limit)) continue;
      const x = GUTTER + (k + 0.5) * cell, y = (row + 0.5) * heatRow, d = v > 0 ? -2.5 : 2.5;
      c.moveTo(x, y + d);
      c.lineTo(x - 2.5, y - d);
      c.lineTo(x + 2.5, y - d);
    }
  }
  c.fill();
}
