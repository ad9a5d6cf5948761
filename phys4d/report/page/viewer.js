/** One clip in all its rows and columns, and its points: every panel shows the same frame. */

import { decodeClip, errors, mean, motionFrame } from "./clip.js";
import { CloudPanel } from "./cloud.js";
import { paintMotion, paintScalars } from "./colours.js";
import { choice, element, number } from "./elements.js";
import { Transport } from "./transport.js";

const VIEWS = { generated: "the generated clip", read: "read off the true video" };
const ERRORS = { depth: "of depth", motion: "of motion", colour: "of colour" };
const UNITS = { depth: ["%", 100, 1], motion: ["px", 1, 2], colour: ["of 255", 1, 1] }; // unit, factor, decimals

/** A player with its point cloud, in an element that it fills. */
export class Viewer {
  /** @param {HTMLElement} place */
  constructor(place) {
    this.place = place;
    this.state = { view: "generated", error: "depth" };
    this.transport = new Transport(
      (frame) => this.draw(frame),
      (seconds) => this.points.turn(seconds),
    );
    this.panels = element("div", { class: "panels" });
    this.choices = element("div", { class: "choices" });
    this.legend = element("p", { class: "legend" });
    this.readout = element("p", { class: "readout", "aria-live": "off" });
    this.title = element("div", { class: "title" });
    this.points = new CloudPanel(() => {
      this.draw(this.transport.frame);
      this.transport.wake();
    });
    place.replaceChildren(
      this.title,
      element(
        "div",
        { class: "split" },
        element("div", { class: "players" }, this.choices, this.panels, this.legend, this.readout),
        this.points.box,
      ),
      this.transport.bar,
    );
    new IntersectionObserver(([entry]) => {
      this.transport.visible = entry.isIntersecting;
      this.transport.wake();
    }).observe(place);
  }

  /** Decodes a clip and shows it. @param {object} data of phys4d/report/clip_data.py @param {string} title */
  async open(data, title) {
    const clip = await decodeClip(data);
    this.clip = clip;
    const compared = clip.rows.length > 1;
    const views = Object.keys(clip.rows.at(-1).views);
    if (!views.includes(this.state.view)) this.state.view = views[0];
    this.title.replaceChildren(
      element("h3", { text: title }),
      element("p", { class: "caption", text: clip.caption }),
      element("p", {
        class: "key",
        text: [
          clip.key,
          clip.category,
          clip.family,
          `${clip.frames} frames of ${clip.height} × ${clip.width}`,
          `${number(clip.fps, 0)} frames a second`,
          clip.shrunk > 1 ? `shown at 1/${clip.shrunk} of its size` : "",
        ]
          .filter(Boolean)
          .join(" · "),
      }),
    );
    this.choices.replaceChildren(...(compared ? this.compareChoices(views) : []));
    this.points.open(clip, this.state.view);
    this.build();
    this.transport.open(clip.frames, clip.fps);
  }

  compareChoices(views) {
    const found = Object.fromEntries(views.map((view) => [view, VIEWS[view]]));
    const changed = (name) => (value) => {
      this.state[name] = value;
      this.build();
      this.draw(this.transport.frame);
    };
    return [
      ...(views.length > 1 ? [choice("models show", found, this.state.view, changed("view"))] : []),
      choice("error", ERRORS, this.state.error, changed("error")),
    ];
  }

  /** The panels of the chosen view: a row for the truth and for each model, a column for each quantity. */
  build() {
    const { clip, state } = this;
    const truth = clip.rows[0].views[state.view];
    const compared = clip.rows.length > 1;
    const kinds = ["video", "depth", "motion"].filter((name) => truth[name]);
    const titles = { video: "RGB", depth: "depth", motion: "motion", error: `error ${ERRORS[state.error]}` };
    if (compared) kinds.push("error");
    const columns = kinds.map((kind) => titles[kind]);
    this.panels.style.setProperty("--columns", columns.length);
    this.panels.classList.toggle("smooth", clip.width > 128);
    this.cells = [];
    const cells = [
      element("span", { class: "corner" }),
      ...columns.map((text) => element("span", { class: "head", text })),
    ];
    clip.rows.forEach((row, r) => {
      const arrays = row.views[state.view];
      if (!arrays) return;
      const note = element("small", { text: row.note });
      const broken = row.name.replaceAll("_", "_\u200b"); // a line may end behind an underscore
      const label = element("div", { class: "label" }, element("b", { text: broken }), note);
      cells.push(label);
      columns.forEach((name, column) => {
        const kind = kinds[column];
        if (kind === "error" && r === 0) {
          cells.push(element("span", { class: "nothing", text: "the reference" }));
          return;
        }
        const canvas = element("canvas", {
          width: clip.width,
          height: clip.height,
          role: "img",
          "aria-label": `${row.name}: ${name}`,
          pointermove: (event) => this.point(event, canvas),
          pointerleave: () => this.point(),
        });
        const cell = { kind, arrays, canvas, image: new ImageData(clip.width, clip.height) };
        const figure = element("figure", {}, canvas);
        if (kind === "error") {
          cell.text = element("figcaption");
          figure.append(cell.text);
          let [sum, frames] = [0, state.error === "motion" ? clip.frames - 1 : clip.frames];
          for (let t = 0; t < frames; t++) sum += mean(errors(clip, state.error, arrays, truth, t)) / frames;
          cell.mean = sum;
        }
        this.cells.push(cell);
        cells.push(figure);
      });
    });
    this.panels.replaceChildren(...cells);
    this.writeLegend(compared);
  }

