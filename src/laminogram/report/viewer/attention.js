// Attention: a small map of every head, and one large map with the tokens beside it.

import { h, prepareCanvas } from "./dom.js";
import { number, shortLabel, signed } from "./format.js";
import { barList, cellCanvas, colourKey, drawColourKey, fitted, inQuotes, longRows, tokenNames, topOf, upTo, within } from "./kit.js";

const MAP_LEFT = 96, MAP_TOP = 84, THUMB_LEFT = 46, THUMB_TOP = 20;

export function drawAttention(picture, page) {
  const data = picture.data, { labels, tokens, pooled } = data, [L, H, t] = data.pattern.shape, values = data.pattern.values;
  const all = tokenNames(tokens), T = tokens.length, wrap = H === 1 ? Math.min(L, 4) : H;
  const names = upTo(t).map((i) => all[i * pooled] + (pooled > 1 ? "…" : ""));
  const two = data.signed, limit = two ? topOf(values, Math.abs) || 1 : 1;
  const place = (v) => Math.sign(v) * Math.sqrt(Math.min(1, Math.abs(v) / limit));
  const shade = (p) => (two ? page.signedShade(p) : page.shade(p));
  let hovered = null, thumb = 40, side = 400, sheets = { theme: null, made: new Map() };

  const here = () => ({ l: page.row(labels, 0), head: page.index("head", H, 0) });
  const cellOf = (name, otherwise) => (page.selection[name] < T ? Math.floor(page.selection[name] / pooled) : otherwise);
  const locked = () => ({ q: cellOf("token", t - 1), k: cellOf("key", -1) });
  const weight = ({ l, head }, q, k) => values[((l * H + head) * t + q) * t + k];

  // One head as an image, a pixel a weight, kept until the theme changes.
  function sheet(l, head) {
    if (sheets.theme !== page.theme.name) sheets = { theme: page.theme.name, made: new Map(), table: upTo(256).map((i) => shade(two ? i / 127.5 - 1 : i / 255)) };
    const id = l * H + head;
    if (sheets.made.has(id)) return sheets.made.get(id);
    const canvas = h("canvas", { width: t, height: t }), c = canvas.getContext("2d"), image = c.createImageData(t, t);
    for (let i = 0; i < t * t; i++) {
      const p = place(values[id * t * t + i]), colour = p !== p ? shade(NaN) : sheets.table[within(Math.round(two ? (p + 1) * 127.5 : p * 255), 256)];
      for (let part = 0; part < 3; part++) image.data[4 * i + part] = parseInt(colour.slice(1 + 2 * part, 3 + 2 * part), 16);
      image.data[4 * i + 3] = 255;
    }
    c.putImageData(image, 0, 0);
    sheets.made.set(id, canvas);
    return canvas;
  }

  const spot = (l, head) => (H === 1 ? [l % wrap, Math.floor(l / wrap)] : [head, l]);
  const thumbs = cellCanvas(`${L} by ${H} small maps: layers down, heads across`, { hover: () => {},
    at: (x, y) => {
      const column = Math.floor((x - THUMB_LEFT) / thumb), row = Math.floor((y - THUMB_TOP) / (thumb + (H === 1 ? 14 : 0)));
      const found = H === 1 ? { l: row * wrap + column, head: 0 } : { l: row, head: column };
      return column < 0 || column >= wrap || row < 0 || found.l >= L ? null : found;
    },
    pick: ({ l, head }) => page.select({ layer: labels[l], head }),
    move: (dx, dy) => {
      const { l, head } = here(), down = H === 1 ? dx + dy * wrap : dy;
      page.select({ layer: labels[within(l + down, L)], head: within(head + (H === 1 ? 0 : dx), H) });
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
  const panel = h("aside", { class: "side", "aria-live": "polite" }), key = colourKey(), title = h("p", { class: "about" });

  function drawThumbs() {
    const { theme } = page, room = thumbs.clientWidth - THUMB_LEFT - 2, under = H === 1 ? 14 : 0;
    thumb = Math.max(9, Math.min(84, Math.floor(room / wrap)));
    const down = H === 1 ? Math.ceil(L / wrap) : L, { context: c } = prepareCanvas(thumbs, THUMB_TOP + down * (thumb + under) + 4), now = here();
    c.imageSmoothingEnabled = thumb < t;
    c.font = theme.font;
    c.textBaseline = "middle";
    c.fillStyle = theme.soft;
    for (let l = 0; l < L; l++) for (let head = 0; head < H; head++) {
      const [column, row] = spot(l, head), x = THUMB_LEFT + column * thumb, y = THUMB_TOP + row * (thumb + under);
      c.drawImage(sheet(l, head), x + 1, y + 1, thumb - 3, thumb - 3);
      c.strokeStyle = theme.line;
      c.lineWidth = 1;
      c.strokeRect(x + 0.5, y + 0.5, thumb - 2, thumb - 2);
      c.textAlign = "center";
      if (H === 1) c.fillText(shortLabel(labels[l]), x + thumb / 2, y + thumb + 6);
      else if (l === 0 && (thumb > 18 || head % 4 === 0)) c.fillText(head, x + thumb / 2 - 1, 9);
      c.textAlign = "right";
      if (H > 1 && head === 0 && (thumb > 12 || l % 2 === 0)) c.fillText(shortLabel(labels[l]), THUMB_LEFT - 8, y + thumb / 2);
    }
    c.textAlign = "right";
    c.fillText(H === 1 ? "layer" : "head", THUMB_LEFT - 8, 9);
    const [column, row] = spot(now.l, now.head);
    c.strokeStyle = theme.accent;
    c.lineWidth = 2;
    c.strokeRect(THUMB_LEFT + column * thumb, THUMB_TOP + row * (thumb + under), thumb - 1, thumb - 1);
  }

  function drawMap() {
    const { theme } = page, now = here(), { q, k } = hovered || locked();
    side = Math.max(60, Math.min(560, map.clientWidth - MAP_LEFT - 4));
    const { context: c } = prepareCanvas(map, MAP_TOP + side + 4), cell = side / t, every = Math.ceil(12 / cell);
    c.imageSmoothingEnabled = false;
    c.drawImage(sheet(now.l, now.head), MAP_LEFT, MAP_TOP, side, side);
    c.strokeStyle = theme.line;
    c.strokeRect(MAP_LEFT - 0.5, MAP_TOP - 0.5, side + 1, side + 1);
    c.font = theme.font;
    c.textBaseline = "middle";
    const near = (i, marked) => marked >= 0 && i !== marked && Math.abs(i - marked) * cell < 12;
    for (let i = 0; i < t; i++) {
      if ((i % every === 0 && !near(i, q)) || i === q) {
        c.textAlign = "right";
        c.fillStyle = i === q ? theme.accent : theme.soft;
        c.fillText(fitted(c, names[i], MAP_LEFT - 12), MAP_LEFT - 7, MAP_TOP + (i + 0.5) * cell);
      }
      if ((i % every === 0 && !near(i, k)) || i === k) {
        c.save();
        c.translate(MAP_LEFT + (i + 0.5) * cell, MAP_TOP - 7);
        c.rotate(-Math.PI / 2);
        c.textAlign = "left";
        c.fillStyle = i === k ? theme.accent : theme.soft;
        c.fillText(fitted(c, names[i], MAP_TOP - 12), 0, 0);
        c.restore();
      }
    }
    c.strokeStyle = theme.accent;
    c.lineWidth = 1.25;
    c.strokeRect(MAP_LEFT, MAP_TOP + q * cell, side, cell);
    if (k >= 0) c.strokeRect(MAP_LEFT + k * cell, MAP_TOP, cell, side);
    title.replaceChildren("Layer ", h("b", {}, labels[now.l]), ...(H > 1 ? [", head ", h("b", {}, now.head)] : []),
      ": the row reads, the column is read.");
    drawPanel(now, q, k);
  }

  function drawPanel(now, q, k) {
    const row = upTo(t).map((i) => ({ i, v: weight(now, q, i) })), top = topOf(row.map((e) => e.v), Math.abs) || 1;
    const best = row.filter((e) => e.v !== 0).sort((a, b) => Math.abs(b.v) - Math.abs(a.v)).slice(0, 10), write = two ? signed : number;
    const name = (i) => h("bdi", {}, h("b", {}, inQuotes(tokens[i * pooled]) + (pooled > 1 ? "…" : "")));
    panel.replaceChildren(h("p", {}, name(q), h("span", { class: "quiet" }, ` (${pooled > 1 ? "from " : ""}token ${q * pooled}) reads `),
      k >= 0 ? [name(k), h("span", { class: "quiet" }, ` (${k * pooled}) with `), h("b", { class: "value" }, write(weight(now, q, k), 4))] : null),
    barList(best.map(({ i, v }) => ({ name: names[i], title: "token " + i * pooled, part: Math.abs(v) / (two ? top : Math.max(top, 1)), text: write(v, 3), strong: i === k, sign: two && Math.sign(v) })), "What it reads most"),
    h("p", { class: "quiet" }, hovered ? "click to keep this pair" : page.selection.token === undefined ? "point at the map; a click keeps the pair" : "kept; click it again to let go"));
    Object.assign(panel.dataset, { layer: labels[now.l], head: now.head, query: q, key: k, weight: k >= 0 ? weight(now, q, k) : "" });
  }

  const steps = [0, 0.01, 0.1, 0.25, 0.5, 1];
  page.listen(() => {
    drawThumbs();
    drawMap();
    drawColourKey(key, page, two ? [-1, -0.25, 0, 0.25, 1].map((p) => [(place(p * limit) + 1) / 2, signed(p * limit, 2)])
      : steps.map((p) => [Math.sqrt(p), number(p)]), (p) => shade(two ? 2 * p - 1 : p));
  });
  const node = h("div", { class: H > 12 ? "maps many" : "maps" }, h("div", {}, thumbs, key, h("p", { class: "legend-text" }, `Colour: ${data.meaning}, on a square-root scale`
    + (two ? `, both signs, to ±${number(limit, 3)}.` : " from 0 to 1."))), h("div", {}, title, map), panel);
  // A whole set of maps is large; the table holds the head that is shown.
  node.csv = () => {
    const now = here(), pairs = t * t, start = (now.l * H + now.head) * pairs;
    return longRows([["layer", [labels[now.l]]], ["head", [now.head]], ["query", upTo(t).map((i) => i * pooled)], ["key", upTo(t).map((i) => i * pooled)]],
      { weight: values.slice(start, start + pairs) });
  };
  return node;
}
