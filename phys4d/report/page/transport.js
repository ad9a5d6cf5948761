/** The clock of a player: plays, pauses, steps and changes its speed; everything that it drives shows one frame. */

import { choice, element, number } from "./elements.js";

const HOLD = 0.5; // seconds that the last frame stays, which marks the end of a clip
const SPEEDS = { 0.125: "⅛ ×", 0.25: "¼ ×", 0.5: "½ ×", 1: "1 ×", 2: "2 ×" };

/** Buttons, a slider and keys that move through the frames of a clip. */
export class Transport {
  /**
   * @param {(frame: number) => void} show draws a frame.
   * @param {(seconds: number) => boolean} turn moves on what moves by itself, and says whether it does.
   */
  constructor(show, turn) {
    this.show = show;
    this.turn = turn;
    this.frame = 0;
    this.frames = 1;
    this.fps = 1;
    this.playing = false;
    this.visible = true;
    this.elapsed = 0;
    this.last = undefined;
    this.build();
  }

  build() {
    const button = (label, kind, pressed) =>
      element(
        "button",
        {
          type: "button",
          class: kind,
          "aria-label": label,
          title: label,
          click: pressed,
        },
        element("i", { class: "icon", "aria-hidden": "true" }),
      );
    this.play = button("play or pause (space)", "play", () => this.toggle());
    this.slider = element("input", {
      type: "range",
      min: 0,
      max: 0,
      value: 0,
      step: 1,
      "aria-label": "frame",
      input: () => {
        this.pause();
        this.seek(Number(this.slider.value));
      },
    });
    this.count = element("output", { class: "count" });
    this.speed = choice("speed", {}, "", (value) => this.setSpeed(Number(value)));
    this.select = this.speed.querySelector("select");
    for (const value of Object.keys(SPEEDS).sort((a, b) => a - b)) {
      this.select.append(element("option", { value, text: SPEEDS[value] }));
    }
    this.setSpeed(0.5);
    this.bar = element(
      "div",
      { class: "transport", role: "group", "aria-label": "player" },
      button("back one frame (←)", "back", () => this.step(-1)),
      this.play,
      button("one frame on (→)", "on", () => this.step(1)),
      this.slider,
      this.count,
      this.speed,
    );
  }

  /** Begins with the first frame of a clip. */
  open(frames, fps) {
    [this.frames, this.fps] = [frames, fps];
    this.slider.max = frames - 1;
    this.seek(0);
  }

  setSpeed(value) {
    this.rate = value;
    this.select.value = String(value);
  }

  faster(by) {
    const values = Object.keys(SPEEDS)
      .map(Number)
      .sort((a, b) => a - b);
    const at = values.indexOf(this.rate) + by;
    if (values[at] !== undefined) this.setSpeed(values[at]);
  }

  seek(frame) {
    this.frame = Math.max(0, Math.min(this.frames - 1, frame));
    this.elapsed = this.frame / this.fps;
    this.slider.value = this.frame;
    this.count.textContent = `${this.frame} / ${this.frames - 1} · ${number(this.frame / this.fps, 2)} s`;
    this.show(this.frame);
  }

  step(by) {
    this.pause();
    this.seek((this.frame + by + this.frames) % this.frames);
  }

  toggle() {
    if (this.playing) this.pause();
    else this.start();
  }

  start() {
    this.playing = true;
    this.play.setAttribute("aria-pressed", "true");
    this.wake();
  }

  pause() {
    this.playing = false;
    this.play.setAttribute("aria-pressed", "false");
  }

  /** Asks for the next moment where something moves and is in view. */
  wake() {
    if (this.pending || !this.visible) return;
    this.pending = requestAnimationFrame((now) => this.tick(now / 1000));
  }

  tick(now) {
    this.pending = undefined;
    const passed = Math.min(now - (this.last ?? now), 0.1);
    this.last = now;
    const turning = this.turn(passed);
    if (this.playing) {
      const length = this.frames / this.fps;
      const elapsed = this.elapsed + passed * this.rate;
      const frame = Math.min(Math.floor(elapsed * this.fps + 1e-6), this.frames - 1);
      if (elapsed > length + HOLD * this.rate) this.seek(0);
      else if (frame !== this.frame) {
        this.seek(frame);
        this.elapsed = elapsed;
      } else {
        this.elapsed = elapsed;
        if (turning) this.show(this.frame);
      }
    } else if (turning) this.show(this.frame);
    if (this.playing || turning) this.wake();
    else this.last = undefined;
  }
}
