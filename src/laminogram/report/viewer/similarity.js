// Similarity: every state with every other, and the groups that they fall into.

import { box, h, letter, prepareCanvas } from "./dom.js";
import { number, shortLabel } from "./format.js";
import { cellCanvas, choices, colourKey, drawColourKey, evenTicks, factList, sidePanel, within } from "./kit.js";

const SIM_LEFT = 64, SIM_BOTTOM = 40;

export function drawSimilarity(picture, page) {
  // measures: { key, name, says, matrix }, those that there are.
  const { labels, groups, measures, rule } = picture.data, R = labels.length;
  let shown = measures[0], hovered = null, side = 300;
  const value = ({ matrix }, i, j) => matrix[i * R + j], pick = ({ i, j }) => page.select({ layer: labels[i], state: j });
  const here = () => ({ i: page.row(labels, R - 1), j: page.index("state", R, 0) });
  const matrix = cellCanvas(picture.alt, {
    at: (x, y) => {
      const i = Math.floor(y / side * R), j = Math.floor((x - SIM_LEFT) / side * R);
      return i < 0 || i >= R || j < 0 || j >= R ? null : { i, j };
    },
    pick, hover: (found) => { hovered = found; draw(); },
    move: (dx, dy) => { const { i, j } = here(); pick({ i: within(i + dy, R), j: within(j + dx, R) }); } });
  const panel = sidePanel(), key = colourKey(), says = h("p.legend-text");

  function draw() {
    const { theme } = page, values = shown.matrix, least = values.reduce((low, v) => (v < low ? v : low), 1);
    const low = Math.max(-1, least < 1 ? Math.floor(least * 10) / 10 : 0.9);
    side = Math.max(100, Math.min(620, matrix.clientWidth - SIM_LEFT - 8));
    const { context: c } = prepareCanvas(matrix, side + SIM_BOTTOM, theme), cell = side / R, gap = cell > 9 ? 1 : 0;
    for (let i = 0; i < R; i++) for (let j = 0; j < R; j++) {
      c.fillStyle = page.shade((values[i * R + j] - low) / (1 - low));
      c.fillRect(SIM_LEFT + j * cell, i * cell, cell - gap + 0.3, cell - gap + 0.3);
    }
    const every = Math.ceil(14 / cell), wide = Math.ceil(40 / cell), { i: row, j: column } = hovered || here();
    labels.forEach((label, i) => {
      const at = (i + 0.5) * cell, fromEnd = R - 1 - i;
      if (fromEnd % every === 0 || i === row) letter(c, shortLabel(label), SIM_LEFT - 8, at, i === row ? theme.accent : theme.soft, "right");
      if (fromEnd % wide === 0) letter(c, shortLabel(label), SIM_LEFT + at, side + 12, i === column ? theme.accent : theme.soft);
    });
    for (const { name, first, last } of groups) {
      const at = first * cell, size = (last - first + 1) * cell - gap, middle = SIM_LEFT + at + size / 2;
      box(c, SIM_LEFT + at, at, size, size, theme.paper, 5);
      box(c, SIM_LEFT + at, at, size, size, theme.accent, 2);
      letter(c, name, Math.min(SIM_LEFT + side - 24, Math.max(SIM_LEFT + 26, middle)), side + 28, theme.accent);
    }
    box(c, SIM_LEFT + column * cell, row * cell, cell - gap, cell - gap, theme.ink, 1.5);
    drawColourKey(key, theme, evenTicks((p) => number(low + p * (1 - low), 3)));
    says.textContent = `Colour: ${shown.says}.`;
    panel.replaceChildren(h("p", "State ", h("b", labels[row]), " and state ", h("b", labels[column])),
      factList(measures.map((one) => [one.name, number(value(one, row, column), 4), one === shown])),
      factList(groups.map(({ name, says: span }) => [name, span])), h("p.quiet", rule));
    Object.assign(panel.dataset, { row, column, value: value(shown, row, column) });
  }
  page.listen(draw);
  return h("div", h("div.tools.bar", choices("Measure", measures, (one) => { shown = one; draw(); })),
    h("div.withside", h("div", matrix, h("div.keyline", key, says)), panel));
}
