// The EEG: for each model its traces, heat map and pinned channel; one clock and one scale for all.

import { Address } from "./address.js";
import { hexAt } from "./colour.js";
import { h, prepareCanvas } from "./dom.js";
import { drawFollow, FOLLOW_HEIGHT } from "./follow.js";
import { count, number, quoted, signed } from "./format.js";
import { drawHeatmap, EDGE, GUTTER } from "./heatmap.js";
import { saveCsv, savePng } from "./save.js";
import { makeScale } from "./scale.js";
import { tokenStrip } from "./strip.js";
import { listenToKeys, Transport, transportBar } from "./transport.js";
import { drawTraces, traceGeometry } from "./traces.js";

const NAMED = 3;

class Panel {
  constructor(recording, eeg) {
    Object.assign(this, { recording, eeg, token: 0, hover: null, store: {} });
    const largest = recording.model.peaks[0];
    this.pin = largest ? { row: largest.row, column: recording.column(largest.channel) } : null;
    const model = recording.model, say = (what) => `${what} of ${model.name}: layers by channels at the current token`;
    this.traces = h("canvas", { class: "traces", role: "img", "aria-label": say("Traces") });
    this.heat = h("canvas", { class: "heat", role: "img", "aria-label": say("Heat map") });
    this.follow = h("canvas", { class: "follow", role: "img", "aria-label": `Pinned channel of ${model.name} over the text` });
    this.readout = h("output", { class: "readout", "aria-live": "off" });
    this.clips = h("span", { class: "clips" });
    this.followName = h("span", { class: "follow-name" });
    this.strip = eeg.shared ? null : tokenStrip(model, (token) => eeg.seekToken(this, token));
    this.node = h("article", { class: "panel", "data-model": model.name, "aria-label": model.name },
      h("h3", { class: "panel-name" }, model.name), this.strip && this.strip.node,
      h("div", { class: "readline" }, this.readout, this.clips),
      this.traces, this.heat, h("p", { class: "axis" }, "channel →"),
      h("p", { class: "follow-title" }, this.followName), this.follow);
    for (const canvas of [this.traces, this.heat]) {
      canvas.addEventListener("pointermove", (event) => this.point(event, canvas));
      canvas.addEventListener("pointerleave", () => { this.hover = null; this.draw(); });
      canvas.addEventListener("click", (event) => {
        this.point(event, canvas);
        const same = this.pin && this.hover && this.pin.row === this.hover.row && this.pin.column === this.hover.column;
        this.pin = same ? null : this.hover && { ...this.hover };
        eeg.active = this;
        this.draw();
        eeg.address.change();
      });
    }
    this.follow.addEventListener("click", (event) => {
      const at = (event.offsetX - GUTTER) / (this.follow.clientWidth - GUTTER - EDGE) * recording.tokens;
      eeg.seekToken(this, Math.max(0, Math.min(recording.tokens - 1, Math.floor(at))));
    });
  }

  point(event, canvas) {
    const { rows, columns } = this.recording;
    const column = Math.floor((event.offsetX - GUTTER) / (canvas.clientWidth - GUTTER - EDGE) * columns);
    const top = canvas === this.heat ? 0 : traceGeometry(rows, this.rowHeight).top - this.rowHeight / 2;
    const row = Math.floor((event.offsetY - top) / (canvas === this.heat ? this.heatRow : this.rowHeight));
    const inside = column >= 0 && column < columns && (canvas === this.traces || row < rows);
    this.hover = inside ? { column, row: Math.max(0, Math.min(rows - 1, row)) } : null;
    this.draw();
  }

  mark(place, strong) {
    const { row, column } = place, { recording, token } = this;
    return { row, column, strong, value: recording.at(row, token, column), channel: recording.channel(row, token, column) };
  }

