// The model map: layers and parts, wide as they have parameters, coloured by a statistic.

import { box, dot, h, letter, polyline, prepareCanvas } from "./dom.js";
import { number } from "./format.js";
import { cellCanvas, colourKey, drawColourKey, evenTicks, factList, inkOn, sidePanel, within } from "./kit.js";

const STACK_LEFT = 96, STACK_RIGHT = 250, SPINE = STACK_LEFT - 16;

export function drawModelMap(picture, page) {
  // rows: what stands before the layers, the layers, what stands after them.
  const { labels, rows, statistics, meanings, concerns } = picture.data, names = Object.keys(statistics);
  const widest = Math.max(1, ...rows.map((row) => row.parameters));
  const tall = rows.length > 60 ? 13 : rows.length > 30 ? 19 : 30;
  let statistic = "", hovered = null, boxes = [];

  const selectLayer = (layer) => page.select({ layer: labels[layer] });
  const stack = cellCanvas(picture.alt, {
    at: (x, y) => {
      const r = Math.floor((y - 4) / tall);
      return rows[r] ? { r, part: boxes.find((b) => b.r === r && x >= b.x && x <= b.x + b.wide)?.part } : null;
    },
    hover: (found) => { hovered = found; draw(); },
    pick: ({ r }) => { if (rows[r].layer !== null) selectLayer(rows[r].layer); },
    move: (dx, dy) => selectLayer(within(page.row(labels, dy > 0 ? -1 : labels.length) + dy, labels.length)) });
  const panel = sidePanel(), key = colourKey(), says = h("p.legend-text"), valueName = h("span");
  const pick = h("select", { "aria-label": "Colour by", onchange: () => { statistic = pick.value; draw(); } },
    h("option", { value: "" }, "kind of part"), names.map((name) => h("option", { value: name }, name)));

  function draw() {
    const { theme } = page, { context: c, width } = prepareCanvas(stack, rows.length * tall + 10, theme), values = statistics[statistic] || [];
    const real = values.filter(Number.isFinite), low = Math.min(0, ...real), high = Math.max(...real, 1e-12);
    const room = Math.max(60, width - STACK_LEFT - STACK_RIGHT), marked = rows.findIndex((row) => row.layer !== null && row.layer === page.row(labels));
    boxes = [];
    polyline(c, [[SPINE, 4 + tall / 2], [SPINE, 4 + (rows.length - 0.5) * tall]], theme.faint, 3);
    rows.forEach((row, r) => {
      const y = 4 + r * tall, middle = y + tall / 2, inside = row.layer !== null, value = inside && statistic ? values[row.layer] : NaN;
      if (hovered && hovered.r === r) { c.fillStyle = theme.band; c.fillRect(0, y, width, tall); }
      letter(c, row.label, STACK_LEFT - 30, middle, r === marked ? theme.accent : inside ? theme.soft : theme.ink, "right");
      dot(c, SPINE, middle, inside ? 3 : 4, c.fillStyle);
      let x = STACK_LEFT;
      for (const part of row.parts) {
        const wide = Math.max(2, part.parameters / widest * room - 1);
        const colour = !statistic ? theme[part.kind] : concerns[statistic].includes(part.kind) && Number.isFinite(value) ? page.shade((value - low) / (high - low)) : theme.band;
        c.fillStyle = colour;
        c.fillRect(x, y + 2, wide, tall - 4);
        if (statistic) box(c, x + 0.5, y + 2.5, wide - 1, tall - 5, theme.line);
        if (tall > 16 && c.measureText(part.name).width + 12 < wide) letter(c, part.name, x + 7, middle, inkOn(colour), "left");
        boxes.push({ r, part, x, wide });
        x += wide + 1;
      }
      if (r === marked) box(c, STACK_LEFT - 1.5, y + 1, x - STACK_LEFT + 2, tall - 2, theme.accent, 2);
      letter(c, row.size, width - 160, middle, theme.soft, "right");
      letter(c, row.memory, width - 80, middle, theme.soft, "right");
      if (statistic && inside) letter(c, number(value, 3), width - 4, middle, theme.ink, "right");
    });
    key.hidden = !statistic;
    valueName.textContent = statistic ? "value" : "";
    if (statistic) drawColourKey(key, theme, evenTicks((p) => number(low + p * (high - low), 2)));
    says.textContent = statistic ? `Colour: ${meanings[statistic]}.` : "A box is as wide as it has parameters.";
    drawPanel(hovered || { r: marked });
  }

  function drawPanel({ r, part }) {
    const row = rows[r], inside = row && row.layer !== null;
    panel.replaceChildren(...(row ? [h("p", h("b", inside ? `Layer ${row.label}` : row.label), h("span.quiet", row.note)),
      ...(part ? [part] : row.parts).map((one) => h("dl", h("dt.now", h("i.part-" + one.kind), " " + one.name), h("dd", one.size),
        ...factList(one.facts).childNodes, one.shape && h("dd.shape", one.shape))),
      inside ? factList(names.filter((name) => name !== "parameters" && name !== "bytes").map((name) => [name, number(statistics[name][row.layer], 3)])) : ""]
      : [h("p.quiet", "Point at a part; click a layer to select it in every picture.")]));
    Object.assign(panel.dataset, { row: row ? row.label : "", part: part ? part.name : "" });
  }
  page.listen(draw);
  return h("div", h("div.tools.bar", h("label", "Colour by ", pick)),
    h("div.withside", h("div", h("p.heads", h("span", "parameters"), h("span", "memory"), valueName), stack, h("div.keyline", key, says)), panel));
}
