// The EEG: each model's traces, heat map and pinned channel; one clock and one scale.

import { copyButton, readAddress, writeAddress } from "./address.js";
import { h, pictureCanvas } from "./dom.js";
import { drawFollow } from "./follow.js";
import { quoted, shortLabel, signed } from "./format.js";
import { drawHeatmap, EDGE, GUTTER } from "./heatmap.js";
import { colourKey, drawColourKey, within } from "./kit.js";
import { saveButtons } from "./save.js";
import { makeScale } from "./scale.js";
import { tokenStrip } from "./strip.js";
import { drawTraces, traceGeometry } from "./traces.js";
import { listenToKeys, Transport, transportBar } from "./transport.js";

const NAMED = 3, ADDRESS_PAUSE = 300;

class Panel {
  constructor(recording, eeg) {
    Object.assign(this, { recording, eeg, token: 0, hover: null, store: {} });
    const { model } = recording, largest = model.peaks[0];
    this.pin = largest ? { row: largest.row, column: recording.column(largest.channel) } : null;
    const shows = ` of ${model.name}: layers by channels at the current token`;
    this.traces = pictureCanvas(".traces", "Traces" + shows);
    this.heat = pictureCanvas(".heat", "Heat map" + shows);
    this.follow = pictureCanvas(".follow", `Pinned channel of ${model.name} over the text`);
    this.readout = h("output.readout", { "aria-live": "off" });
    this.clips = h("span.clips");
    this.followName = h("span.follow-name");
    this.strip = eeg.page.sameTokens ? null : tokenStrip(model, (token) => eeg.seekToken(this, token));
    this.node = h("article.panel", { "data-model": model.name, "aria-label": model.name },
      h("h3.panel-name", model.name), this.strip && this.strip.node, h("div.readline", this.readout, this.clips),
      this.traces, this.heat, h("p.axis", "channel →"), h("p.follow-title", this.followName), this.follow);
    for (const canvas of [this.traces, this.heat]) {
      canvas.addEventListener("pointermove", (event) => this.point(event, canvas));
      canvas.addEventListener("pointerleave", () => { this.hover = null; this.draw(); });
      canvas.addEventListener("click", (event) => {
        this.point(event, canvas);
        const { pin, hover } = this, same = pin && hover && pin.row === hover.row && pin.column === hover.column;
        eeg.movePin(this, same || !hover ? null : { ...hover });
      });
    }
    this.follow.addEventListener("click", (event) => {
      const at = (event.offsetX - GUTTER) / (this.follow.clientWidth - GUTTER - EDGE) * recording.tokens;
      eeg.seekToken(this, within(Math.floor(at), recording.tokens));
    });
  }

  point(event, canvas) {
    const { rows, columns } = this.recording, onHeat = canvas === this.heat;
    const column = Math.floor((event.offsetX - GUTTER) / (canvas.clientWidth - GUTTER - EDGE) * columns);
    const top = onHeat ? 0 : traceGeometry(rows, this.rowHeight).top - this.rowHeight / 2;
    const row = Math.floor((event.offsetY - top) / (onHeat ? this.heatRow : this.rowHeight));
    this.hover = column >= 0 && column < columns && (!onHeat || row < rows) ? { column, row: within(row, rows) } : null;
    this.draw();
  }

  mark({ row, column }, strong = false) {
    const { recording, token } = this, value = recording.at(row, token, column), channel = recording.channel(row, token, column);
    const label = recording.model.labels[row];
    return { row, column, strong, value, channel, label, text: `${shortLabel(label)}·${channel} ${signed(value, 3)}` };
  }

  draw() {
    const { recording, eeg, token } = this, { model } = recording, pin = this.pin && this.mark(this.pin, !this.hover);
    Object.assign(this, { theme: eeg.theme, scale: eeg.scale, beyond: recording.beyond(eeg.scale.limit, token) });
    this.marks = [this.hover && this.mark(this.hover, true), pin].filter(Boolean);
    const seen = new Set(this.marks.map((m) => m.row + "," + m.column));
    const peaks = recording.peaks(token, NAMED).filter((p) => !seen.has(p.row + "," + p.column));
    this.named = [...this.marks, ...peaks.map((peak) => this.mark(peak))];
    drawTraces(this.traces, this);
    drawHeatmap(this.heat, this);
    drawFollow(this.follow, this);
    const shown = this.marks[0], where = `token ${token} ${quoted(model, token)}`;
    this.readout.replaceChildren(...(shown ? [h("b", `layer ${shown.label}`), ` channel ${shown.channel} `, h("b.value", signed(shown.value, 5)),
      h("span.quiet", ` ${where}${this.hover ? "" : " · pinned"}`)] : [h("span.quiet", where)]));
    Object.assign(this.readout.dataset, { token }, shown && { layer: shown.label, channel: shown.channel, value: shown.value });
    this.clips.textContent = this.beyond.length ? `▲▼ ${this.beyond.length} clipped here` : "";
    const first = pin && pin.column * model.width;
    this.followName.replaceChildren(...(pin ? [h("b", `layer ${pin.label} · ${recording.offsets
      ? `channels ${first} to ${Math.min(model.channels, first + model.width) - 1}` : `channel ${pin.channel}`}`),
    " over the text; the same in the other layers behind it"] : ["click a channel to follow it over the text"]));
  }

  show(token) {
    this.token = token;
    if (this.strip) this.strip.show(token);
    this.draw();
  }
}

