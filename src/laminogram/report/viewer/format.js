// How numbers and tokens are written, as in report/figures.py.

export function number(value, digits = 4) {
  if (Number.isNaN(value ?? NaN)) return "n/a";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e6 || size < 1e-4 ? value.toExponential(digits - 1).replace(/\.?0+e/, "e")
    : size >= 10 ** digits ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(digits));
  return text.replace("e+", "e").replace(/-/g, "−");
}

export function signed(value, digits = 4) { return (value > 0 ? "+" : "") + number(value, digits); }

// A token as one visible piece: what cannot be seen gets a sign of its own.
export function tokenText(text) {
  return text.replace(/\n/g, "↵").replace(/\t/g, "⇥")
    .replace(/[\u0000-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
    .replace(/[\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g, "·");
}

export function inQuotes(text) { return "“" + tokenText(text) + "”"; }

export function quoted(model, token) {
  return model.texts ? inQuotes(model.texts[token]) : "id " + model.ids[token];
}

// A row's name where room is short: "2 (step 5)" is 2@5.
export function shortLabel(label) { return label.replace(/ \(step (\d+)\)$/, "@$1"); }