  draw() {
    const { recording, eeg, token } = this, model = recording.model;
    this.theme = eeg.theme;
    this.scale = eeg.scale;
    this.clipsNow = recording.beyond(this.scale.limit, token);
    this.marks = [];
    if (this.hover) this.marks.push(this.mark(this.hover, true));
    if (this.pin) this.marks.push(this.mark(this.pin, !this.hover));
    const seen = new Set(this.marks.map((m) => m.row + "," + m.column));
    this.peaks = recording.peaks(token, NAMED).filter((p) => !seen.has(p.row + "," + p.column));
    drawTraces(this.traces, this);
    drawHeatmap(this.heat, this);
    drawFollow(this.follow, this);
    const shown = this.marks[0];
    this.readout.replaceChildren(...(shown ? [
      h("b", {}, `layer ${model.labels[shown.row]}`), ` channel ${shown.channel} `, h("b", { class: "value" }, signed(shown.value, 5)),
      h("span", { class: "quiet" }, ` token ${token} ${quoted(model, token)}${this.hover ? "" : " · pinned"}`)]
      : [h("span", { class: "quiet" }, `token ${token} ${quoted(model, token)}`)]));
    const data = shown ? { layer: model.labels[shown.row], channel: shown.channel, value: shown.value } : {};
    Object.assign(this.readout.dataset, { token, ...data });
    this.clips.textContent = this.clipsNow ? `▲▼ ${count(this.clipsNow)} clipped here` : "";
    const pin = this.pin && this.mark(this.pin);
    this.followName.replaceChildren(...(pin ? [h("b", {}, `layer ${model.labels[pin.row]} · `
      + (recording.offsets ? `channels ${pin.column * model.width} to ${Math.min(model.channels, (pin.column + 1) * model.width) - 1}`
        : `channel ${pin.channel}`)), " over the text; the same in the other layers behind it"]
      : ["click a channel to follow it over the text"]));
  }

  show(token) {
    this.token = token;
    if (this.strip) this.strip.show(token);
    this.draw();
  }
}

export class Eeg {
  constructor(page, recordings, theme) {
    Object.assign(this, { page, theme, scale: makeScale("symlog", page.scale) });
    this.shared = page.sameTokens;
    this.transport = new Transport(page.frames.length);
    this.panels = recordings.map((recording) => new Panel(recording, this));
    this.active = this.panels[0];
    this.strip = this.shared ? tokenStrip(recordings[0].model, (token) => this.seekToken(this.panels[0], token)) : null;
    const most = Math.max(...recordings.map((r) => r.rows));
    for (const panel of this.panels) {
      panel.rowHeight = Math.max(11, Math.min(46, 400 / most));
      panel.heatRow = Math.max(6, Math.min(20, 220 / most));
    }
    this.legend = h("canvas", { class: "legend", role: "img", "aria-label": "Colour scale" });
    this.legendText = h("p", { class: "legend-text" });
    this.bar = transportBar(this.transport, ["symlog", "linear"], (kind) => {
      this.scale = makeScale(kind, page.scale);
      this.draw();
      this.address.change();
    });
    this.bar.append(this.tools());
    this.picture = h("div", {}, h("div", { class: "scale" }, this.legend, this.legendText),
      h("div", { class: "panels" }, this.panels.map((panel) => panel.node)));
    this.node = h("div", { class: "eeg" }, h("div", { class: "sticky" }, this.bar, this.strip && this.strip.node), this.picture);
    this.transport.listen(() => this.show());
    this.address = new Address(() => this.state());
    window.addEventListener("hashchange", () => { this.restore(this.address.read()); this.transport.tell(); });
    listenToKeys(this.transport, (down, right) => this.movePin(down, right));
  }

  tools() {
    const tool = (id, text, label, onclick) => h("button", { type: "button", id, class: "tool", "aria-label": label, title: label, onclick }, text);
    const name = () => `${this.panels.map((p) => p.recording.model.name.replace(/[^\w.-]+/g, "-")).join("-").slice(0, 80)}-`
      + `${this.page.site}-${this.transport.index}`;
    const copy = tool("copy-link", "Link", "Copy a link to this token, pin and scale", () => this.address.copy()
      .then(() => "Copied", () => "In the address bar").then((done) => {
        copy.textContent = done;
        setTimeout(() => { copy.textContent = "Link"; }, 1500);
      }));
    return h("div", { class: "tools" },
      tool("save-png", "PNG", "Save this moment as a PNG picture", () => savePng(this.picture, this.theme, name() + ".png", () => this.draw())),
      tool("save-csv", "CSV", "Save the values of this moment as CSV", () => saveCsv(this.rows(), name() + ".csv")), copy);
  }

  // The values of this moment, as shown: of a pooled block the channel and value largest in size.
  rows() {
    const found = [["model", "layer", "channel", "token", "text", this.page.site]];
    for (const { recording, token } of this.panels) {
      const { model, rows, columns } = recording, text = model.texts ? model.texts[token] : "";
      for (let row = 0; row < rows; row++) {
        for (let k = 0; k < columns; k++) {
          found.push([model.name, model.labels[row], recording.channel(row, token, k), token, text, recording.at(row, token, k)]);
        }
      }
    }
    return found;
  }

  state() {
    const pins = this.panels.map((panel) => panel.pin && panel.mark(panel.pin));
    return { token: this.transport.index, scale: this.scale.kind,
      layer: pins.map((pin, i) => (pin ? this.panels[i].recording.model.labels[pin.row] : "")),
      channel: pins.map((pin) => (pin ? pin.channel : "")) };
  }

