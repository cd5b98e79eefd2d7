// A decoded recording: rows (layers) x tokens x columns (channels, pooled if wide).

import { decodeArray } from "./decode.js";

export class Recording {
  constructor(model, values, offsets, bands) {
    Object.assign(this, { model, values, offsets });
    [this.rows, this.tokens, this.columns] = model.values.shape;
    // Quantiles over the tokens, from the lowest to the highest, each (rows, columns).
    const size = this.rows * this.columns;
    this.bands = Array.from({ length: model.bands.shape[0] }, (_, i) => bands.subarray(i * size, (i + 1) * size));
  }

  start(row, token) { return (row * this.tokens + token) * this.columns; }

  at(row, token, column) { return this.values[this.start(row, token) + column]; }

  // The channel that a column shows: of a pooled block, the largest in size.
  channel(row, token, column) {
    if (!this.offsets) return column;
    return column * this.model.width + this.offsets[this.start(row, token) + column];
  }

  column(channel) { return Math.floor(channel / this.model.width); }

  // The largest values of a moment, at most two of one layer.
  peaks(token, wanted) {
    const found = [];
    for (let row = 0; row < this.rows; row++) {
      const start = this.start(row, token);
      let first = { size: 0 }, second = first;
      for (let column = 0; column < this.columns; column++) {
        const size = Math.abs(this.values[start + column]);
        if (size > second.size) second = { row, column, size };
        if (size > first.size) [first, second] = [second, first];
      }
      found.push(...[first, second].filter((peak) => peak.size > 0));
    }
    return found.sort((a, b) => b.size - a.size).slice(0, wanted);
  }

  // The values of a moment that lie beyond a limit: [row, column, sign] each.
  beyond(limit, token) {
    const found = [];
    for (let row = 0; row < this.rows; row++) {
      const start = this.start(row, token);
      for (let k = 0; k < this.columns; k++) {
        const v = this.values[start + k];
        if (Math.abs(v) > limit) found.push([row, k, Math.sign(v)]);
      }
    }
    return found;
  }
}

export async function openRecording(model) {
  const packed = [model.values, model.offsets, model.bands].map((array) => (array ? decodeArray(array) : null));
  return new Recording(model, ...await Promise.all(packed));
}
