// Saving what a page shows: a picture as PNG, its numbers as CSV.

import { h } from "./dom.js";
import { button } from "./kit.js";

function download(blob, name) {
  const address = URL.createObjectURL(blob);
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

function csvCell(value) {
  const text = String(value ?? "");
  return /[",\r\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
}

function saveCsv(rows, name) {
  const text = rows.map((row) => row.map(csvCell).join(",") + "\r\n").join("");
  download(new Blob([text], { type: "text/csv;charset=utf-8" }), name);
}

// A text node line by line, where the browser has put it.
function paintText(c, node, origin) {
  const style = getComputedStyle(node.parentElement), range = document.createRange(), text = node.data;
  c.font = `${style.fontStyle} ${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
  c.fillStyle = style.color;
  c.textBaseline = "middle";
  let line = "", box = null;
  const put = () => { if (box && line.trim()) c.fillText(line, box.left - origin.left, box.top + box.height / 2 - origin.top); };
  for (let i = 0; i < text.length; i++) {
    range.setStart(node, i);
    range.setEnd(node, i + 1);
    const at = range.getClientRects()[0];
    if (!at) { line += text[i]; continue; }
    if (!box || Math.abs(at.top - box.top) > 2) { put(); line = ""; box = at; }
    line += text[i] === "\n" ? " " : text[i];
  }
  put();
}

function paintNode(c, node, origin) {
  if (node.nodeType === Node.TEXT_NODE) { if (node.data.trim()) paintText(c, node, origin); return; }
  if (node.nodeType !== Node.ELEMENT_NODE || node.matches(".tools, details, [hidden]")) return;
  const style = getComputedStyle(node), box = node.getBoundingClientRect();
  if (style.display === "none" || !box.width) return;
  const x = box.left - origin.left, y = box.top - origin.top;
  if (node.tagName === "CANVAS") { c.drawImage(node, x, y, box.width, box.height); return; }
  c.save();
  if (style.backgroundColor !== "rgba(0, 0, 0, 0)") {
    c.fillStyle = style.backgroundColor;
    for (const part of node.getClientRects()) c.fillRect(part.left - origin.left, part.top - origin.top, part.width, part.height);
  }
  if (style.overflow !== "visible") {
    c.beginPath();
    c.rect(x, y, box.width, box.height);
    c.clip();
  }
  for (const child of node.childNodes) paintNode(c, child, origin);
  c.restore();
}

// What stands in `node` now, with two pixels or more for each of the page's; `redraw` makes the
// canvases as fine.
function savePng(node, theme, name, redraw) {
  node.classList.add("saving");
  const box = node.getBoundingClientRect(), margin = 20, canvas = h("canvas"), own = window.devicePixelRatio || 1;
  const ratio = Math.min(Math.max(2, own), 16_000 / (Math.max(box.width, box.height) + 2 * margin));
  window.devicePixelRatio = ratio;
  redraw();
  canvas.width = Math.round((box.width + 2 * margin) * ratio);
  canvas.height = Math.round((box.height + 2 * margin) * ratio);
  const c = canvas.getContext("2d");
  c.scale(ratio, ratio);
  c.fillStyle = theme.paper;
  c.fillRect(0, 0, canvas.width, canvas.height);
  c.translate(margin, margin);
  paintNode(c, node, box);
  window.devicePixelRatio = own;
  node.classList.remove("saving");
  redraw();
  canvas.toBlob((blob) => download(blob, name), "image/png");
}

// The two buttons; functions are asked when one is pressed.
export function saveButtons(tag, what, page, { node, name, rows, redraw }) {
  return [button("PNG", `Save ${what} as a PNG picture`, () => savePng(node(), page.theme, name() + ".png", redraw), tag + ".save-png"),
    button("CSV", `Save the values of ${what} as CSV`, () => saveCsv(rows(), name() + ".csv"), tag + ".save-csv")];
}
