// The one scale of the page: a value -> its place between -1 and 1, and whether it lies beyond.

export function makeScale(kind, settings) {
  const limit = settings[kind].limit;
  if (kind === "linear") {
    return { kind, limit, place: (v) => Math.max(-1, Math.min(1, v / limit)),
      ticks: [-limit, -limit / 2, 0, limit / 2, limit] };
  }
  const threshold = settings.symlog.threshold, norm = 1 / Math.log1p(limit / threshold);
  const place = (v) => Math.sign(v) * Math.min(1, Math.log1p(Math.abs(v) / threshold) * norm);
  const positive = [];
  for (let t = 10 ** Math.floor(Math.log10(limit)); positive.length < 4 && place(t) > 0.15; t /= 10) {
    if (place(t) < 0.86) positive.push(t);
  }
  const ends = [limit, ...positive];
  return { kind, limit, threshold, place, ticks: [...ends.map((t) => -t), 0, ...ends.reverse()] };
}