export class Eeg {
  constructor(page, recordings, theme) {
    Object.assign(this, { page, theme, scale: makeScale("symlog", page.scale), transport: new Transport(page.frames.length) });
    this.panels = recordings.map((recording) => new Panel(recording, this));
    this.active = this.panels[0];
    this.strip = page.sameTokens ? tokenStrip(recordings[0].model, (token) => this.seekToken(this.panels[0], token)) : null;
    const most = Math.max(...recordings.map((r) => r.rows));
    for (const panel of this.panels) {
      panel.rowHeight = Math.max(11, Math.min(46, 400 / most));
      panel.heatRow = Math.max(6, Math.min(20, 220 / most));
    }
    this.legend = colourKey(".legend");
    this.legendText = h("p.legend-text");
    this.bar = transportBar(this.transport, ({ name }) => {
      this.scale = makeScale(name, page.scale);
      this.draw();
      this.remember();
    });
    this.bar.append(this.tools());
    this.picture = h("div", h("div.scale", this.legend, this.legendText), h("div.panels", this.panels.map((panel) => panel.node)));
    this.node = h("div.eeg", h("div.sticky", this.bar, this.strip && this.strip.node), this.picture);
    this.transport.listen(() => this.show());
    window.addEventListener("hashchange", () => { this.restore(); this.transport.tell(); });
    listenToKeys(this.transport, (right, down) => {
      const { recording, pin } = this.active, old = pin || { row: 0, column: 0 };
      this.movePin(this.active, { row: within(old.row + down, recording.rows), column: within(old.column + right, recording.columns) });
    });
  }

  tools() {
    const saves = saveButtons("button.tool", "this moment", this, { node: () => this.picture, redraw: () => this.draw(), rows: () => this.rows(),
      name: () => `${this.page.file}-${this.transport.index}` });
    return h("div.tools", saves, copyButton("button.tool.copy-link", "Link", "Copy a link to this token, pin and scale", () => this.write()));
  }

  // The values of this moment, as shown.
  rows() {
    const found = [["model", "layer", "channel", "token", "text", this.page.site]];
    for (const panel of this.panels) {
      const { recording: { model, rows, columns }, token } = panel, text = model.texts ? model.texts[token] : "";
      for (let row = 0; row < rows; row++) {
        for (let column = 0; column < columns; column++) {
          const { label, channel, value } = panel.mark({ row, column });
          found.push([model.name, label, channel, token, text, value]);
        }
      }
    }
    return found;
  }

  // A browser takes only so many changes of an address.
  remember() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.write(), ADDRESS_PAUSE);
  }

  write() {
    clearTimeout(this.timer);
    const pins = this.panels.map((panel) => panel.pin && panel.mark(panel.pin));
    writeAddress({ token: this.transport.index, scale: this.scale.kind,
      layer: pins.map((pin) => (pin ? pin.label : "")), channel: pins.map((pin) => (pin ? pin.channel : "")) });
  }

  // What an address says; what it does not say of anything here stays.
  restore() {
    const { token, scale, layer, channel } = readAddress();
    if (/^\d+$/.test(token)) this.transport.index = within(+token, this.transport.length);
    const choice = this.bar.querySelector(`input[value="${CSS.escape(scale)}"]`);
    if (choice) choice.click();
    if (layer === undefined || channel === undefined) return;
    const layers = layer.split(","), channels = channel.split(",");
    this.panels.forEach((panel, i) => {
      const { model } = panel.recording, row = model.labels.indexOf(layers[i]), there = /^\d+$/.test(channels[i]) && +channels[i] < model.channels;
      if (layers[i] === "") panel.pin = null;
      else if (row >= 0 && there) panel.pin = { row, column: panel.recording.column(+channels[i]) };
    });
  }

  seekToken(panel, token) {
    const which = this.panels.indexOf(panel), at = this.page.frames.findIndex((frame) => frame[which] >= token);
    this.transport.pause();
    this.transport.seek(at < 0 ? this.page.frames.length - 1 : at);
  }

  movePin(panel, pin) {
    this.active = panel;
    panel.pin = pin;
    panel.draw();
    this.remember();
  }

  // What a chart of the layers selects: the pins of panels with this layer go there.
  select({ layer }) {
    this.layer = layer;
    for (const panel of this.panels) {
      const row = panel.recording.model.labels.indexOf(layer);
      if (row >= 0) this.movePin(panel, { column: 0, ...panel.pin, row });
    }
    this.onSelect();
  }

  row(labels) { return labels.indexOf(this.layer); }

  show() {
    const frame = this.page.frames[this.transport.index];
    if (this.strip) this.strip.show(frame[0]);
    this.panels.forEach((panel, i) => panel.show(frame[i]));
    if (!this.transport.playing) this.remember();
  }

  draw() {
    this.drawLegend();
    this.panels.forEach((panel) => panel.draw());
  }

  start() {
    this.drawLegend();
    this.restore();
    this.transport.tell();
    clearTimeout(this.timer);
  }

  drawLegend() {
    const { says, clipped, ticks } = this.page.legend[this.scale.kind];
    drawColourKey(this.legend, this.theme, ticks.map((tick) => [(this.scale.place(tick) + 1) / 2, signed(tick, 3)]), this.theme.two);
    this.legendText.replaceChildren(h("b", "One scale for every model. "), says, h("span.clips", clipped));
  }
}
