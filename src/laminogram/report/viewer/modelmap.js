// The model map: the stack as its layers and parts, wide as they have parameters, coloured by a statistic.

import { h, prepareCanvas } from "./dom.js";
import { bytes, count, number, short } from "./format.js";
import { cellCanvas, colourKey, drawColourKey, inkOn, within } from "./kit.js";

const STACK_LEFT = 96, STACK_RIGHT = 250, KINDS = ["norms", "attn", "ffn", "embedding", "head"];

export function drawModelMap(picture, page) {
  const { labels, parts, statistics, steps } = picture.data, names = Object.keys(statistics);
  // Rows: what stands before the layers, the layers, what stands after them.
  const rows = [];
  for (const part of parts) {
    const last = rows[rows.length - 1];
    if (part.layer !== null && last && last.layer === part.layer) last.parts.push(part);
    else rows.push({ layer: part.layer, label: part.layer === null ? part.label : labels[part.layer] ?? part.label, parts: [part] });
  }
  for (const row of rows) {
    row.parts.sort((a, b) => KINDS.indexOf(a.kind) - KINDS.indexOf(b.kind));
    row.parameters = row.parts.reduce((sum, part) => sum + part.parameters, 0);
    row.bytes = row.parts.reduce((sum, part) => sum + part.bytes, 0);
  }
  const widest = rows.reduce((most, row) => Math.max(most, row.parameters), 1), total = rows.reduce((sum, row) => sum + row.parameters, 0);
  const tall = rows.length > 60 ? 13 : rows.length > 30 ? 19 : 30;
  let statistic = "", hovered = null, boxes = [];

  const chosen = () => rows.findIndex((row) => row.layer !== null && row.layer === page.row(labels));
  const stack = cellCanvas(picture.alt, {
    at: (x, y) => {
      const r = Math.floor((y - 4) / tall);
      return rows[r] ? { r, part: (boxes.find((b) => b.r === r && x >= b.x && x <= b.x + b.wide) || {}).part || null } : null;
    },
    hover: (found) => { hovered = found; draw(); },
    pick: ({ r }) => { if (rows[r].layer !== null) page.select({ layer: labels[rows[r].layer] }); },
    move: (dx, dy) => page.select({ layer: labels[within(page.row(labels, dy > 0 ? -1 : labels.length) + dy, labels.length)] }) });
  const panel = h("aside", { class: "side", "aria-live": "polite" }), key = colourKey(), says = h("p", { class: "legend-text" });
  const valueName = h("span", {});
  const pick = h("select", { "aria-label": "Colour by", onchange: () => { statistic = pick.value; draw(); } },
    h("option", { value: "" }, "kind of part"), names.map((name) => h("option", { value: name }, name)));

  // A statistic of attn colours the token mixer, one of ffn the channel mixer, others all.
  const concerns = (kind) => (/attn/.test(statistic) ? kind === "attn" : /ffn/.test(statistic) ? kind === "ffn" : true);

  function draw() {
    const { theme } = page, { context: c, width } = prepareCanvas(stack, rows.length * tall + 10), style = getComputedStyle(document.documentElement);
    const real = statistic ? statistics[statistic].filter((v) => Number.isFinite(v)) : [], low = Math.min(0, ...real), high = Math.max(...real, 1e-12);
    const room = Math.max(60, width - STACK_LEFT - STACK_RIGHT), marked = chosen();
    boxes = [];
    c.font = theme.font;
    c.textBaseline = "middle";
    c.strokeStyle = theme.faint;
    c.lineWidth = 3;
    c.beginPath();
    c.moveTo(STACK_LEFT - 16, 4 + tall / 2);
    c.lineTo(STACK_LEFT - 16, 4 + (rows.length - 0.5) * tall);
    c.stroke();
    rows.forEach((row, r) => {
      const y = 4 + r * tall, middle = y + tall / 2, value = row.layer === null || !statistic ? NaN : statistics[statistic][row.layer];
      if (hovered && hovered.r === r) { c.fillStyle = theme.band; c.fillRect(0, y, width, tall); }
      c.fillStyle = r === marked ? theme.accent : row.layer === null ? theme.ink : theme.soft;
      c.textAlign = "right";
      c.fillText(row.label, STACK_LEFT - 30, middle);
      c.beginPath();
      c.arc(STACK_LEFT - 16, middle, row.layer === null ? 4 : 3, 0, 7);
      c.fill();
      let x = STACK_LEFT;
      for (const part of row.parts) {
        const wide = Math.max(2, part.parameters / widest * room - 1), box = { r, part, x, wide };
        let colour = style.getPropertyValue("--" + part.kind).trim();
        if (statistic) colour = row.layer !== null && concerns(part.kind) && part.kind !== "norms" && Number.isFinite(value) ? page.shade((value - low) / (high - low)) : theme.band;
        c.fillStyle = colour;
        c.fillRect(x, y + 2, wide, tall - 4);
        if (statistic) { c.strokeStyle = theme.line; c.lineWidth = 1; c.strokeRect(x + 0.5, y + 2.5, wide - 1, tall - 5); }
        if (tall > 16 && c.measureText(part.name).width + 12 < wide) {
          c.fillStyle = inkOn(/^#/.test(colour) ? colour : "#888888");
          c.textAlign = "left";
          c.fillText(part.name, x + 7, middle);
        }
        boxes.push(box);
        x += wide + 1;
      }
      if (r === marked) { c.strokeStyle = theme.accent; c.lineWidth = 2; c.strokeRect(STACK_LEFT - 1.5, y + 1, x - STACK_LEFT + 2, tall - 2); }
      c.textAlign = "right";
      c.fillStyle = theme.soft;
      c.fillText(short(row.parameters), width - 160, middle);
      c.fillText(bytes(row.bytes), width - 80, middle);
      c.fillStyle = theme.ink;
      if (statistic && row.layer !== null) c.fillText(number(value, 3), width - 4, middle);
    });
    key.hidden = !statistic;
    valueName.textContent = statistic ? "value" : "";
    if (statistic) drawColourKey(key, page, [0, 0.25, 0.5, 0.75, 1].map((p) => [p, number(low + p * (high - low), 2)]), (p) => page.shade(p));
    says.textContent = statistic ? `Colour: ${picture.data.meanings[statistic] || statistic}.` : "A box is as wide as it has parameters.";
    drawPanel(hovered || { r: marked, part: null });
  }

  function drawPanel({ r, part }) {
    const row = rows[r], fact = (name, value) => [h("dt", {}, name), h("dd", {}, value)];
    const shown = part ? [part] : row ? row.parts : [];
    panel.replaceChildren(...(row ? [h("p", {}, h("b", {}, row.layer === null ? row.label : `Layer ${row.label}`),
      row.layer !== null && steps[row.layer] && h("span", { class: "quiet" }, steps[row.layer].length ? "" : ", which the plan leaves out")),
    ...shown.map((one) => h("dl", {}, h("dt", { class: "now" }, h("i", { class: "part-" + one.kind }), " " + one.name), h("dd", {}, count(one.parameters)),
      fact("memory", bytes(one.bytes)), fact("share of all", number(100 * one.parameters / total, 3) + " %"), one.shape && h("dd", { class: "shape" }, one.shape))),
    row.layer !== null && names.length > 0 && h("dl", {}, names.filter((name) => name !== "parameters" && name !== "bytes").flatMap((name) => fact(name, number(statistics[name][row.layer], 3))))]
      : [h("p", { class: "quiet" }, "Point at a part; click a layer to select it in every picture.")]));
    Object.assign(panel.dataset, { row: row ? row.label : "", part: part ? part.name : "" });
  }
  page.listen(draw);
  const node = h("div", {}, h("div", { class: "tools bar" }, h("label", {}, "Colour by ", pick)),
    h("div", { class: "withside" }, h("div", {}, h("p", { class: "heads" }, h("span", {}, "parameters"), h("span", {}, "memory"), valueName), stack,
      h("div", { class: "keyline" }, key, says)), panel));
  node.csv = () => [["label", "layer", "kind", "name", "parameters", "bytes", "shape", ...names], ...parts.map((part) =>
    [part.label, part.layer, part.kind, part.name, part.parameters, part.bytes, part.shape, ...names.map((name) => (part.layer === null ? null : statistics[name][part.layer]))])];
  return node;
}
