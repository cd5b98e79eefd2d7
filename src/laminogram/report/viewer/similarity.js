// Similarity: every state with every other, and the groups that they fall into.

import { h, prepareCanvas } from "./dom.js";
import { number, shortLabel } from "./format.js";
import { cellCanvas, choices, colourKey, drawColourKey, longRows, within } from "./kit.js";

const SIM_LEFT = 64, SIM_BOTTOM = 40;
const SIM_NAMES = { flattened: "flattened", perToken: "per token", withoutFirst: "without token 0", cka: "CKA" };
const SIM_SAYS = {
  flattened: "cosine of the whole text’s states as one vector, so that large tokens weigh most",
  perToken: "mean over tokens of the cosine of each token’s states",
  withoutFirst: "the same without the first token, whose state can be thousands of times the others",
  cka: "linear centred kernel alignment: whether two states hold the same relations between tokens",
};

export function drawSimilarity(picture, page) {
  const data = picture.data, { labels, groups, matrices } = data, R = labels.length, kinds = Object.keys(SIM_NAMES).filter((kind) => matrices[kind]);
  let kind = kinds[0], hovered = null, side = 300;
  const shownValues = () => matrices[kind].values, value = (which, i, j) => matrices[which].values[i * R + j];
  const range = () => {
    let low = 1;
    for (const v of shownValues()) if (v < low) low = v;
    return Math.max(-1, Math.floor(low * 10) / 10 >= 1 ? 0.9 : Math.floor(low * 10) / 10);
  };
  const pick = ({ i, j }) => page.select({ layer: labels[i], state: j });
  const here = () => ({ i: page.row(labels, R - 1), j: page.index("state", R, 0) });
  const matrix = cellCanvas(picture.alt, {
    at: (x, y) => {
      const i = Math.floor(y / side * R), j = Math.floor((x - SIM_LEFT) / side * R);
      return i < 0 || i >= R || j < 0 || j >= R ? null : { i, j };
    },
    pick, hover: (found) => { hovered = found; draw(); },
    move: (dx, dy) => { const { i, j } = here(); pick({ i: within(i + dy, R), j: within(j + dx, R) }); } });
  const panel = h("aside", { class: "side", "aria-live": "polite" }), key = colourKey(), says = h("p", { class: "legend-text" });

  function draw() {
    const { theme } = page, values = shownValues(), low = range();
    side = Math.max(100, Math.min(620, matrix.clientWidth - SIM_LEFT - 8));
    const { context: c } = prepareCanvas(matrix, side + SIM_BOTTOM), cell = side / R, gap = cell > 9 ? 1 : 0;
    for (let i = 0; i < R; i++) for (let j = 0; j < R; j++) {
      c.fillStyle = page.shade((values[i * R + j] - low) / (1 - low));
      c.fillRect(SIM_LEFT + j * cell, i * cell, cell - gap + 0.3, cell - gap + 0.3);
    }
    c.font = theme.font;
    c.textBaseline = "middle";
    const every = Math.ceil(14 / cell), wide = Math.ceil(40 / cell), { i: row, j: column } = hovered || here();
    for (let i = 0; i < R; i++) {
      c.fillStyle = i === row ? theme.accent : theme.soft;
      c.textAlign = "right";
      if ((R - 1 - i) % every === 0 || i === row) c.fillText(shortLabel(labels[i]), SIM_LEFT - 8, (i + 0.5) * cell);
      c.fillStyle = i === column ? theme.accent : theme.soft;
      c.textAlign = "center";
      if ((R - 1 - i) % wide === 0) c.fillText(shortLabel(labels[i]), SIM_LEFT + (i + 0.5) * cell, side + 12);
    }
    for (const group of groups) {
      const x = SIM_LEFT + group.first * cell, y = group.first * cell, size = (group.last - group.first + 1) * cell - gap;
      Object.assign(c, { strokeStyle: theme.paper, lineWidth: 5 });
      c.strokeRect(x, y, size, size);
      Object.assign(c, { strokeStyle: theme.accent, lineWidth: 2 });
      c.strokeRect(x, y, size, size);
      c.textAlign = "center";
      c.fillStyle = theme.accent;
      const room = c.measureText(group.name).width + 6 <= size;
      if (room || groups.length < 6) c.fillText(group.name, Math.min(SIM_LEFT + side - 24, Math.max(SIM_LEFT + 26, x + size / 2)), side + 28);
    }
    Object.assign(c, { strokeStyle: theme.ink, lineWidth: 1.5 });
    c.strokeRect(SIM_LEFT + column * cell, row * cell, cell - gap, cell - gap);
    drawColourKey(key, page, [0, 0.25, 0.5, 0.75, 1].map((p) => [p, number(low + p * (1 - low), 3)]), (p) => page.shade(p));
    says.textContent = `Colour: ${SIM_SAYS[kind]}.`;
    panel.replaceChildren(h("p", {}, "State ", h("b", {}, labels[row]), " and state ", h("b", {}, labels[column])),
      h("dl", {}, kinds.flatMap((one) => [h("dt", { class: one === kind ? "now" : null }, SIM_NAMES[one]), h("dd", {}, number(value(one, row, column), 4))])),
      groups.length ? h("dl", {}, h("dt", { class: "now" }, "groups"), h("dd", {}), groups.flatMap((group) => [h("dt", {}, group.name),
        h("dd", {}, group.first === group.last ? labels[group.first] : `${labels[group.first]} to ${labels[group.last]}`)]))
        : h("p", { class: "quiet" }, "too few states for groups"), h("p", { class: "quiet" }, data.rule));
    Object.assign(panel.dataset, { row, column, value: value(kind, row, column) });
  }
  page.listen(draw);
  const node = h("div", {}, h("div", { class: "tools bar" }, choices("Measure", kinds.map((one) => [one, SIM_NAMES[one]]), (one) => { kind = one; draw(); })),
    h("div", { class: "withside" }, h("div", {}, matrix, h("div", { class: "keyline" }, key, says)), panel));
  node.csv = () => longRows([["state", labels], ["other", labels]], Object.fromEntries(kinds.map((one) => [one, matrices[one].values])));
  return node;
}
