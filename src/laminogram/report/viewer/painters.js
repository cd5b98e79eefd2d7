// The painters' study: curves of its variants with intervals, and tables whose cells are coloured.

import { modelColour } from "./colour.js";
import { h } from "./dom.js";
import { inkOn } from "./kit.js";
import { lineChart, lineKey } from "./lines.js";
import { dataTable } from "./tables.js";

export function drawPainters({ data: { axis, labels, charts, grids } }, page) {
  const key = h("div"), cells = h("div"), drawn = charts.map((one) => lineChart(page, { ...one, axis, labels, tall: 210 }));
  const inked = ({ series }) => series.map((s, n) => ({ ...s, colour: modelColour(page.theme, n) }));
  page.listen(() => {
    key.replaceChildren(charts[0]?.series[1] ? lineKey(inked(charts[0])) : "");
    drawn.forEach((chart, n) => chart.show(inked(charts[n])));
    cells.replaceChildren(...grids.map((grid) => dataTable(grid, (r, i) => {
      const place = grid.places[r][i - 1], colour = page.shade(place);
      return place === null ? {} : { style: { "background-color": colour, color: inkOn(colour) } };
    })));
  });
  return h("div", key, h("div.pair", drawn.map((chart) => chart.node)), cells);
}
