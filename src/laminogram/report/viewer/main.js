// Builds the page of a study from its payload.

import { modelCard } from "./cards.js";
import { darkTheme, readTheme } from "./colour.js";
import { h } from "./dom.js";
import { Eeg } from "./eeg.js";
import { number, quoted, signed } from "./format.js";
import { lineChart } from "./linechart.js";
import { openRecording } from "./recording.js";
import { dataTable, fold } from "./tables.js";

const CHARTS = [["rms", "Root mean square", "log"], ["absmax", "Largest magnitude", "log"], ["median_abs", "Median magnitude", "log"],
  ["excess_kurtosis", "Excess kurtosis", "symlog"], ["top_channel_share", "Energy in the top channel", "linear"],
  ["participation_ratio", "Participation ratio", "log"], ["beyond_6_sigma", "Values beyond 6 σ", "symlog"]];

function numbers(list) { return list.map((v) => (typeof v === "number" ? v : v === "inf" ? Infinity : v === "-inf" ? -Infinity : NaN)); }

function statisticsSection(page, theme) {
  const labels = page.models.reduce((a, b) => (b.labels.length > a.labels.length ? b : a)).labels;
  const charts = CHARTS.map(([key, title, kind]) => lineChart({ title, kind, labels, formula: page.formulas[key],
    series: page.models.map((model, i) => {
      const all = numbers(model.statistics.all[key]), rest = model.statistics.rest;
      return { colour: theme.models[i % theme.models.length], all, rest: rest ? numbers(rest[key]) : all };
    }) }));
  const key = h("ul", { class: "key" }, page.models.map((model, i) =>
    h("li", {}, h("i", { class: "dot", style: { background: theme.models[i % theme.models.length] } }), model.name)),
  h("li", {}, h("i", { class: "solid" }), "without the first token"), h("li", {}, h("i", { class: "dashed" }), "all tokens"));
  return [key, h("div", { class: "charts" }, charts)];
}

function statisticsTables(page) {
  const sets = [["rest", "without the first token"], ["all", "all tokens"], ["first", "the first token alone"]];
  return page.models.flatMap((model) => sets.filter(([set]) => model.statistics[set]).map(([set, words]) =>
    dataTable(`${model.name}, ${words}`, [{ name: "layer" }, ...CHARTS.map(([, title]) => ({ name: title }))],
      model.labels.map((label, row) => [label, ...CHARTS.map(([key]) => number(numbers(model.statistics[set][key])[row]))]))));
}

function peaksSection(page) {
  return h("div", { class: "columns" }, page.models.map((model) => dataTable(model.name,
    [{ name: "layer" }, { name: "channel" }, { name: "value" }, { name: "token" }, { name: "text", text: true }],
    model.peaks.map((p) => [p.label, p.channel, signed(p.value), p.token, h("bdi", {}, quoted(model, p.token))]))));
}

function readingSection(page) {
  const rows = page.models.map((m) => (m.reading
    ? [m.name, m.reading.tokens, number(m.reading.nats), number(m.reading.perplexity), number(m.reading.bits_per_byte)]
    : [m.name, "n/a", "n/a", "n/a", "n/a"]));
  return dataTable("Teacher forced: each token after the first, given all before it", [{ name: "model", text: true },
    { name: "tokens predicted" }, { name: "nats a token" }, { name: "perplexity" }, { name: "bits a byte" }], rows);
}

async function main() {
  const page = JSON.parse(document.getElementById("payload").textContent);
  let theme = readTheme(page.palette);
  const recordings = await Promise.all(page.models.map(openRecording));
  const slot = (name) => document.getElementById(name);
  const eeg = new Eeg(page, recordings, theme);
  slot("eeg").append(eeg.node);
  slot("peaks").append(peaksSection(page));
  slot("reading").append(readingSection(page));
  slot("tables").append(fold("All numbers as tables", ...statisticsTables(page)));
  const themed = () => {
    theme = eeg.theme = readTheme(page.palette);
    slot("cards").replaceChildren(...page.models.map((m, i) => modelCard(m, theme.models[i % theme.models.length])));
    slot("statistics").replaceChildren(...statisticsSection(page, theme));
  };
  themed();
  eeg.start();
  darkTheme.addEventListener("change", () => { themed(); eeg.draw(); });
  document.documentElement.dataset.ready = "true";
}

main().catch((error) => {
  document.getElementById("problem").textContent = "This page could not be drawn: " + error.message;
  throw error;
});
