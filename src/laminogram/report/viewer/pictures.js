// Builds a page of pictures: each draws itself, all share one selection.

import { copyButton } from "./address.js";
import { drawAttention } from "./attention.js";
import { decodeArray } from "./decode.js";
import { h } from "./dom.js";
import { onResize, showPage } from "./frame.js";
import { button, PicturePage } from "./kit.js";
import { drawLens } from "./lens.js";
import { drawMassive } from "./massive.js";
import { drawModelMap } from "./modelmap.js";
import { drawNextToken } from "./nexttoken.js";
import { drawPainters } from "./painters.js";
import { saveButtons } from "./save.js";
import { drawSimilarity } from "./similarity.js";
import { fold } from "./tables.js";

const DRAW = { lens: drawLens, attention: drawAttention, similarity: drawSimilarity, massive: drawMassive, model_map: drawModelMap, next_token: drawNextToken };

// Packed arrays anywhere in a picture's data become typed arrays with a shape.
async function unpacked(data) {
  if (!data || typeof data !== "object") return data;
  if (Array.isArray(data)) return Promise.all(data.map(unpacked));
  if (data.shape && typeof data.data === "string") return Object.assign(await decodeArray(data), { shape: data.shape });
  return Object.fromEntries(await Promise.all(Object.entries(data).map(async ([name, one]) => [name, await unpacked(one)])));
}

function pictureSection(picture, page, number) {
  const drawn = (DRAW[picture.kind] || drawPainters)(picture, page), id = "picture-" + number;
  const tools = h("div.tools.saves", saveButtons("button.small", `“${picture.title}”`, page, { node: () => section, name: () => picture.file,
    rows: () => picture.csv || drawn.csv(), redraw: () => page.tell() }));
  const links = picture.files.flatMap((file, i) => [i ? ", " : "", h("a", { href: "data/" + file }, file)]);
  const section = h("section.picture", { "data-kind": picture.kind, "aria-labelledby": id },
    h("div.headline", h("h2", { id }, picture.title), picture.subtitle && h("span.quiet", picture.subtitle), tools),
    h("p.about.tools", picture.caption), drawn, picture.notes.map((note) => h("p.note", note)), fold("In words", h("p.note", picture.alt)),
    links.length > 0 && h("p.note.tools", "Numbers: ", links, "."));
  return section;
}

// What is selected, in words, and the link that brings it back.
function selectionBar(page, linked) {
  const text = h("span.selected", { "aria-live": "polite" }), clear = button("clear", "Clear the selection (Escape)", () => page.select());
  page.listen(() => {
    const parts = Object.entries(page.selection).map(([name, value]) => `${name} ${value}`);
    text.textContent = parts.length ? parts.join(" · ") : linked ? "nothing selected: click in any picture, all follow" : "nothing selected";
    clear.hidden = !parts.length;
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") page.select(); });
  return h("div.selection", { role: "toolbar", "aria-label": "Selection" }, text, clear, location.protocol !== "about:"
    && copyButton("button.small.copy-link", "copy link", "Copy a link to this page with this selection", () => {}));
}

showPage(async (payload) => {
  const page = new PicturePage(payload), pictures = await unpacked(payload.pictures), place = document.getElementById("pictures");
  place.append(selectionBar(page, pictures.length > 1), ...pictures.map((picture, i) => pictureSection(picture, page, i)));
  page.tell();
  onResize(place, () => page.tell());
});
