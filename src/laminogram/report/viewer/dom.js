// Helpers for building and drawing a page. Text from models goes through textContent only.

// h("p.note", { title: "..." }, children...): classes after dots, attributes if any.
export function h(tag, ...given) {
  const [name, ...classes] = tag.split("."), attributes = given[0]?.constructor === Object ? given.shift() : {};
  const node = name === "svg" || name === "path"
    ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  if (classes.length) node.setAttribute("class", classes.join(" "));
  for (const [key, value] of Object.entries(attributes)) {
    if ((value ?? false) === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "style") for (const [k, v] of Object.entries(value)) node.style.setProperty(k, v);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...given.flat().filter((c) => (c ?? false) !== false));
  return node;
}

// A canvas that is a picture: what it shows stands in its label.
export function pictureCanvas(classes, label, rest = {}) {
  return h("canvas" + classes, { role: "img", "aria-label": label, ...rest });
}

// Sizes a canvas to its box; its context draws in CSS pixels, in the theme's font.
export function prepareCanvas(canvas, height, theme) {
  const ratio = window.devicePixelRatio || 1, width = Math.max(120, canvas.clientWidth);
  const w = Math.round(width * ratio), tall = Math.round(height * ratio);
  if (canvas.width !== w || canvas.height !== tall) {
    Object.assign(canvas, { width: w, height: tall });
    canvas.style.height = height + "px";
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  Object.assign(context, { font: theme.font, textBaseline: "middle" });
  return { context, width, height, ratio };
}

// Draws what stays the same once, and copies it until `key` changes.
export function drawCached(store, name, key, { context, width, height, ratio }, draw) {
  const full = [key, width, height, ratio].join();
  if (store[name]?.key !== full) {
    const canvas = h("canvas", { width: Math.round(width * ratio), height: Math.round(height * ratio) });
    const own = canvas.getContext("2d");
    own.scale(ratio, ratio);
    Object.assign(own, { font: context.font, textBaseline: "middle" });
    draw(own);
    store[name] = { key: full, canvas };
  }
  context.drawImage(store[name].canvas, 0, 0, width, height);
}

export function letter(c, text, x, y, colour, align = "center") {
  c.fillStyle = colour;
  c.textAlign = align;
  c.fillText(text, x, y);
}

export function box(c, x, y, wide, tall, colour, width = 1) {
  Object.assign(c, { strokeStyle: colour, lineWidth: width });
  c.strokeRect(x, y, wide, tall);
}

export function polyline(c, points, colour, width = 1) {
  Object.assign(c, { strokeStyle: colour, lineWidth: width });
  c.beginPath();
  for (const [x, y] of points) c.lineTo(x, y);
  c.stroke();
}

export function dot(c, x, y, radius, colour) {
  c.fillStyle = colour;
  c.beginPath();
  c.arc(x, y, radius, 0, 7);
  c.fill();
}

// Names beside marks, [{ x, y, text, strong }], on plates: as many as find a place inside the frame
// without covering another.
export function namePlates(c, marks, [left, right, top, bottom], theme) {
  const taken = [];
  for (const { x, y, text, strong } of marks) {
    const wide = c.measureText(text).width + 8;
    const found = [0, 15, -15].flatMap((dy) => [[x + 7, y + dy], [x - 7 - wide, y + dy]]).find(([px, py]) =>
      px >= left && px + wide <= right && py - 8 >= top && py + 8 <= bottom
      && !taken.some(([tx, ty, end]) => px < end && px + wide > tx && Math.abs(py - ty) < 16));
    if (!found) continue;
    const [px, py] = found;
    taken.push([px, py, px + wide]);
    c.globalAlpha = 0.88;
    c.fillStyle = theme.paper;
    c.beginPath();
    c.roundRect(px, py - 8, wide, 16, 3);
    c.fill();
    c.globalAlpha = 1;
    letter(c, text, px + 4, py + 0.5, strong ? theme.accent : theme.ink, "left");
  }
}
