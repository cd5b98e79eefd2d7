// The lens: what the model would say if it stopped at each layer, and where an answer forms.

import { h, prepareCanvas } from "./dom.js";
import { number, shortLabel } from "./format.js";
import { barList, cellCanvas, cellText, choices, colourKey, drawColourKey, fitted, inkOn, inQuotes, longRows, tokenNames, topOf, within } from "./kit.js";
import { layerLines, lineKey } from "./lines.js";

const LENS_GUTTER = 54, LENS_HEAD = 40, LENS_ROW = 23, LENS_CELL = 78, LENS_ROWS = 34;

// colour: a place between 0 and 1 for row r and token t; deep is certain or far, as the key says.
function lensModes(data) {
  const { topProbability, entropy, kl, rank } = data, K = topProbability.shape[2], T = data.tokens.length;
  const most = Math.log(data.vocabulary) || 1, far = topOf(kl.values) || 1, worst = Math.log(Math.max(2, topOf(rank.values)));
  const root = [0, 0.01, 0.1, 0.3, 0.6, 1], at = (t, r) => r * T + t;
  return {
    probability: { place: (r, t) => Math.sqrt(topProbability.values[at(t, r) * K]), ticks: root.map((p) => [Math.sqrt(p), number(p)]),
      says: "probability of the token written in the cell, on a square-root scale" },
    entropy: { place: (r, t) => entropy.values[at(t, r)] / most, ticks: [0, 0.25, 0.5, 0.75, 1].map((p) => [p, number(p * most, 2)]),
      says: "entropy in nats; it ends where every token of the vocabulary is equally likely" },
    KL: { place: (r, t) => Math.sqrt(kl.values[at(t, r)] / far), ticks: [0, 0.1, 0.3, 0.6, 1].map((p) => [Math.sqrt(p), number(p * far, 2)]),
      says: "Kullback-Leibler divergence in nats of the last row from this one, on a square-root scale" },
    rank: { place: (r, t) => 1 - Math.log(rank.values[at(t, r)]) / worst,
      ticks: [0, 0.25, 0.5, 0.75, 1].map((p) => [p, number(Math.round(Math.exp((1 - p) * worst)), 3)]),
      says: "rank of the token that the last row finds likeliest; 1 is the first place" },
  };
}

