/** Colours of depth, motion and error: those of phys4d/report/colours.py. */

/** Nine equidistant stops of matplotlib's perceptually uniform maps (CC0), joined linearly. */
const STOPS = {
  viridis: "440154 472d7b 3b528b 2c728e 21918c 28ae80 5ec962 addc30 fde725",
  magma: "000004 1d1147 51127c 832681 b73779 e75263 fc8961 fec488 fcfdbf",
};
const MISSING = [128, 128, 128]; // of a pixel without a value

/** The 256 colours of a map. @returns {Uint8Array} [256 * 3] */
export function colourMap(name) {
  const stops = STOPS[name].split(" ").map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  const colours = new Uint8Array(256 * 3);
  for (let i = 0; i < 256; i++) {
    const position = (i / 255) * (stops.length - 1);
    const first = Math.min(Math.floor(position), stops.length - 2);
    for (let c = 0; c < 3; c++) {
      colours[3 * i + c] = Math.round(stops[first][c] + (position - first) * (stops[first + 1][c] - stops[first][c]));
    }
  }
  return colours;
}

const MAPS = { viridis: colourMap("viridis"), magma: colourMap("magma") };
const HUES = flowHues();

/**
 * Writes scalars as colours of a map; grey where there is no value.
 *
 * @param {ArrayLike<number>} values of the pixels from `at` on.
 * @param {Uint8ClampedArray} pixels RGBA, written.
 */
export function paintScalars(values, at, low, high, map, pixels) {
  const colours = MAPS[map];
  const scale = 255 / Math.max(high - low, 1e-12);
  for (let i = 0, p = 0; p < pixels.length; i++, p += 4) {
    const value = values[at + i];
    let from = MISSING;
    let k = 0;
    if (Number.isFinite(value)) {
      from = colours;
      k = 3 * Math.min(255, Math.max(0, Math.round((value - low) * scale)));
    }
    pixels[p] = from[k];
    pixels[p + 1] = from[k + 1];
    pixels[p + 2] = from[k + 2];
    pixels[p + 3] = 255;
  }
}

/**
 * Writes image motion by the Middlebury wheel: hue is the direction, white is rest.
 *
 * @param {Float32Array} values du of all pixels from `at` on, then dv; pixels.
 * @param {number} scale pixels of full saturation.
 */
export function paintMotion(values, at, scale, pixels) {
  const count = pixels.length / 4;
  for (let i = 0; i < count; i++) {
    const colour = flowColour(values[at + i], values[at + count + i], scale);
    pixels[4 * i] = colour[0];
    pixels[4 * i + 1] = colour[1];
    pixels[4 * i + 2] = colour[2];
    pixels[4 * i + 3] = 255;
  }
}

/** Colour [r, g, b] of a motion in pixels. */
export function flowColour(du, dv, scale) {
  if (!Number.isFinite(du) || !Number.isFinite(dv)) return MISSING;
  const strength = Math.min(Math.hypot(du, dv) / scale, 1);
  const turn = Math.atan2(dv, du) / (2 * Math.PI);
  const position = (turn - Math.floor(turn)) * HUES.length;
  const first = Math.floor(position) % HUES.length;
  const rest = position - Math.floor(position);
  const next = HUES[(first + 1) % HUES.length];
  return [0, 1, 2].map((c) => {
    const hue = (1 - rest) * HUES[first][c] + rest * next[c];
    return Math.round(255 * (1 - strength * (1 - hue)));
  });
}

function flowHues() {
  const [red, yellow, green] = [
    [1, 0, 0],
    [1, 1, 0],
    [0, 1, 0],
  ];
  const [cyan, blue, magenta] = [
    [0, 1, 1],
    [0, 0, 1],
    [1, 0, 1],
  ];
  const arcs = [
    [15, red, yellow],
    [6, yellow, green],
    [4, green, cyan],
    [11, cyan, blue],
    [13, blue, magenta],
    [6, magenta, red],
  ];
  return arcs.flatMap(([count, from, to]) =>
    Array.from({ length: count }, (_, i) => from.map((start, c) => start + ((to[c] - start) * i) / count)),
  );
}
