// The one scale of the page: a value -> its place between -1 and 1. As report/scale.py.

export function makeScale(kind, settings) {
  const { limit, threshold } = settings[kind], norm = 1 / Math.log1p(limit / threshold);
  return { kind, limit, place: kind === "linear" ? (v) => Math.max(-1, Math.min(1, v / limit))
    : (v) => Math.sign(v) * Math.min(1, Math.log1p(Math.abs(v) / threshold) * norm) };
}
