// One model's decoded recording: rows (layers) x tokens x columns (channels, pooled if wide).

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

  // The channel that a column shows at this moment: of a pooled block, the largest in size.
  channel(row, token, column) {
    if (!this.offsets) return column;
    return column * this.model.width + this.offsets[this.start(row, token) + column];
  }

  column(channel) { return Math.floor(channel / this.model.width); }

  // The largest values of a moment, at most two of one layer, so that names spread over the layers.
  peaks(token, wanted) {
    const found = [];
    for (let row = 0; row < this.rows; row++) {
      const start = this.start(row, token), best = [[0, -1], [0, -1]];
      for (let k = 0; k < this.columns; k++) {
        const size = Math.abs(this.values[start + k]);
        if (size > best[0][0]) { best[1] = best[0]; best[0] = [size, k]; } else if (size > best[1][0]) best[1] = [size, k];
      }
      for (const [size, column] of best) if (column >= 0) found.push({ row, column, size });
    }
    return found.sort((a, b) => b.size - a.size).slice(0, wanted).map((p) => ({
      ...p, value: this.at(p.row, token, p.column), channel: this.channel(p.row, token, p.column) }));
  }

  beyond(limit, token = null) {
    let total = 0;
    if (token === null) {
      for (const v of this.values) if (Math.abs(v) > limit) total++;
      return total;
    }
    for (let row = 0; row < this.rows; row++) {
      const start = this.start(row, token);
      for (let k = 0; k < this.columns; k++) if (Math.abs(this.values[start + k]) > limit) total++;
    }
    return total;
  }
}

export async function openRecording(model) {
  const packed = [model.values, model.offsets, model.bands].map((array) => (array ? decodeArray(array) : null));
  return new Recording(model, ...await Promise.all(packed));
}