  // What an address says; what it does not say, or says of nothing that is there, stays.
  restore({ token, scale, layer, channel }) {
    if (/^\d+$/.test(token)) this.transport.index = Math.min(this.transport.length - 1, +token);
    const choice = [...this.bar.querySelectorAll("input[name=scale]")].find((input) => input.value === scale);
    if (choice) {
      choice.checked = true;
      this.scale = makeScale(scale, this.page.scale);
      this.drawLegend();
    }
    if (layer === undefined || channel === undefined) return;
    const layers = layer.split(","), channels = channel.split(",");
    this.panels.forEach((panel, i) => {
      const { model } = panel.recording, row = model.labels.indexOf(layers[i]);
      if (layers[i] === "") panel.pin = null;
      else if (row >= 0 && /^\d+$/.test(channels[i]) && +channels[i] < model.channels) {
        panel.pin = { row, column: panel.recording.column(+channels[i]) };
      }
    });
  }

  seekToken(panel, token) {
    const which = this.panels.indexOf(panel), at = this.page.frames.findIndex((frame) => frame[which] >= token);
    this.transport.pause();
    this.transport.seek(at < 0 ? this.page.frames.length - 1 : at);
  }

  movePin(down, right) {
    const { recording, pin } = this.active, old = pin || { row: 0, column: 0 };
    this.active.pin = { row: Math.max(0, Math.min(recording.rows - 1, old.row + down)),
      column: Math.max(0, Math.min(recording.columns - 1, old.column + right)) };
    this.active.draw();
    this.address.change();
  }

  show() {
    const frame = this.page.frames[this.transport.index];
    if (this.strip) this.strip.show(frame[0]);
    this.panels.forEach((panel, i) => panel.show(frame[i]));
    if (!this.transport.playing) this.address.change();
  }

  draw() {
    this.drawLegend();
    this.panels.forEach((panel) => panel.draw());
  }

  start() {
    this.drawLegend();
    this.restore(this.address.read());
    this.transport.tell();
    this.address.rest();
    let width = this.node.clientWidth;
    new ResizeObserver(() => {
      if (width === this.node.clientWidth) return;
      width = this.node.clientWidth;
      this.draw();
    }).observe(this.node);
  }

  drawLegend() {
    const { scale, theme } = this, { context: c, width } = prepareCanvas(this.legend, 34);
    const left = 22, wide = width - 2 * left, xOf = (p) => left + (p + 1) / 2 * wide;
    for (let x = 0; x < wide; x++) {
      c.fillStyle = hexAt(theme.hex, 2 * x / wide - 1);
      c.fillRect(left + x, 2, 1.5, 12);
    }
    c.strokeStyle = theme.line;
    c.strokeRect(left - 0.5, 1.5, wide + 1, 13);
    c.font = theme.font;
    c.textAlign = "center";
    c.fillStyle = theme.soft;
    let last = -Infinity;
    const middle = scale.ticks.filter((t) => Math.abs(t) < scale.limit && t !== 0);
    const drawn = [-scale.limit, 0, scale.limit].map((t) => xOf(scale.place(t)));
    for (const tick of [-scale.limit, 0, scale.limit, ...middle]) {
      const x = xOf(scale.place(tick)), fixed = !middle.includes(tick);
      if (!fixed && (drawn.some((d) => Math.abs(d - x) < 34) || Math.abs(x - last) < 34)) continue;
      if (!fixed) last = x;
      c.fillRect(x - 0.5, 14, 1, 4);
      c.fillText(signed(tick, 3), x, 29);
    }
    const all = this.panels.map((panel) => panel.recording);
    const beyond = all.map((r) => r.beyond(scale.limit)), total = all.reduce((sum, r) => sum + r.values.length, 0);
    const clipped = beyond.reduce((a, b) => a + b, 0);
    this.legendText.replaceChildren(h("b", {}, "One scale for every model. "),
      scale.kind === "symlog"
        ? `Symmetric logarithm: even in ratio beyond ±${number(scale.threshold, 2)}, linear within; limit ±${number(scale.limit)}. `
        : `Linear, limit ±${number(scale.limit)}. `,
      clipped ? h("span", { class: "clips" }, `${count(clipped)} of ${count(total)} values lie beyond and are marked ▲▼`
        + (all.length > 1 ? ` (${all.map((r, i) => r.model.name.replace(/-/g, "\u2011") + " " + count(beyond[i])).join(", ")}).` : "."))
        : `None of the ${count(total)} values lies beyond it.`);
  }
}

export const LAYOUT = { GUTTER, EDGE, FOLLOW_HEIGHT };
