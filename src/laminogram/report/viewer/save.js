// Saving what a page shows: a picture as PNG, its numbers as CSV.

function download(blob, name) {
  const link = document.createElement("a"), address = URL.createObjectURL(blob);
  Object.assign(link, { href: address, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

function csvCell(value) {
  if (value === null || value === undefined) return "";
  const text = String(value);
  return /[",\r\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
}

export function saveCsv(rows, name) {
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
  const put = () => { if (line.trim()) c.fillText(line, box.left - origin.left, box.top + box.height / 2 - origin.top); };
  for (let i = 0; i < text.length; i++) {
    range.setStart(node, i);
    range.setEnd(node, i + 1);
    const at = range.getClientRects()[0];
    if (!at) { line += text[i]; continue; }
    if (!box || Math.abs(at.top - box.top) > 2) { if (box) put(); line = ""; box = at; }
    line += text[i] === "\n" ? " " : text[i];
  }
  if (box) put();
}

function paintNode(c, node, origin) {
  if (node.nodeType === Node.TEXT_NODE) { if (node.data.trim()) paintText(c, node, origin); return; }
  if (node.nodeType !== Node.ELEMENT_NODE || node.matches(".tools, details, [hidden]")) return;
  const style = getComputedStyle(node), box = node.getBoundingClientRect();
  if (style.display === "none" || !box.width) return;
  const [x, y] = [box.left - origin.left, box.top - origin.top];
  if (node.tagName === "CANVAS") {
    c.drawImage(node, x, y, box.width, box.height);
    return;
  }
  c.save();
  if (!/^(rgba\(0, 0, 0, 0\)|transparent)$/.test(style.backgroundColor)) {
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

// What stands in `node` now, on the page's ground, two pixels or more for each of the page's;
// `redraw` makes the canvases as fine.
export function savePng(node, theme, name, redraw) {
  node.classList.add("saving");
  const box = node.getBoundingClientRect(), margin = 20, canvas = document.createElement("canvas"), own = window.devicePixelRatio || 1;
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