export function drawLens(picture, page) {
  const data = picture.data, { labels, tokens, words, top, topProbability, rank, probability, nextRank, nextProbability, chosen } = data;
  const R = labels.length, T = tokens.length, K = top.shape[2], N = nextRank.shape[1], modes = lensModes(data), names = tokenNames(tokens);
  const stride = Math.ceil(R / LENS_ROWS);
  let mode = modes.probability, hovered = null, shift = 0, width = 0, cell = LENS_CELL;
  let rows = [];
  const pickRows = (every) => { rows = labels.map((_, r) => r).filter((r) => (R - 1 - r) % every === 0); };
  pickRows(stride);

  const at = (x, y) => {
    const t = Math.floor((x - LENS_GUTTER + shift) / cell), i = Math.floor((y - LENS_HEAD) / LENS_ROW);
    return x < LENS_GUTTER || t < 0 || t >= T || i >= rows.length ? null : { r: rows[Math.max(0, i)], t };
  };
  const here = () => ({ r: page.row(labels, R - 1), t: page.index("token", T, T - 1) });
  const pick = ({ r, t }) => page.select({ layer: labels[r], token: t });
  const table = cellCanvas(picture.alt, { at, pick, hover: (found) => { hovered = found; draw(); },
    move: (dx, dy) => {
      const now = here(), i = Math.max(0, rows.findIndex((r) => r >= now.r));
      pick({ r: rows[within(i + dy, rows.length)], t: within(now.t + dx, T) });
      reveal();
    } });
  const spacer = h("div", { class: "spacer" }), scroller = h("div", { class: "scroller" }, table, spacer);
  scroller.addEventListener("scroll", () => { shift = scroller.scrollLeft; hovered = null; draw(); });
  const reveal = () => {
    const left = here().t * cell, room = width - LENS_GUTTER;
    if (left < scroller.scrollLeft) scroller.scrollLeft = left;
    else if (left + cell > scroller.scrollLeft + room) scroller.scrollLeft = left + cell - room;
  };
  const key = colourKey(), keyText = h("p", { class: "legend-text" }), panel = h("aside", { class: "side", "aria-live": "polite" });
  const follow = h("p", { class: "about" }), lineNames = h("div", {});
  const charts = [layerLines(page, { title: "Rank (1 is the likeliest)", kind: "rank", labels }),
    layerLines(page, { title: "Probability", kind: "probability", labels })];

  function drawTable() {
    const { theme } = page, tall = LENS_HEAD + rows.length * LENS_ROW + 2;
    width = scroller.clientWidth;
    cell = Math.max(LENS_CELL, Math.min(150, (width - LENS_GUTTER) / T));
    spacer.style.setProperty("width", LENS_GUTTER + T * cell + "px");
    table.style.setProperty("width", width + "px");
    const { context: c } = prepareCanvas(table, tall), now = here();
    c.font = theme.font;
    c.textBaseline = "middle";
    c.textAlign = "center";
    const first = Math.floor(shift / cell), last = Math.min(T - 1, Math.ceil((shift + width - LENS_GUTTER) / cell));
    for (let t = first; t <= last; t++) {
      const x = LENS_GUTTER + t * cell - shift;
      c.fillStyle = t === now.t ? theme.accent : theme.soft;
      c.fillText(t, x + cell / 2, 9);
      c.fillStyle = t === now.t ? theme.accent : theme.ink;
      c.fillText(fitted(c, names[t], cell - 6), x + cell / 2, 26);
      rows.forEach((r, i) => {
        const y = LENS_HEAD + i * LENS_ROW, colour = page.shade(mode.place(r, t));
        c.fillStyle = colour;
        c.fillRect(x, y, cell - 1, LENS_ROW - 1);
        c.fillStyle = inkOn(colour);
        c.fillText(fitted(c, cellText(words[top.values[(r * T + t) * K]].text), cell - 8), x + cell / 2, y + LENS_ROW / 2);
      });
    }
    c.strokeStyle = theme.accent;
    c.lineWidth = 1.5;
    c.strokeRect(LENS_GUTTER + now.t * cell - shift - 1.5, LENS_HEAD - 1.5, cell + 2, rows.length * LENS_ROW + 2);
    const marked = hovered || now, i = rows.indexOf(marked.r);
    if (i >= 0) {
      c.strokeStyle = theme.ink;
      c.lineWidth = 2;
      c.strokeRect(LENS_GUTTER + marked.t * cell - shift, LENS_HEAD + i * LENS_ROW, cell - 1, LENS_ROW - 1);
    }
    c.clearRect(0, 0, LENS_GUTTER - 2, tall);
    c.textAlign = "right";
    c.fillStyle = theme.soft;
    c.fillText("token", LENS_GUTTER - 8, 9);
    rows.forEach((r, i) => {
      c.fillStyle = r === now.r ? theme.accent : theme.soft;
      c.fillText(shortLabel(labels[r]), LENS_GUTTER - 8, LENS_HEAD + (i + 0.5) * LENS_ROW);
    });
  }

  function drawPanel() {
    const { r, t } = hovered || here(), base = (r * T + t) * K, next = t < N ? r * N + t : -1;
    const fact = (name, value) => [h("dt", {}, name), h("dd", {}, value)];
    panel.replaceChildren(h("p", {}, "After ", h("bdi", {}, h("b", {}, inQuotes(tokens[t]))), h("span", { class: "quiet" }, ` (token ${t}), layer `),
      h("b", {}, labels[r]), h("span", { class: "quiet" }, " would say")),
    barList(Array.from({ length: K }, (_, k) => {
      const word = words[top.values[base + k]], p = topProbability.values[base + k];
      return { name: inQuotes(word.text), title: "id " + word.id, part: p, text: number(p, 3), strong: word.id === data.tokenIds[t + 1] };
    }), "The likeliest tokens"),
    h("dl", {}, fact("entropy", number(data.entropy.values[r * T + t], 3) + " nats"), fact("KL of the last row", number(data.kl.values[r * T + t], 3) + " nats"),
      fact("the last row’s first token", `rank ${number(rank.values[r * T + t])}, p ${number(probability.values[r * T + t], 3)}`),
      next >= 0 && fact("the token that follows", `rank ${number(nextRank.values[next])}, p ${number(nextProbability.values[next], 3)}`)));
    Object.assign(panel.dataset, { row: r, token: t, first: words[top.values[base]].text });
  }

  // The answer of the last row, what really follows, and the tokens that were asked for.
  function drawLines() {
    const { t } = here(), { theme } = page, column = (array, wide) => labels.map((_, r) => array.values[r * wide + t]);
    const final = words[top.values[((R - 1) * T + t) * K]], said = (word, what) => inQuotes(word) + " " + what;
    const lines = [{ name: said(final.text, "the last row’s first"), id: final.id, rank: column(rank, T), p: column(probability, T) }];
    if (t < N && data.tokenIds[t + 1] !== final.id) lines.push({ name: said(tokens[t + 1], "what follows"), rank: column(nextRank, N), p: column(nextProbability, N) });
    else if (t < N) lines[0].name += ", and what follows";
    for (const one of chosen) lines.push({ name: `${inQuotes(one.text)} (id ${one.id}) followed`, rank: column(one.rank, T), p: column(one.probability, T) });
    const coloured = lines.map((line, i) => ({ ...line, colour: theme.models[i % theme.models.length] }));
    follow.replaceChildren("After token ", h("b", {}, t), " ", h("bdi", {}, inQuotes(tokens[t])), ": how the answer forms, layer by layer.");
    lineNames.replaceChildren(lineKey(coloured));
    charts[0].show(coloured.map((line) => ({ ...line, values: line.rank })));
    charts[1].show(coloured.map((line) => ({ ...line, values: line.p })));
  }

  function draw() {
    drawTable();
    drawColourKey(key, page, mode.ticks, (p) => page.shade(p));
    keyText.textContent = "Colour: " + mode.says + ".";
    drawPanel();
    if (!hovered) drawLines();
  }
  page.listen(() => { draw(); reveal(); });
  const node = h("div", {}, h("div", { class: "tools bar" }, choices("Colour", Object.keys(modes).map((name) => [name, name]), (name) => { mode = modes[name]; draw(); }),
    stride > 1 && choices("Rows", [[stride, `every ${stride} layers`], [1, "all layers"]], (every) => { pickRows(every); draw(); })),
  h("div", { class: "withside" }, h("div", {}, scroller, h("div", { class: "keyline" }, key, keyText)), panel),
  h("div", { class: "trails" }, follow, lineNames, h("div", { class: "pair" }, charts.map((chart) => chart.node))));
  node.csv = () => longRows([["layer", labels], ["token", tokens.map((_, t) => t)]], {
    token_text: labels.flatMap(() => tokens),
    top_text: labels.flatMap((_, r) => tokens.map((_, t) => words[top.values[(r * T + t) * K]].text)),
    top_probability: topProbability.values.filter((_, i) => i % K === 0), entropy_nats: data.entropy.values, kl_nats: data.kl.values,
    final_rank: rank.values, final_probability: probability.values,
  });
  return node;
}
