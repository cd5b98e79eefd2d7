// Attention: a small map of every head, one large map with its tokens.

import { paintPixels } from "./colour.js";
import { box, h, letter, prepareCanvas } from "./dom.js";
import { inQuotes, number, shortLabel, signed } from "./format.js";
import { barList, cellCanvas, colourKey, drawColourKey, fitted, longRows, sidePanel, topOf, upTo, within } from "./kit.js";

const MAP_LEFT = 96, MAP_TOP = 84, THUMB_LEFT = 46, THUMB_TOP = 20;

export function drawAttention(picture, page) {
  const { labels, tokens, names, pooled, says, pattern, signed: two } = picture.data, [L, H, t] = pattern.shape, T = tokens.length;
  const dots = pooled > 1 ? "…" : "", limit = two ? topOf(pattern, Math.abs) || 1 : 1, write = two ? signed : number;
  // On a square-root scale, between -1 and 1 as the colour tables are.
  const place = (v) => { const root = Math.sqrt(Math.min(1, Math.abs(v) / limit)); return two ? Math.sign(v) * root : 2 * root - 1; };
  // One map a layer: wrapped into rows of four, with the layer's name below.
  const alone = H === 1, across = alone ? Math.min(L, 4) : H, down = alone ? Math.ceil(L / across) : L, under = alone ? 14 : 0;
  let hovered = null, thumb = 40, side = 400, sheets = new Map(), sheetTheme = null;

  const here = () => ({ l: page.row(labels, 0), head: page.index("head", H, 0) });
  const cellOf = (name, otherwise) => (page.selection[name] < T ? Math.floor(page.selection[name] / pooled) : otherwise);
  const locked = () => ({ q: cellOf("token", t - 1), k: cellOf("key", -1) });
  const start = ({ l, head }) => (l * H + head) * t * t, weight = (map, q, k) => pattern[start(map) + q * t + k];

  // One head as an image, a pixel a weight, kept until the theme changes.
  function sheet(l, head) {
    if (sheetTheme !== page.theme) { sheets = new Map(); sheetTheme = page.theme; }
    const from = start({ l, head });
    if (!sheets.has(from)) {
      sheets.set(from, paintPixels(h("canvas"), t, t, pattern.subarray(from, from + t * t).map(place), two ? page.theme.twoTable : page.theme.oneTable));
    }
    return sheets.get(from);
  }

  const corner = (l, head) => [THUMB_LEFT + (alone ? l % across : head) * thumb, THUMB_TOP + (alone ? Math.floor(l / across) : l) * (thumb + under)];
  const thumbs = cellCanvas(`${L} by ${H} small maps: layers down, heads across`, {
    at: (x, y) => {
      const column = Math.floor((x - THUMB_LEFT) / thumb), row = Math.floor((y - THUMB_TOP) / (thumb + under));
      const found = alone ? { l: row * across + column, head: 0 } : { l: row, head: column };
      return column < 0 || column >= across || row < 0 || found.l >= L ? null : found;
    },
    pick: ({ l, head }) => page.select({ layer: labels[l], head }),
    move: (dx, dy) => {
      const { l, head } = here(), by = alone ? dx + dy * across : dy;
      page.select({ layer: labels[within(l + by, L)], head: within(head + (alone ? 0 : dx), H) });
    } });
  const map = cellCanvas(picture.alt, {
    at: (x, y) => {
      const k = Math.floor((x - MAP_LEFT) / side * t), q = Math.floor((y - MAP_TOP) / side * t);
      return q < 0 || q >= t || k >= t ? null : { q, k: Math.max(-1, k) };
    },
    hover: (found) => { hovered = found; drawMap(); },
    pick: ({ q, k }) => {
      const now = locked(), again = now.q === q && now.k === k && page.selection.token !== undefined;
      page.select(again ? { token: null, key: null } : { token: q * pooled, key: k < 0 ? null : k * pooled });
    },
    move: (dx, dy) => {
      const { q, k } = locked();
      page.select({ token: within(q + dy, t) * pooled, key: within(Math.max(0, k) + dx, t) * pooled });
    } });
  const panel = sidePanel(), key = colourKey(), title = h("p.about");

  function drawThumbs() {
    const { theme } = page, room = thumbs.clientWidth - THUMB_LEFT - 2;
    thumb = Math.max(9, Math.min(84, Math.floor(room / across)));
    const { context: c } = prepareCanvas(thumbs, THUMB_TOP + down * (thumb + under) + 4, theme), now = here();
    c.imageSmoothingEnabled = thumb < t;
    for (let l = 0; l < L; l++) for (let head = 0; head < H; head++) {
      const [x, y] = corner(l, head);
      c.drawImage(sheet(l, head), x + 1, y + 1, thumb - 3, thumb - 3);
      box(c, x + 0.5, y + 0.5, thumb - 2, thumb - 2, theme.line);
      if (alone) letter(c, shortLabel(labels[l]), x + thumb / 2, y + thumb + 6, theme.soft);
      else if (l === 0 && (thumb > 18 || head % 4 === 0)) letter(c, head, x + thumb / 2 - 1, 9, theme.soft);
      if (!alone && head === 0 && (thumb > 12 || l % 2 === 0)) letter(c, shortLabel(labels[l]), THUMB_LEFT - 8, y + thumb / 2, theme.soft, "right");
    }
    letter(c, alone ? "layer" : "head", THUMB_LEFT - 8, 9, theme.soft, "right");
    box(c, ...corner(now.l, now.head), thumb - 1, thumb - 1, theme.accent, 2);
  }

  function drawMap() {
    const { theme } = page, now = here(), { q, k } = hovered || locked();
    side = Math.max(60, Math.min(560, map.clientWidth - MAP_LEFT - 4));
    const { context: c } = prepareCanvas(map, MAP_TOP + side + 4, theme), cell = side / t, every = Math.ceil(12 / cell);
    c.imageSmoothingEnabled = false;
    c.drawImage(sheet(now.l, now.head), MAP_LEFT, MAP_TOP, side, side);
    box(c, MAP_LEFT - 0.5, MAP_TOP - 0.5, side + 1, side + 1, theme.line);
    // Names that would come too near to the marked one are left out.
    const named = (i, marked) => i === marked || (i % every === 0 && !(marked >= 0 && Math.abs(i - marked) * cell < 12));
    for (let i = 0; i < t; i++) {
      const at = (i + 0.5) * cell;
      if (named(i, q)) letter(c, fitted(c, names[i], MAP_LEFT - 12), MAP_LEFT - 7, MAP_TOP + at, i === q ? theme.accent : theme.soft, "right");
      if (!named(i, k)) continue;
      c.save();
      c.translate(MAP_LEFT + at, MAP_TOP - 7);
      c.rotate(-Math.PI / 2);
      letter(c, fitted(c, names[i], MAP_TOP - 12), 0, 0, i === k ? theme.accent : theme.soft, "left");
      c.restore();
    }
    box(c, MAP_LEFT, MAP_TOP + q * cell, side, cell, theme.accent, 1.25);
    if (k >= 0) box(c, MAP_LEFT + k * cell, MAP_TOP, cell, side, theme.accent, 1.25);
    title.replaceChildren("Layer ", h("b", labels[now.l]), ...(alone ? [] : [", head ", h("b", now.head)]), ": the row reads, the column is read.");
    drawPanel(now, q, k);
  }

  function drawPanel(now, q, k) {
    const row = upTo(t).map((i) => ({ i, v: weight(now, q, i) })), top = topOf(row, ({ v }) => Math.abs(v)) || 1;
    const best = row.filter((e) => e.v !== 0).sort((a, b) => Math.abs(b.v) - Math.abs(a.v)).slice(0, 10);
    const name = (i) => h("bdi", h("b", inQuotes(tokens[i * pooled]) + dots));
    panel.replaceChildren(h("p", name(q), h("span.quiet", ` (${dots && "from "}token ${q * pooled}) reads `),
      k >= 0 && [name(k), h("span.quiet", ` (${k * pooled}) with `), h("b.value", write(weight(now, q, k), 4))]),
    barList(best.map(({ i, v }) => ({ name: names[i], title: "token " + i * pooled, part: Math.abs(v) / (two ? top : Math.max(top, 1)), text: write(v, 3), look: i === k ? "strong" : two && (v > 0 ? "plus" : "minus") })), "What it reads most"),
    h("p.quiet", hovered ? "click to keep this pair" : page.selection.token === undefined ? "point at the map; a click keeps the pair" : "kept; click it again to let go"));
    Object.assign(panel.dataset, { layer: labels[now.l], head: now.head, query: q, key: k, weight: k >= 0 ? weight(now, q, k) : "" });
  }

  page.listen(() => {
    drawThumbs();
    drawMap();
    drawColourKey(key, page.theme, (two ? [-1, 0, 1, -0.25, 0.25] : [0, 0.1, 0.25, 0.5, 1, 0.01]).map((p) => [(place(p * limit) + 1) / 2, write(p * limit, 2)]), two ? page.theme.two : page.theme.one);
  });
  const node = h(H > 12 ? "div.maps.many" : "div.maps", h("div", thumbs, key, h("p.legend-text", says)), h("div", title, map), panel);
  // The head that is shown: a whole set of maps is large.
  node.csv = () => {
    const now = here(), cells = upTo(t).map((i) => i * pooled), from = start(now);
    return longRows([["layer", [labels[now.l]]], ["head", [now.head]], ["query", cells], ["key", cells]], { weight: pattern.subarray(from, from + t * t) });
  };
  return node;
}
