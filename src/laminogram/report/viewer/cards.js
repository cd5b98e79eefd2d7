// A model's card: what it is, where its parameters are, what it costs to hold.

import { h } from "./dom.js";
import { bytes, count, number, short } from "./format.js";

const PARTS = { embedding: "embedding", attn: "token mixer", ffn: "channel mixer", norms: "norms", head: "head" };
const SHORT_NAMES = { float32: "fp32", bfloat16: "bf16", float16: "fp16" };

function fact(name, value, note) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, value, note ? h("small", {}, " " + note) : null));
}

// The picture of a plan: SVG that the report's own writer made, parsed as a document of its own.
function planPicture(plan) {
  const parsed = new DOMParser().parseFromString(plan.picture, "image/svg+xml");
  return h("figure", { class: "plan" }, document.importNode(parsed.documentElement, true),
    h("figcaption", {}, h("code", {}, plan.text), h("small", {}, plan.cost)));
}

export function modelCard(model, colour) {
  const card = model.card, total = card.parameter_total || 1, parts = Object.entries(card.parameters).filter(([, n]) => n > 0);
  // Precisions of the same size share an entry.
  const sizes = new Map();
  for (const [key, value] of Object.entries(card.bytes_by_precision)) {
    sizes.set(value, [...(sizes.get(value) || []), SHORT_NAMES[key] || key]);
  }
  const memory = [...sizes].map(([value, names]) => `${bytes(value)} ${names.join("/")}`);
  const facts = [fact("layers", card.layers, `× ${card.hidden_size} channels`), fact("vocabulary", count(card.vocab_size)),
    fact("weights", memory[0] || "n/a", memory.slice(1).join(", "))];
  if (card.cache_bytes_per_token) facts.push(fact("cache", bytes(card.cache_bytes_per_token), "a token"));
  if (card.state_bytes) facts.push(fact("state", bytes(card.state_bytes), "for any length"));
  facts.push(fact("context", card.context ? count(card.context) : "any", card.context ? "tokens" : "length"));
  const reading = model.reading;
  if (reading && reading.bits_per_byte !== null) {
    facts.push(fact("this text", number(reading.bits_per_byte, 3), `bits a byte, perplexity ${number(reading.perplexity, 3)}`));
  } else if (reading) facts.push(fact("this text", number(reading.perplexity, 3), "perplexity"));
  return h("article", { class: "card", "aria-label": "Card of " + model.name },
    h("h3", {}, h("i", { class: "dot", style: { background: colour } }), model.name, h("span", { class: "family" }, card.family),
      h("span", { class: "size" }, short(card.parameter_total), h("small", {}, " parameters"))),
    h("div", { class: "parts", role: "img", "aria-label": parts.map(([k, n]) => `${PARTS[k] || k} ${count(n)}`).join(", ") },
      parts.map(([part, n]) => h("i", { class: "part-" + part, style: { "flex-grow": n / total }, title: `${PARTS[part] || part}: ${count(n)}` }))),
    h("ul", { class: "part-names" }, parts.map(([part, n]) => h("li", {}, h("i", { class: "part-" + part }), PARTS[part] || part,
      h("b", {}, short(n))))),
    model.plan ? planPicture(model.plan) : null,
    h("dl", {}, facts));
}
