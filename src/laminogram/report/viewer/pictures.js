// Builds a page of pictures from its payload: each draws itself, all share one selection.

import { drawAttention } from "./attention.js";
import { decodeArray } from "./decode.js";
import { h } from "./dom.js";
import { button, PicturePage } from "./kit.js";
import { drawLens } from "./lens.js";
import { drawMassive } from "./massive.js";
import { drawModelMap } from "./modelmap.js";
import { drawNextToken } from "./nexttoken.js";
import { saveCsv, savePng } from "./save.js";
import { drawSimilarity } from "./similarity.js";

const DRAW = { lens: drawLens, attention: drawAttention, similarity: drawSimilarity, massive: drawMassive, model_map: drawModelMap, next_token: drawNextToken };

// Packed arrays anywhere in a picture's data become {values, shape}.
async function unpacked(data) {
  if (Array.isArray(data)) return data.some((one) => one && typeof one === "object") ? Promise.all(data.map(unpacked)) : data;
  if (!data || typeof data !== "object") return data;
  if (data.shape && typeof data.data === "string") return { values: await decodeArray(data), shape: data.shape };
  return Object.fromEntries(await Promise.all(Object.entries(data).map(async ([name, one]) => [name, await unpacked(one)])));
}

function pictureSection(picture, page, number) {
  const drawn = DRAW[picture.kind](picture, page), name = picture.file, id = "picture-" + number;
  const tools = h("div", { class: "tools saves" }, button("PNG", `Save “${picture.title}” as a PNG image`, () => savePng(section, page.theme, name + ".png", () => page.tell())),
    button("CSV", `Save the numbers of “${picture.title}” as CSV`, () => saveCsv(drawn.csv(), name + ".csv")));
  const links = picture.files.flatMap((file, i) => [i ? ", " : "", h("a", { href: "data/" + file }, file)]);
  const section = h("section", { class: "picture", "data-kind": picture.kind, "aria-labelledby": id },
    h("div", { class: "headline" }, h("h2", { id }, picture.title), picture.subtitle && h("span", { class: "quiet" }, picture.subtitle), tools),
    h("p", { class: "about tools" }, picture.caption), drawn, picture.notes.map((note) => h("p", { class: "note" }, note)),
    h("details", {}, h("summary", {}, "In words"), h("p", { class: "note" }, picture.alt)),
    links.length ? h("p", { class: "note tools" }, "Numbers: ", links, ".") : null);
  return section;
}

async function copyLink(said) {
  try {
    await navigator.clipboard.writeText(location.href);
  } catch (refused) {
    const field = h("textarea", {}, location.href);
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  said.textContent = "copied";
  setTimeout(() => { said.textContent = ""; }, 1500);
}

// What is selected, in words, and the link that brings it back.
function selectionBar(page, linked) {
  const text = h("span", { class: "selected", "aria-live": "polite" }), said = h("span", { class: "quiet" });
  const clear = button("clear", "Clear the selection (Escape)", () => page.select({ layer: null, token: null, key: null, channel: null, head: null, state: null }));
  page.listen(() => {
    const parts = Object.entries(page.selection).map(([name, value]) => `${name} ${value}`);
    text.textContent = parts.length ? parts.join(" · ") : linked ? "nothing selected: click in any picture, all follow" : "nothing selected";
    clear.hidden = !parts.length;
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") clear.click(); });
  return h("div", { class: "selection", role: "toolbar", "aria-label": "Selection" }, text, clear, location.protocol !== "about:"
    && button("copy link", "Copy a link to this page with this selection", () => copyLink(said)), said);
}

async function showPictures() {
  const payload = JSON.parse(document.getElementById("payload").textContent), page = new PicturePage(payload);
  const pictures = await Promise.all(payload.pictures.map(unpacked)), place = document.getElementById("pictures");
  place.append(selectionBar(page, pictures.length > 1), ...pictures.map((picture, i) => pictureSection(picture, page, i)));
  page.tell();
  let width = place.clientWidth;
  new ResizeObserver(() => {
    if (width === place.clientWidth) return;
    width = place.clientWidth;
    page.tell();
  }).observe(place);
  document.documentElement.dataset.ready = "true";
}

showPictures().catch((error) => {
  document.getElementById("problem").textContent = "This page could not be drawn: " + error.message;
  throw error;
});
