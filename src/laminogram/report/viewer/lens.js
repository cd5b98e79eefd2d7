// The lens: what the model would say at each layer, and where an answer forms.

import { modelColour } from "./colour.js";
import { box, h, letter, prepareCanvas } from "./dom.js";
import { inQuotes, number, shortLabel } from "./format.js";
import { barList, cellCanvas, choices, colourKey, drawColourKey, factList, fitted, inkOn, longRows, sidePanel, upTo, within } from "./kit.js";
import { lineChart, lineKey } from "./lines.js";

const LENS_GUTTER = 54, LENS_HEAD = 40, LENS_ROW = 23, LENS_CELL = 78, LENS_ROWS = 34;

export function drawLens(picture, page) {
  const { labels, tokens, tokenIds, names, words, modes, chosen, top, topProbability, entropy, kl, rank, probability, nextRank, nextProbability } = picture.data;
  const K = top.shape[2], N = nextRank.shape[1], R = labels.length, T = tokens.length, stride = Math.ceil(R / LENS_ROWS);
  const firstWord = (r, t) => words[top[(r * T + t) * K]];
  // Where a cell stands between 0 and 1: deep is certain or far, as the key says.
  const places = {
    probability: (i) => Math.sqrt(topProbability[i * K]), entropy: (i, end) => entropy[i] / end,
    KL: (i, end) => Math.sqrt(kl[i] / end), rank: (i, end) => 1 - Math.log(rank[i]) / Math.log(end),
  };
  let mode = modes[0], hovered = null, shift = 0, width = 0, cell = LENS_CELL, rows = [];
  const pickRows = (every) => { rows = upTo(R).filter((r) => (R - 1 - r) % every === 0); };
  pickRows(stride);

  const here = () => ({ r: page.row(labels, R - 1), t: page.index("token", T, T - 1) });
  const pick = ({ r, t }) => page.select({ layer: labels[r], token: t });
  const table = cellCanvas(picture.alt, { pick, hover: (found) => { hovered = found; draw(); },
    at: (x, y) => {
      const t = Math.floor((x - LENS_GUTTER + shift) / cell), i = Math.floor((y - LENS_HEAD) / LENS_ROW);
      return x < LENS_GUTTER || t < 0 || t >= T || i >= rows.length ? null : { r: rows[Math.max(0, i)], t };
    },
    move: (dx, dy) => {
      const now = here(), i = Math.max(0, rows.findIndex((r) => r >= now.r));
      pick({ r: rows[within(i + dy, rows.length)], t: within(now.t + dx, T) });
    } });
  const spacer = h("div.spacer"), scroller = h("div.scroller", table, spacer);
  scroller.addEventListener("scroll", () => { shift = scroller.scrollLeft; hovered = null; draw(); });
  const reveal = () => {
    const left = here().t * cell, room = width - LENS_GUTTER;
    if (left < scroller.scrollLeft) scroller.scrollLeft = left;
    else if (left + cell > scroller.scrollLeft + room) scroller.scrollLeft = left + cell - room;
  };
  const key = colourKey(), keyText = h("p.legend-text"), panel = sidePanel(), follow = h("p.about"), lineNames = h("div");
  const charts = [["rank", "Rank (1 is the likeliest)"], ["probability", "Probability"]].map(([kind, title]) => lineChart(page, { title, kind, labels }));

  function drawTable() {
    const { theme } = page, tall = LENS_HEAD + rows.length * LENS_ROW + 2, high = rows.length * LENS_ROW;
    width = scroller.clientWidth;
    cell = Math.max(LENS_CELL, Math.min(150, (width - LENS_GUTTER) / T));
    spacer.style.setProperty("width", LENS_GUTTER + T * cell + "px");
    table.style.setProperty("width", width + "px");
    const { context: c } = prepareCanvas(table, tall, theme), now = here(), xOf = (t) => LENS_GUTTER + t * cell - shift, yOf = (i) => LENS_HEAD + i * LENS_ROW;
    const first = Math.floor(shift / cell), last = Math.min(T - 1, Math.ceil((shift + width - LENS_GUTTER) / cell));
    for (let t = first; t <= last; t++) {
      const middle = xOf(t) + cell / 2;
      letter(c, t, middle, 9, t === now.t ? theme.accent : theme.soft);
      letter(c, fitted(c, names[t], cell - 6), middle, 26, t === now.t ? theme.accent : theme.ink);
      rows.forEach((r, i) => {
        const colour = c.fillStyle = page.shade(places[mode.name](r * T + t, mode.end));
        c.fillRect(xOf(t), yOf(i), cell - 1, LENS_ROW - 1);
        letter(c, fitted(c, firstWord(r, t).name, cell - 8), middle, yOf(i) + LENS_ROW / 2, inkOn(colour));
      });
    }
    box(c, xOf(now.t) - 1.5, LENS_HEAD - 1.5, cell + 2, high + 2, theme.accent, 1.5);
    const marked = hovered || now, at = rows.indexOf(marked.r);
    if (at >= 0) box(c, xOf(marked.t), yOf(at), cell - 1, LENS_ROW - 1, theme.ink, 2);
    c.clearRect(0, 0, LENS_GUTTER - 2, tall);
    letter(c, "token", LENS_GUTTER - 8, 9, theme.soft, "right");
    rows.forEach((r, i) => letter(c, shortLabel(labels[r]), LENS_GUTTER - 8, yOf(i + 0.5), r === now.r ? theme.accent : theme.soft, "right"));
  }

  function drawPanel() {
    const { r, t } = hovered || here(), i = r * T + t, next = t < N ? r * N + t : -1;
    const said = (ranks, probabilities, at) => `rank ${number(ranks[at])}, p ${number(probabilities[at], 3)}`;
    panel.replaceChildren(h("p", "After ", h("bdi", h("b", inQuotes(tokens[t]))), h("span.quiet", ` (token ${t}), layer `),
      h("b", labels[r]), h("span.quiet", " would say")),
    barList(upTo(K).map((k) => {
      const word = words[top[i * K + k]], p = topProbability[i * K + k];
      return { name: inQuotes(word.text), title: "id " + word.id, part: p, text: number(p, 3), look: word.id === tokenIds[t + 1] && "strong" };
    }), "The likeliest tokens"),
    factList([["entropy", number(entropy[i], 3) + " nats"], ["KL of the last row", number(kl[i], 3) + " nats"],
      ["the last row’s first token", said(rank, probability, i)], next >= 0 && ["the token that follows", said(nextRank, nextProbability, next)]]));
    Object.assign(panel.dataset, { row: r, token: t, first: firstWord(r, t).text });
  }

  // The last row's answer, what really follows, and what was asked for.
  function drawLines() {
    const { t } = here(), final = firstWord(R - 1, t), lines = [];
    const add = (name, ranks, probabilities, wide) => lines.push({ name, colour: modelColour(page.theme, lines.length),
      ranks: upTo(R).map((r) => ranks[r * wide + t]), probabilities: upTo(R).map((r) => probabilities[r * wide + t]) });
    const follows = t < N && tokenIds[t + 1] === final.id;
    add(inQuotes(final.text) + " the last row’s first" + (follows ? ", and what follows" : ""), rank, probability, T);
    if (t < N && !follows) add(inQuotes(tokens[t + 1]) + " what follows", nextRank, nextProbability, N);
    for (const one of chosen) add(`${inQuotes(one.text)} (id ${one.id}) followed`, one.rank, one.probability, T);
    follow.replaceChildren("After token ", h("b", t), " ", h("bdi", inQuotes(tokens[t])), ": how the answer forms, layer by layer.");
    lineNames.replaceChildren(lineKey(lines));
    charts[0].show(lines.map((line) => ({ ...line, values: line.ranks })));
    charts[1].show(lines.map((line) => ({ ...line, values: line.probabilities })));
  }

  function draw() {
    drawTable();
    drawColourKey(key, page.theme, mode.ticks);
    keyText.textContent = "Colour: " + mode.says + ".";
    drawPanel();
    if (!hovered) drawLines();
  }
  page.listen(() => { draw(); reveal(); });
  const node = h("div", h("div.tools.bar", choices("Colour", modes, (one) => { mode = one; draw(); }),
    stride > 1 && choices("Rows", [{ key: stride, name: `every ${stride} layers` }, { key: 1, name: "all layers" }], (one) => { pickRows(one.key); draw(); })),
  h("div.withside", h("div", scroller, h("div.keyline", key, keyText)), panel),
  h("div.trails", follow, lineNames, h("div.pair", charts.map((chart) => chart.node))));
  node.csv = () => longRows([["layer", labels], ["token", upTo(T)]], {
    token_text: labels.flatMap(() => tokens), top_text: upTo(R).flatMap((r) => tokens.map((_, t) => firstWord(r, t).text)),
    top_probability: topProbability.filter((_, i) => i % K === 0), entropy_nats: entropy, kl_nats: kl, final_rank: rank, final_probability: probability,
  });
  return node;
}
