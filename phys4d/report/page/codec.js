/** Arrays of a clip as text: the reverse of phys4d/report/packing.py. */

const NOTHING = -32768; // code of a pixel without a value

/**
 * The values of a packed array.
 *
 * @param {{type: "u8"|"i16", shape: number[], along: "time"|"row", scale: "none"|"linear"|"log", step: number,
 *     data: string}} packed base64 of deflated differences; low bytes before high bytes.
 * @returns {Promise<{shape: number[], values: Uint8Array|Float32Array}>} NaN where there is no value.
 */
export async function unpack(packed) {
  const bytes = await inflate(fromBase64(packed.data));
  const count = packed.shape.reduce((product, size) => product * size, 1);
  let codes = bytes;
  if (packed.type === "i16") {
    codes = new Int16Array(count);
    for (let i = 0; i < count; i++) codes[i] = bytes[i] | (bytes[count + i] << 8);
  }
  addUp(codes, packed.along === "time" ? count / packed.shape[0] : 1, rowLength(packed));
  if (packed.scale === "none") return { shape: packed.shape, values: codes };
  const values = new Float32Array(count);
  const value = packed.scale === "log" ? (code) => Math.exp(code * packed.step) : (code) => code * packed.step;
  for (let i = 0; i < count; i++) values[i] = codes[i] === NOTHING ? NaN : value(codes[i]);
  return { shape: packed.shape, values };
}

/** Codes until differences begin anew: all of them along time, those of a frame along its rows. */
function rowLength(packed) {
  const count = packed.shape.reduce((product, size) => product * size, 1);
  return packed.along === "time" ? count : count / packed.shape[0];
}

/** Adds to each code the one `stride` before it, within runs of `length`; typed arrays wrap around as Python's did. */
function addUp(codes, stride, length) {
  for (let start = 0; start < codes.length; start += length) {
    for (let i = start + stride; i < start + length; i++) codes[i] += codes[i - stride];
  }
}

function fromBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
