// Tables with a head, real columns and right-aligned numbers.

import { h } from "./dom.js";

export function dataTable(caption, columns, rows) {
  return h("div", { class: "table" }, h("table", {}, h("caption", {}, caption),
    h("thead", {}, h("tr", {}, columns.map((c) => h("th", { scope: "col", class: c.text ? "text" : null }, c.name)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, i) => {
      const text = columns[i].text ? "text" : null;
      return i ? h("td", { class: text }, cell) : h("th", { scope: "row", class: text }, cell);
    }))))));
}

export function fold(summary, ...content) {
  return h("details", {}, h("summary", {}, summary), ...content);
}
