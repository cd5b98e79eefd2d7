// Colour tables from colours.json, and the inks of the theme.

export const darkTheme = window.matchMedia("(prefers-color-scheme: dark)");
export const NOT_A_NUMBER = "#d04f9a";

// Entry 256 stands for values that are not numbers.
function packTable(hex) {
  return Uint32Array.from({ length: 257 }, (_, i) => {
    const rgb = parseInt((hex + NOT_A_NUMBER.slice(1)).slice(6 * i, 6 * i + 6), 16);
    return (255 << 24) | ((rgb & 255) << 16) | (rgb & 0xff00) | (rgb >> 16);
  });
}

export function readTheme(palette) {
  const name = darkTheme.matches ? "dark" : "light", style = getComputedStyle(document.documentElement);
  const ink = (key) => style.getPropertyValue("--" + key).trim(), two = palette.tables["diverging-" + name], one = palette.tables["sequential-" + name];
  const inks = ["ink", "soft", "faint", "paper", "line", "accent", "band", "middle", "trace", "embedding", "attn", "ffn", "norms", "head"];
  return { name, two, one, twoTable: packTable(two), oneTable: packTable(one), models: palette.models[name],
    font: "11px " + ink("sans"), ...Object.fromEntries(inks.map((key) => [key, ink(key)])) };
}

export function modelColour(theme, i) { return theme.models[i % theme.models.length]; }

// The colour at a place between -1 and 1 of a table.
export function hexAt(hex, position) {
  if (!Number.isFinite(position)) return NOT_A_NUMBER;
  const i = Math.max(0, Math.min(255, Math.round((position + 1) * 127.5)));
  return "#" + hex.slice(6 * i, 6 * i + 6);
}

// Fills a canvas, a pixel a place between -1 and 1.
export function paintPixels(canvas, wide, tall, places, table) {
  Object.assign(canvas, { width: wide, height: tall });
  const c = canvas.getContext("2d", { willReadFrequently: true }), image = c.createImageData(wide, tall);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < pixels.length; i++) {
    const at = places[i];
    pixels[i] = table[at !== at ? 256 : Math.round((at + 1) * 127.5)];
  }
  c.putImageData(image, 0, 0);
  return canvas;
}
