// Colour tables from colours.json (shared with python) and the inks of the current theme.

export const darkTheme = window.matchMedia("(prefers-color-scheme: dark)");

// Entry 256 stands for values that are not numbers.
function packTable(hex) {
  const table = new Uint32Array(257);
  for (let i = 0; i < 256; i++) {
    const rgb = parseInt(hex.slice(6 * i, 6 * i + 6), 16);
    table[i] = (255 << 24) | ((rgb & 255) << 16) | (rgb & 0xff00) | (rgb >> 16);
  }
  table[256] = 0xff9a4fd0;
  return table;
}

export function readTheme(palette) {
  const name = darkTheme.matches ? "dark" : "light";
  const style = getComputedStyle(document.documentElement);
  const ink = (key) => style.getPropertyValue("--" + key).trim();
  const hex = palette.tables["diverging-" + name];
  return {
    name, hex,
    table: packTable(hex),
    models: palette.models[name],
    ink: ink("ink"), soft: ink("soft"), faint: ink("faint"), paper: ink("paper"), line: ink("line"),
    accent: ink("accent"), band: ink("band"), middle: ink("middle"), trace: ink("trace"),
    font: "11px " + ink("sans"),
  };
}

export function hexAt(hex, position) {
  const i = Math.max(0, Math.min(255, Math.round((position + 1) * 127.5)));
  return "#" + hex.slice(6 * i, 6 * i + 6);
}
