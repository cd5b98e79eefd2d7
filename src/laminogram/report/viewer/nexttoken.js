// The next token as bars, the text coloured by its losses, and these as a line.

import { h } from "./dom.js";
import { inQuotes, number, tokenText } from "./format.js";
import { arrowStep, barList, colourKey, drawColourKey, evenTicks, inkOn, upTo, within } from "./kit.js";
import { lineChart } from "./lines.js";

export function drawNextToken(picture, page) {
  const { tokens, loss, top, said, summary, candidates, about } = picture.data, T = tokens.length;
  // The loss of every token; the first has none, for nothing stands before it.
  const losses = [NaN, ...loss], readout = h("p.legend-text", { "aria-live": "polite" }), key = colourKey();
  let hovered = -1;
  const pieces = tokens.map((text, t) => h("span.piece", { title: `token ${t}, ${said[t]}`,
    onpointerenter: () => { hovered = t; tell(); }, onclick: () => page.select({ token: t }) }, h("bdi", tokenText(text) || "∅")));
  const text = h("p.coloured", { tabindex: 0, role: "group", "aria-label": picture.alt, onpointerleave: () => { hovered = -1; tell(); },
    onkeydown: (event) => {
      const step = arrowStep(event);
      if (step) page.select({ token: within(page.index("token", T, step[0] > 0 ? -1 : T) + step[0], T) });
    } }, pieces);
  const course = lineChart(page, { title: "Loss over position, nats", kind: "linear", labels: upTo(T).map(String), axis: "token", tall: 128 });

  function tell() {
    const t = hovered >= 0 ? hovered : page.index("token", T);
    readout.replaceChildren(...(t < 0 ? [summary]
      : [`Token ${t} `, h("b", h("bdi", inQuotes(tokens[t]))), ", ", said[t], "."]));
    Object.assign(readout.dataset, { token: t, loss: t >= 0 ? losses[t] : "" });
  }

  page.listen(() => {
    const chosen = page.index("token", T);
    pieces.forEach((piece, t) => {
      const colour = t > 0 ? page.shade(losses[t] / top) : "";
      piece.style.setProperty("background-color", colour || "transparent");
      piece.style.setProperty("color", colour ? inkOn(colour) : "inherit");
      piece.classList.toggle("now", t === chosen);
    });
    drawColourKey(key, page.theme, evenTicks((p) => number(p * top, 2)));
    course.show([{ name: "loss", values: losses, colour: page.theme.trace }]);
    tell();
  });
  return h("div.next", h("div", h("h3", "The text, coloured by loss"), text, readout, h("div.keyline", key,
    h("p.legend-text", "Colour: loss of each token given those before it, in nats.")), course.node),
  h("div", h("h3", "What comes next"), barList(candidates, "The likeliest next tokens"), h("p.legend-text", about)));
}
