// The text as tokens: the current one is marked, a click goes there.

import { h } from "./dom.js";
import { tokenText } from "./format.js";

export function tokenStrip(model, onPick) {
  const pieces = model.ids.map((id, i) => {
    const text = model.texts ? tokenText(model.texts[i]) : String(id) + " ";
    return h("button", { type: "button", tabindex: -1, title: `token ${i}, id ${id}`,
      class: i >= model.promptLength ? "token made" : "token",
      // The keyboard stays with the transport: a click must not move it here.
      onmousedown: (event) => event.preventDefault(), onclick: () => onPick(i) }, h("bdi", text || "∅"));
  });
  const node = h("div.strip", { role: "group", "aria-label": "The text, token by token" }, pieces);
  let current = null;
  return {
    node,
    show(token) {
      if (current) { current.classList.remove("now"); current.removeAttribute("aria-current"); }
      current = pieces[token];
      current.classList.add("now");
      current.setAttribute("aria-current", "true");
      // Only the strip itself scrolls, never the page.
      const top = current.offsetTop - node.offsetTop;
      if (top < node.scrollTop || top + current.offsetHeight > node.scrollTop + node.clientHeight) {
        node.scrollTop = top - node.clientHeight / 2;
      }
    },
  };
}
