// Small helpers for building the page. Text from models goes through textContent only.

const SVG_NAMES = new Set(["svg", "path", "circle", "line", "text", "g", "rect"]);

export function h(tag, attributes, ...children) {
  const node = SVG_NAMES.has(tag)
    ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "style") for (const [k, v] of Object.entries(value)) node.style.setProperty(k, v);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== false));
  return node;
}

// Sizes a canvas to its box in device pixels and returns a context that draws in CSS pixels.
export function prepareCanvas(canvas, height) {
  const ratio = window.devicePixelRatio || 1, width = Math.max(120, canvas.clientWidth);
  const w = Math.round(width * ratio), hgt = Math.round(height * ratio);
  if (canvas.width !== w || canvas.height !== hgt) {
    canvas.width = w;
    canvas.height = hgt;
    canvas.style.height = height + "px";
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height, ratio };
}

// Draws what stays the same from moment to moment once, and copies it until `key` changes.
export function drawCached(store, name, key, { context, width, height, ratio }, draw) {
  const full = [key, width, height, ratio].join();
  let entry = store[name];
  if (!entry || entry.key !== full) {
    const canvas = document.createElement("canvas");
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const own = canvas.getContext("2d");
    own.scale(ratio, ratio);
    draw(own);
    entry = store[name] = { key: full, canvas };
  }
  context.drawImage(entry.canvas, 0, 0, width, height);
}

// A name drawn on a picture: on a plate, so that it can be read over anything.
export function plate(context, text, x, y, inks, strong) {
  const wide = context.measureText(text).width + 8;
  context.globalAlpha = 0.88;
  context.fillStyle = inks.paper;
  context.beginPath();
  context.roundRect(x, y - 8, wide, 16, 3);
  context.fill();
  context.globalAlpha = 1;
  context.fillStyle = strong ? inks.accent : inks.ink;
  context.fillText(text, x + 4, y + 0.5);
  return wide;
}

// Where a plate of this width goes beside a mark, without leaving the frame or covering another.
export function placePlate(taken, x, y, wide, left, right, top, bottom) {
  const tries = [[x + 7, y], [x - 7 - wide, y], [x + 7, y + 15], [x + 7, y - 15],
    [x - 7 - wide, y + 15], [x - 7 - wide, y - 15]];
  for (const [tx, ty] of tries) {
    if (tx < left || tx + wide > right || ty - 8 < top || ty + 8 > bottom) continue;
    if (taken.some((b) => tx < b[2] && tx + wide > b[0] && ty - 8 < b[3] && ty + 8 > b[1])) continue;
    taken.push([tx, ty - 8, tx + wide, ty + 8]);
    return [tx, ty];
  }
  return null;
}
