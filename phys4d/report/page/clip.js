/** A decoded clip: its rows (truth, stages), their errors, and their points. */

import { unpack } from "./codec.js";

/**
 * Decodes a clip of phys4d/report/clip_data.py. Arrays that several rows share are decoded once.
 *
 * @returns {Promise<object>} the clip, whose rows hold arrays in place of their numbers.
 */
export async function decodeClip(data) {
  const arrays = await Promise.all(data.arrays.map(unpack));
  const rows = data.rows.map((row) => {
    const views = {};
    for (const [view, names] of Object.entries(row.views)) {
      views[view] = Object.fromEntries(Object.entries(names).map(([name, index]) => [name, arrays[index].values]));
    }
    return { name: row.name, note: row.note, views };
  });
  return { ...data, arrays: undefined, rows };
}

/** The frame whose motion is shown at a frame: motion goes from a frame to the next, so the last one is repeated. */
export const motionFrame = (clip, frame) => Math.min(frame, clip.frames - 2);

/**
 * Errors of one frame against the truth, [H * W]; NaN where either has no value.
 *
 * @param {"depth"|"motion"|"colour"} kind |d - d*| / d*; length of the difference in pixels; mean over R, G, B in grey
 *     levels of 255.
 * @param {object} arrays of the row. @param {object} truth arrays of the truth.
 */
export function errors(clip, kind, arrays, truth, frame) {
  const count = clip.height * clip.width;
  const found = new Float32Array(count);
  if (kind === "depth") {
    const at = frame * count;
    for (let i = 0; i < count; i++) {
      found[i] = Math.abs(arrays.depth[at + i] - truth.depth[at + i]) / truth.depth[at + i];
    }
  } else if (kind === "motion") {
    const at = motionFrame(clip, frame) * 2 * count;
    for (let i = at; i < at + count; i++) {
      found[i - at] = Math.hypot(
        arrays.motion[i] - truth.motion[i],
        arrays.motion[i + count] - truth.motion[i + count],
      );
    }
  } else {
    const [a, b] = [arrays.video, truth.video];
    for (let i = 0, p = 3 * frame * count; i < count; i++, p += 3) {
      found[i] = (Math.abs(a[p] - b[p]) + Math.abs(a[p + 1] - b[p + 1]) + Math.abs(a[p + 2] - b[p + 2])) / 3;
    }
  }
  return found;
}

/**
 * The point that a view turns around: the median of what moves by more than half a pixel, in the middle of the clip; of
 * all points where nothing does.
 *
 * @param {object} arrays of the truth. @returns {number[]} x, y, z in the axes of the camera of frame 0.
 */
export function interest(clip, arrays) {
  const count = clip.height * clip.width;
  const frame = clip.frames >> 1;
  const points = new Float32Array(4 * count);
  liftPoints(clip, arrays.depth, frame, points);
  const at = motionFrame(clip, frame) * 2 * count;
  const known = Array.from({ length: count }, (_, i) => i).filter((i) => points[4 * i + 3] > 0);
  const speed = (i) => (arrays.motion ? Math.hypot(arrays.motion[at + i], arrays.motion[at + count + i]) : 0);
  const moving = known.filter((i) => speed(i) > 0.5);
  const some = moving.length > 8 ? moving : known;
  if (!some.length) return [0, 0, 1];
  return [0, 1, 2].map((axis) => some.map((i) => points[4 * i + axis]).sort((a, b) => a - b)[some.length >> 1]);
}

/** Mean of the finite values; NaN without any. */
export function mean(values) {
  let [sum, count] = [0, 0];
  for (const value of values) {
    if (Number.isFinite(value)) {
      sum += value;
      count += 1;
    }
  }
  return sum / count;
}

/**
 * Points of a frame in the axes of the camera of frame 0: x right, y down, z forward, metres.
 *
 * @param {Float32Array} depth of all frames.
 * @param {Float32Array} points [H * W * 4], written: x, y, z and the width of the pixel at that depth; z = 0 without
 *     depth.
 */
export function liftPoints(clip, depth, frame, points) {
  const [fx, fy, cx, cy] = clip.intrinsics[frame];
  const m = clip.poses[frame]; // 3 x 4, to the camera of frame 0
  const count = clip.height * clip.width;
  for (let v = 0, i = 0; v < clip.height; v++) {
    for (let u = 0; u < clip.width; u++, i++) {
      const z = depth[frame * count + i];
      const known = Number.isFinite(z) && z > 0;
      const x = ((u + 0.5 - cx) / fx) * z;
      const y = ((v + 0.5 - cy) / fy) * z;
      points[4 * i] = known ? m[0] * x + m[1] * y + m[2] * z + m[3] : 0;
      points[4 * i + 1] = known ? m[4] * x + m[5] * y + m[6] * z + m[7] : 0;
      points[4 * i + 2] = known ? m[8] * x + m[9] * y + m[10] * z + m[11] : 0;
      points[4 * i + 3] = known ? z / fx : 0;
    }
  }
}
