// How numbers and tokens are written.

export function number(value, digits = 4) {
  if (value === null || value === undefined || Number.isNaN(value)) return "n/a";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e6 || size < 1e-4 ? value.toExponential(digits - 1).replace(/\.?0+e/, "e")
    : size >= 10 ** digits ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(digits));
  return text.replace("e+", "e").replace(/-/g, "−");
}

export function signed(value, digits = 4) {
  const text = number(value, digits);
  return value > 0 ? "+" + text : text;
}

export function count(value) {
  return Math.round(value).toLocaleString("en").replace(/,/g, "\u2009");
}

export function short(value) {
  for (const [size, unit] of [[1e12, " T"], [1e9, " B"], [1e6, " M"], [1e3, " k"]]) {
    if (value >= size) return (value / size).toPrecision(3) + unit;
  }
  return String(value);
}

export function bytes(value) {
  for (const [size, unit] of [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [1024, "KiB"]]) {
    if (value >= size) return +(value / size).toPrecision(3) + " " + unit;
  }
  return value + " B";
}

// A token as one visible piece: line ends, tabs and control characters get a sign of their own.
export function tokenText(text) {
  return text.replace(/\n/g, "↵").replace(/\t/g, "⇥")
    .replace(/[\u0000-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
    .replace(/[\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g, "·");
}

export function quoted(model, token) {
  return model.texts ? "“" + tokenText(model.texts[token]) + "”" : "id " + model.ids[token];
}

// A row's name where room is short: "2 (step 5)" is 2@5.
export function shortLabel(label) { return label.replace(/ \(step (\d+)\)$/, "@$1"); }
