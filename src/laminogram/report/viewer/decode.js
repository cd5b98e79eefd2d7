// Payloads: base64 of deflated little-endian bytes -> typed arrays. The inverse of payload.py.

function fromBase64(data) {
  const text = atob(data), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

// Float16Array is too young to rely on. A half's bits, moved to a float's places, are 2^112 times too
// small; an exponent of ones means infinite or no number.
function fromHalves(bits, scale) {
  const out = new Float32Array(bits.length), moved = new Uint32Array(out.buffer);
  for (let i = 0; i < bits.length; i++) {
    const half = bits[i], odd = (half & 0x7c00) === 0x7c00 ? 0x7f800000 : 0;
    moved[i] = (half & 0x8000) << 16 | (half & 0x7fff) << 13 | odd;
    out[i] *= 2 ** 112 * scale;
  }
  return out;
}

export async function decodeArray({ data, kind, scale }) {
  const stream = new Blob([fromBase64(data)]).stream().pipeThrough(new DecompressionStream("deflate"));
  const raw = await new Response(stream).arrayBuffer();
  if (kind === "f4") return new Float32Array(raw);
  if (kind === "u2") return new Uint16Array(raw);
  if (kind === "f2") return fromHalves(new Uint16Array(raw), scale);
  throw new Error("unknown payload kind " + kind);
}
