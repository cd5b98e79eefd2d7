// The next token as bars, and the text coloured by how badly each token was expected.

import { h } from "./dom.js";
import { number, tokenText } from "./format.js";
import { barList, colourKey, drawColourKey, inkOn, inQuotes, within } from "./kit.js";

export function drawNextToken(picture, page) {
  const { tokens, tokenIds, loss, texts, ids, probability, temperature, entropy } = picture.data, T = tokens.length;
  const losses = [...loss.values], real = losses.filter((v) => Number.isFinite(v)), top = Math.max(1, Math.ceil(Math.max(0, ...real)));
  const mean = real.length ? real.reduce((a, b) => a + b, 0) / real.length : NaN;
  const readout = h("p", { class: "legend-text", "aria-live": "polite" }), key = colourKey();
  let hovered = -1;
  const lossOf = (t) => (t > 0 && t <= losses.length ? losses[t - 1] : NaN);
  const said = (t) => (t > 0 && t <= losses.length ? `loss ${number(lossOf(t), 4)} nats, probability ${number(Math.exp(-lossOf(t)), 3)}` : "no loss: nothing stands before it");
  const pieces = tokens.map((text, t) => h("span", { class: "piece", title: `token ${t}, id ${tokenIds[t]}: ${said(t)}`,
    onpointerenter: () => { hovered = t; tell(); }, onclick: () => page.select({ token: t }) }, h("bdi", {}, tokenText(text) || "∅")));
  const text = h("p", { class: "coloured", tabindex: 0, role: "group", "aria-label": picture.alt, onpointerleave: () => { hovered = -1; tell(); } }, pieces);
  text.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    page.select({ token: within(page.index("token", T, step > 0 ? -1 : T) + step, T) });
  });
  const bars = h("div", {});

  function tell() {
    const t = hovered >= 0 ? hovered : page.index("token", T);
    readout.replaceChildren(...(t < 0 ? [`${real.length} tokens predicted, mean loss ${number(mean, 4)} nats.`]
      : [`Token ${t} `, h("b", {}, h("bdi", {}, inQuotes(tokens[t]))), ": ", said(t), "."]));
    Object.assign(readout.dataset, { token: t, loss: t >= 0 ? lossOf(t) : "" });
  }

  page.listen(() => {
    const chosen = page.index("token", T);
    pieces.forEach((piece, t) => {
      const value = lossOf(t), coloured = t > 0 && t <= losses.length, colour = coloured ? page.shade(value / top) : "";
      piece.style.setProperty("background-color", colour || "transparent");
      piece.style.setProperty("color", colour ? inkOn(colour) : "inherit");
      piece.classList.toggle("now", t === chosen);
    });
    drawColourKey(key, page, [0, 0.25, 0.5, 0.75, 1].map((p) => [p, number(p * top, 2)]), (p) => page.shade(p));
    bars.replaceChildren(barList(texts.map((name, k) => ({ name: inQuotes(name), title: `id ${ids[k]}`, part: probability.values[k],
      text: number(probability.values[k], 3) })), "The likeliest next tokens"));
    tell();
  });
  const node = h("div", { class: "next" }, h("div", {}, h("h3", {}, "The text, coloured by loss"), text, readout, h("div", { class: "keyline" }, key,
    h("p", { class: "legend-text" }, "Colour: loss of each token given those before it, in nats."))),
  h("div", {}, h("h3", {}, "What comes next"), bars, h("p", { class: "legend-text" }, `Entropy of the whole distribution ${number(entropy, 3)} nats`
    + (temperature === 1 ? "." : `, at temperature ${number(temperature)}.`))));
  node.csv = () => [["what", "position", "id", "text", "loss_nats", "probability"], ...tokens.map((one, t) => ["text", t, tokenIds[t], one, Number.isFinite(lossOf(t)) ? lossOf(t) : null, null]),
    ...texts.map((one, k) => ["next", k + 1, ids[k], one, null, probability.values[k]])];
  return node;
}
