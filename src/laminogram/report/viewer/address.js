// What is selected or shown, kept in the page's address.

import { h } from "./dom.js";

export function readAddress() { return Object.fromEntries(new URLSearchParams(location.hash.slice(1))); }

export function writeAddress(state) {
  try {
    history.replaceState(null, "", "#" + new URLSearchParams(state));
  } catch (refused) {
    // A frame in a notebook has no address of its own.
  }
}

// A button that copies the address and says so; `prepare` writes what is not in it yet.
export function copyButton(tag, text, label, prepare) {
  const say = (words) => {
    node.textContent = words;
    setTimeout(() => { node.textContent = text; }, 1500);
  };
  const node = h(tag, { type: "button", "aria-label": label, title: label, onclick: () => {
    prepare();
    navigator.clipboard.writeText(location.href).then(() => say("Copied"), () => say("In the address bar"));
  } }, text);
  return node;
}