  writeLegend(compared) {
    const { ranges } = this.clip;
    const [unit, factor, decimals] = UNITS[this.state.error];
    const bar = (name, what, low, high) =>
      element("span", { class: "bar-key" }, `${what} ${low} `, element("i", { class: `bar ${name}` }), ` ${high}`);
    const { depth, motion } = this.clip.rows[0].views[this.state.view];
    const wheel = element("i", { class: "wheel" });
    const rim = ` hue is the direction, white is rest, the rim ${number(ranges.motion, 1)} px a frame`;
    const most = number(ranges[`${this.state.error}_error`] * factor, decimals);
    this.legend.replaceChildren(
      ...(depth ? [bar("viridis", "depth", `${number(ranges.near, 2)} m`, `${number(ranges.far, 2)} m`)] : []),
      ...(motion ? [element("span", { class: "bar-key" }, "motion ", wheel, rim)] : []),
      ...(compared ? [bar("magma", "error", "0", `${most} ${unit}`)] : []),
    );
  }

  draw(frame) {
    const { clip } = this;
    if (!clip) return;
    for (const cell of this.cells) this.paint(cell, frame);
    this.points.draw(frame, this.state.view);
    if (this.at) this.read();
  }

  paint(cell, frame) {
    const { clip, state } = this;
    const { ranges } = clip;
    const count = clip.height * clip.width;
    const pixels = cell.image.data;
    if (cell.kind === "video") {
      for (let i = 0, p = 3 * frame * count; i < pixels.length; i += 4, p += 3) {
        pixels[i] = cell.arrays.video[p];
        pixels[i + 1] = cell.arrays.video[p + 1];
        pixels[i + 2] = cell.arrays.video[p + 2];
        pixels[i + 3] = 255;
      }
    } else if (cell.kind === "depth") {
      paintScalars(cell.arrays.depth, frame * count, ranges.near, ranges.far, "viridis", pixels);
    } else if (cell.kind === "motion") {
      paintMotion(cell.arrays.motion, motionFrame(clip, frame) * 2 * count, ranges.motion, pixels);
    } else {
      const found = errors(clip, state.error, cell.arrays, clip.rows[0].views[state.view], frame);
      paintScalars(found, 0, 0, ranges[`${state.error}_error`], "magma", pixels);
      const [unit, factor, decimals] = UNITS[state.error];
      cell.text.replaceChildren(
        element("span", { text: `${number(mean(found) * factor, decimals)} ${unit}` }),
        " ",
        element("span", { text: `(clip ${number(cell.mean * factor, decimals)})` }),
      );
    }
    const context = cell.canvas.getContext("2d");
    context.putImageData(cell.image, 0, 0);
    if (this.at) {
      context.fillStyle = "#fff";
      context.fillRect(this.at[0], this.at[1], 1, 1);
      context.strokeStyle = "#000";
      context.strokeRect(this.at[0] - 0.5, this.at[1] - 0.5, 2, 2);
    }
  }

  /** Marks the pixel under the pointer in every panel and states its values; without an event, none. */
  point(event, canvas) {
    this.at = undefined;
    if (event) {
      const box = canvas.getBoundingClientRect();
      const [u, v] = [
        ((event.clientX - box.left) / box.width) * this.clip.width,
        ((event.clientY - box.top) / box.height) * this.clip.height,
      ];
      this.at = [Math.floor(u), Math.floor(v)];
    }
    this.readout.textContent = "";
    this.draw(this.transport.frame);
  }

  read() {
    const { clip, state, at, transport } = this;
    const count = clip.height * clip.width;
    const i = at[1] * clip.width + at[0];
    const m = motionFrame(clip, transport.frame) * 2 * count + i;
    const values = ({ depth, motion }) => [
      ...(depth ? [`${number(depth[transport.frame * count + i], 3)} m`] : []),
      ...(motion ? [`(${number(motion[m], 2)}, ${number(motion[m + count], 2)}) px`] : []),
    ];
    const rows = clip.rows
      .filter((row) => row.views[state.view])
      .map((row) => `${row.name} ${values(row.views[state.view]).join(", ")}`);
    this.readout.textContent = `pixel (${at[0]}, ${at[1]}): ${rows.join(" · ")}`;
  }

  /** Keys of the player; true where the key was one. */
  key(key) {
    const { transport } = this;
    const actions = {
      " ": () => transport.toggle(),
      k: () => transport.toggle(),
      ArrowLeft: () => transport.step(-1),
      ArrowRight: () => transport.step(1),
      Home: () => {
        transport.pause();
        transport.seek(0);
      },
      End: () => {
        transport.pause();
        transport.seek(transport.frames - 1);
      },
      "<": () => transport.faster(-1),
      ">": () => transport.faster(1),
      o: () => this.points.toggle(),
    };
    if (!actions[key]) return false;
    actions[key]();
    return true;
  }
}
