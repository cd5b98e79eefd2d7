// Tables, as report/page_tables.py makes them.

import { h } from "./dom.js";

// columns: names, words: the numbers of the columns that hold words; look: a cell's attributes.
export function dataTable({ caption, columns, words, rows }, look = () => ({})) {
  const cell = (tag, text, i, scope) => h(tag + (words.includes(i) ? ".text" : ""), scope, h("bdi", text));
  return h("div.table", h("table", h("caption", caption),
    h("thead", h("tr", columns.map((name, i) => cell("th", name, i, { scope: "col" })))),
    h("tbody", rows.map((row, r) => h("tr", row.map((text, i) => (i ? cell("td", text, i, look(r, i)) : cell("th", text, i, { scope: "row" }))))))));
}

export function fold(summary, ...content) { return h("details", h("summary", summary), ...content); }
