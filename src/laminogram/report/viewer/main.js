// Builds the page of a study or an EEG from its payload.

import { modelCard } from "./cards.js";
import { darkTheme, modelColour, readTheme } from "./colour.js";
import { h } from "./dom.js";
import { Eeg } from "./eeg.js";
import { onResize, showPage } from "./frame.js";
import { lineChart } from "./lines.js";
import { openRecording } from "./recording.js";
import { dataTable, fold } from "./tables.js";

// A small chart of each statistic: solid without the first token, dashed with it.
function statisticsSection(page, eeg) {
  const labels = page.models.reduce((a, b) => (b.labels.length > a.labels.length ? b : a)).labels, key = h("ul.key");
  const charts = page.charts.map(({ title, kind, formula }) => lineChart(eeg, { title, kind, labels, tall: 128, about: formula }));
  function draw() {
    const colours = page.models.map((_, i) => modelColour(eeg.theme, i));
    key.replaceChildren(...page.models.map((model, i) => h("li", h("i.dot", { style: { background: colours[i] } }), model.name)),
      h("li", h("i.solid"), "without the first token"), h("li", h("i.dashed"), "all tokens"));
    page.charts.forEach(({ rest, all }, n) => charts[n].show(page.models.map(({ name }, i) => ({ name, colour: colours[i], values: rest[i], dashed: all[i] }))));
  }
  eeg.onSelect = draw;
  return { node: [key, h("div.charts", charts.map((chart) => chart.node))], draw };
}

showPage(async (page) => {
  const eeg = new Eeg(page, await Promise.all(page.models.map(openRecording)), readTheme(page.palette));
  const statistics = statisticsSection(page, eeg), slot = (name) => document.getElementById(name), { tables } = page;
  slot("eeg").append(eeg.node);
  slot("statistics").append(...statistics.node);
  slot("peaks").append(h("div.columns", tables.peaks.map((one) => dataTable(one))));
  slot("reading").append(dataTable(tables.reading));
  slot("tables").append(fold("All numbers as tables", ...tables.statistics.map((one) => dataTable(one))));
  const themed = () => {
    eeg.theme = readTheme(page.palette);
    slot("cards").replaceChildren(...page.models.map((model, i) => (model.card ? modelCard(model, modelColour(eeg.theme, i)) : "")));
    statistics.draw();
  };
  themed();
  eeg.start();
  darkTheme.addEventListener("change", () => { themed(); eeg.draw(); });
  onResize(slot("eeg"), () => { eeg.draw(); statistics.draw(); });
});
