// A model's card: what it is, where its parameters are, what it costs to hold.

import { h } from "./dom.js";

// The picture of a plan: SVG of the report's own writer, parsed as a document.
function planPicture(plan) {
  const parsed = new DOMParser().parseFromString(plan.picture, "image/svg+xml");
  return h("figure.plan", document.importNode(parsed.documentElement, true),
    h("figcaption", h("code", plan.text), h("small", plan.cost)));
}

export function modelCard({ name, card, plan }, colour) {
  return h("article.card", { "aria-label": "Card of " + name },
    h("h3", h("i.dot", { style: { background: colour } }), name, h("span.family", card.family), h("span.size", card.size, h("small", " parameters"))),
    h("div.parts", { role: "img", "aria-label": card.parts.map((part) => `${part.name} ${part.size}`).join(", ") },
      card.parts.map((part) => h("i.part-" + part.kind, { style: { "flex-grow": part.share }, title: `${part.name}: ${part.size}` }))),
    h("ul.part-names", card.parts.map((part) => h("li", h("i.part-" + part.kind), part.name, h("b", part.size)))),
    plan && planPicture(plan),
    h("dl", card.facts.map(([fact, value, note]) => h("div", h("dt", fact), h("dd", value, note && h("small", " " + note))))));
}
