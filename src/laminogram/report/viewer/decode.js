// Payloads: base64 of deflated little-endian bytes -> typed arrays. The inverse of payload.py.

let halves = null;

// Float16Array is too young to rely on; a table of all 65536 halves takes a few milliseconds once.
function halfTable() {
  if (halves) return halves;
  halves = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
    halves[bits] = exponent === 31 ? (fraction ? NaN : sign * Infinity)
      : exponent ? sign * 2 ** (exponent - 15) * (1 + fraction / 1024) : sign * 2 ** -24 * fraction;
  }
  return halves;
}

function fromBase64(data) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(data);
  const text = atob(data), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

export async function decodeArray(payload) {
  const bytes = fromBase64(payload.data);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const raw = await new Response(stream).arrayBuffer();
  if (payload.kind === "f4") return new Float32Array(raw);
  if (payload.kind === "u2") return new Uint16Array(raw);
  if (payload.kind !== "f2") throw new Error("unknown payload kind " + payload.kind);
  const bits = new Uint16Array(raw), out = new Float32Array(bits.length), table = halfTable();
  for (let i = 0; i < bits.length; i++) out[i] = table[bits[i]] * payload.scale;
  return out;
}
