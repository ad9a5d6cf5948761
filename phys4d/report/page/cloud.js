/** The points of a clip beside its panels: truth and a model, side by side or one over the other. */

import { interest, liftPoints } from "./clip.js";
import { choice, element } from "./elements.js";
import { PointCloud, frustumLines } from "./points.js";

const LAYOUTS = { beside: "side by side", over: "one over the other", truth: "truth only", model: "model only" };
const TINTS = { picture: "of the picture", source: "truth blue, model orange" };
const SOURCES = { truth: [92, 165, 255], model: [255, 153, 58] };
const LINE = [120, 130, 145]; // colour of the camera's edges
const HOW = "Drag orbits, wheel or two fingers zoom, shift-drag moves, arrow keys turn.";

/** A canvas of points with its choices; without WebGL, a line that says so. */
export class CloudPanel {
  /** @param {() => void} changed called when the frame has to be drawn again. */
  constructor(changed) {
    this.changed = changed;
    this.layout = "beside";
    this.tint = "picture";
    this.model = undefined;
    this.canvas = element("canvas", {
      class: "cloud",
      tabindex: 0,
      role: "img",
      "aria-label": "4D point cloud: drag to orbit, wheel to zoom",
    });
    this.choices = element("div", { class: "choices" });
    this.note = element("p", { class: "note" });
    this.box = element("div", { class: "cloud-box" }, this.choices, this.canvas, this.note);
    try {
      this.cloud = new PointCloud(this.canvas, changed);
    } catch (error) {
      this.canvas.remove();
      this.note.textContent = `No point cloud: ${error.message}.`;
    }
    new ResizeObserver(changed).observe(this.canvas);
  }

  /** Turns to a clip. @param {string} view whose depth is lifted: "generated" or "read". */
  open(clip, view) {
    this.clip = this.cloud && clip.intrinsics && clip.rows[0].views[view].depth ? clip : undefined;
    this.box.classList.toggle("empty", !this.clip);
    if (!this.clip) return;
    const models = clip.rows.slice(1).map((row) => row.name);
    if (!models.includes(this.model)) this.model = models.at(-1);
    const target = interest(clip, clip.rows[0].views[view]);
    this.cloud.aim(target, clip.intrinsics[0][1] / (clip.height / 2));
    this.frustum = frustumLines(clip, 0.15 * target[2]);
    const count = 4 * clip.height * clip.width;
    this.points = { truth: new Float32Array(count), model: new Float32Array(count) };
    this.choices.replaceChildren(...(models.length ? this.comparing(models) : []), ...this.buttons());
    const beside = models.length ? "; left truth, right model where they stand side by side" : "";
    const axes = "in the axes of the first camera (the thin pyramid)";
    this.note.textContent = `Depth lifted to metres, frame by frame, ${axes}${beside}. ${HOW}`;
  }

  comparing(models) {
    const set = (name) => (value) => {
      this[name] = value;
      this.changed();
    };
    const names = Object.fromEntries(models.map((name) => [name, name]));
    return [
      choice("points", LAYOUTS, this.layout, set("layout")),
      choice("of", names, this.model, set("model")),
      choice("colour", TINTS, this.tint, set("tint")),
    ];
  }

  buttons() {
    this.orbit = element("button", {
      type: "button",
      class: "orbit",
      "aria-pressed": String(this.cloud.orbiting),
      text: "orbit",
      title: "turn by itself (o)",
      click: () => this.toggle(),
    });
    const reset = element("button", {
      type: "button",
      text: "reset",
      title: "the first view (double click)",
      click: () => {
        this.cloud.home();
        this.changed();
      },
    });
    return [this.orbit, reset];
  }

  /** Starts or stops turning by itself. */
  toggle() {
    if (!this.clip) return;
    this.cloud.orbiting = !this.cloud.orbiting;
    this.orbit.setAttribute("aria-pressed", String(this.cloud.orbiting));
    this.changed();
  }

  /** Turns so many seconds further; whether it turns by itself. */
  turn(seconds) {
    this.cloud?.turn(seconds);
    return Boolean(this.clip && this.cloud.orbiting);
  }

  /** Draws a frame of the clip. */
  draw(frame, view) {
    if (!this.clip) return;
    const truth = () => this.lifted(this.clip.rows[0], "truth", frame, view);
    const model = () =>
      this.lifted(
        this.clip.rows.find((row) => row.name === this.model),
        "model",
        frame,
        view,
      );
    const panes = {
      beside: () => [[truth()], [model()]],
      over: () => [[truth(), model()]],
      truth: () => [[truth()]],
      model: () => [[model()]],
    };
    this.cloud.draw(panes[this.model ? this.layout : "truth"](), this.frustum, LINE);
  }

  /** Points and colours of a row. @param {"truth"|"model"} source whose buffer and tint are used. */
  lifted(row, source, frame, view) {
    const arrays = row.views[view];
    liftPoints(this.clip, arrays.depth, frame, this.points[source]);
    const bytes = 3 * this.clip.height * this.clip.width;
    const picture = arrays.video.subarray(frame * bytes, (frame + 1) * bytes);
    const tinted = this.tint === "source" && this.model;
    return { points: this.points[source], colours: tinted ? tint(picture, SOURCES[source]) : picture };
  }
}

/** A picture in the shades of one colour. @param {Uint8Array} picture [N * 3] */
function tint(picture, colour) {
  const shades = new Uint8Array(picture.length);
  for (let i = 0; i < picture.length; i += 3) {
    const light = 0.45 + (0.55 * (picture[i] + picture[i + 1] + picture[i + 2])) / 765;
    for (let c = 0; c < 3; c++) shades[i + c] = colour[c] * light;
  }
  return shades;
}
