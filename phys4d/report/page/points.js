/** A point cloud in a canvas that orbits: plain WebGL, one draw call for each cloud. */

const VERTEX = `
attribute vec4 point;   // x, y, z in metres, and the width of the pixel that it was
attribute vec3 colour;
uniform mat4 view;      // to the eye: x right, y up, z toward the viewer
uniform vec3 lens;      // focal length over half the height, aspect, pixels of the whole height
varying vec3 tint;
void main() {
  vec4 eye = view * vec4(point.xyz, 1.0);
  float depth = max(-eye.z, 1e-3);
  gl_Position = vec4(eye.x * lens.x / lens.y, eye.y * lens.x, (depth * 1.002 - 0.2), depth);
  if (point.w == 0.0) gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
  gl_PointSize = clamp(1.5 * point.w * lens.x / depth * lens.z * 0.5, 1.5, 64.0);
  tint = colour;
}`;

const FRAGMENT = `
precision mediump float;
varying vec3 tint;
uniform float round;
void main() {
  vec2 off = gl_PointCoord - 0.5;
  if (round > 0.5 && dot(off, off) > 0.25) discard;
  gl_FragColor = vec4(tint, 1.0);
}`;

const TURN = 0.6; // radians a second while orbiting by itself

/** Clouds side by side or one over another; dragging orbits, the wheel and two fingers zoom, arrow keys turn. */
export class PointCloud {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {() => void} changed called when the view has to be drawn again.
   * @throws {Error} where the browser has no WebGL.
   */
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.changed = changed;
    this.gl = canvas.getContext("webgl", { antialias: true });
    if (!this.gl) throw new Error("this browser offers no WebGL");
    this.orbiting = false;
    this.lostContext = false;
    this.build();
    this.home();
    canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault();
      this.lostContext = true;
    });
    canvas.addEventListener("webglcontextrestored", () => {
      this.lostContext = false;
      this.build();
      changed();
    });
    this.listen();
  }

  /** The view from beside the camera. */
  home() {
    this.yaw = 0.45;
    this.pitch = 0.28;
    this.zoom = 0.8;
    this.shift = [0, 0];
  }

  build() {
    const gl = this.gl;
    const program = gl.createProgram();
    for (const [kind, source] of [
      [gl.VERTEX_SHADER, VERTEX],
      [gl.FRAGMENT_SHADER, FRAGMENT],
    ]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS) && !gl.isContextLost()) {
        throw new Error(gl.getShaderInfoLog(shader));
      }
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    this.place = {
      point: gl.getAttribLocation(program, "point"),
      colour: gl.getAttribLocation(program, "colour"),
      view: gl.getUniformLocation(program, "view"),
      lens: gl.getUniformLocation(program, "lens"),
      round: gl.getUniformLocation(program, "round"),
    };
    gl.enable(gl.DEPTH_TEST);
    this.buffers = { point: gl.createBuffer(), colour: gl.createBuffer() };
  }

  /**
   * What the view turns around, and the lens that it is seen by.
   *
   * @param {number[]} target x, y, z in the axes of the camera of frame 0, metres.
   * @param {number} focal focal length over half the height of the picture.
   */
  aim(target, focal) {
    this.target = target;
    this.focal = focal;
  }

  /** Turns by itself, so many seconds further. */
  turn(seconds) {
    if (this.orbiting) this.yaw += TURN * seconds;
  }

  /**
   * Draws panes from left to right; the clouds of one pane lie over one another.
   *
   * @param {{points: Float32Array, colours: Uint8Array}[][]} panes points [N * 4], colours [N * 3].
   * @param {Float32Array} frustum lines of the camera, [2 * L * 4], in every pane.
   * @param {number[]} line colour of the lines, 0 to 255.
   */
  draw(panes, frustum, line) {
    const gl = this.gl;
    if (this.lostContext) return;
    this.fit();
    const [width, height] = [this.canvas.width, this.canvas.height];
    gl.viewport(0, 0, width, height);
    gl.disable(gl.SCISSOR_TEST);
    gl.clearColor(0.055, 0.067, 0.086, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.SCISSOR_TEST);
    const step = width / panes.length;
    panes.forEach((clouds, pane) => {
      const [left, right] = [Math.round(pane * step), Math.round((pane + 1) * step)];
      gl.viewport(left, 0, right - left, height);
      gl.scissor(left, 0, right - left, height);
      const aspect = (right - left) / height;
      gl.uniformMatrix4fv(this.place.view, false, this.matrix());
      gl.uniform3f(this.place.lens, this.focal * Math.min(1, aspect), aspect, height);
      gl.uniform1f(this.place.round, 1);
      for (const cloud of clouds) this.send(cloud.points, cloud.colours, gl.POINTS);
      gl.uniform1f(this.place.round, 0);
      const colours = new Uint8Array((frustum.length / 4) * 3).map((_, i) => line[i % 3]);
      this.send(frustum, colours, gl.LINES);
    });
  }

  send(points, colours, kind) {
    const gl = this.gl;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers.point);
    gl.bufferData(gl.ARRAY_BUFFER, points, gl.DYNAMIC_DRAW);
    gl.enableVertexAttribArray(this.place.point);
    gl.vertexAttribPointer(this.place.point, 4, gl.FLOAT, false, 0, 0);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers.colour);
    gl.bufferData(gl.ARRAY_BUFFER, colours, gl.DYNAMIC_DRAW);
    gl.enableVertexAttribArray(this.place.colour);
    gl.vertexAttribPointer(this.place.colour, 3, gl.UNSIGNED_BYTE, true, 0, 0);
    gl.drawArrays(kind, 0, points.length / 4);
  }

  /** Gives the canvas the pixels of its size on the screen. */
  fit() {
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight].map((x) => Math.round(x * ratio) || 1);
    if (this.canvas.width !== width || this.canvas.height !== height)
      [this.canvas.width, this.canvas.height] = [width, height];
  }

  /** Camera axes (y down, z forward) to the eye's (y up, z back), turned around the target; columns first. */
  matrix() {
    const [sy, cy] = [Math.sin(this.yaw), Math.cos(this.yaw)];
    const [sp, cp] = [Math.sin(this.pitch), Math.cos(this.pitch)];
    // p' = p - target; flipped to (x, -y, -z); turned by yaw about y, then by pitch about x; moved back.
    const rows = [
      [cy, 0, -sy],
      [sp * sy, -cp, sp * cy],
      [-cp * sy, -sp, -cp * cy],
    ];
    const back = Math.hypot(...this.target) / this.zoom;
    const offset = [this.shift[0] * back, this.shift[1] * back, -back];
    const moved = rows.map((row, i) => offset[i] - row.reduce((sum, part, axis) => sum + part * this.target[axis], 0));
    return new Float32Array([
      rows[0][0],
      rows[1][0],
      rows[2][0],
      0,
      rows[0][1],
      rows[1][1],
      rows[2][1],
      0,
      rows[0][2],
      rows[1][2],
      rows[2][2],
      0,
      moved[0],
      moved[1],
      moved[2],
      1,
    ]);
  }

  listen() {
    const canvas = this.canvas;
    const fingers = new Map();
    let span = 0;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      span = 0;
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = fingers.get(event.pointerId);
      if (!before) return;
      const [dx, dy] = [event.clientX - before[0], event.clientY - before[1]];
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      if (fingers.size === 2) {
        const [a, b] = [...fingers.values()];
        const now = Math.hypot(a[0] - b[0], a[1] - b[1]);
        if (span) this.magnify(now / span);
        span = now;
        this.pan(dx / 2, dy / 2);
      } else if (event.shiftKey || event.buttons === 2) {
        this.pan(dx, dy);
      } else {
        this.rotate(dx / 150, dy / 150);
      }
    });
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => fingers.delete(event.pointerId));
    }
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        this.magnify(Math.exp(-event.deltaY / 600));
      },
      { passive: false },
    );
    canvas.addEventListener("dblclick", () => {
      this.home();
      this.changed();
    });
    const turns = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] };
    canvas.addEventListener("keydown", (event) => {
      if (!turns[event.key]) return;
      event.preventDefault();
      event.stopPropagation();
      this.rotate(...turns[event.key]);
    });
  }

  rotate(yaw, pitch) {
    this.yaw += yaw;
    this.pitch = Math.max(-1.5, Math.min(1.5, this.pitch + pitch));
    this.changed();
  }

  pan(dx, dy) {
    const height = this.canvas.clientHeight || 1;
    this.shift = [this.shift[0] + (2 * dx) / height, this.shift[1] - (2 * dy) / height];
    this.changed();
  }

  magnify(factor) {
    this.zoom = Math.max(0.2, Math.min(20, this.zoom * factor));
    this.changed();
  }
}

/** The camera of frame 0 as lines: its four edges to `reach` metres, and the picture there. */
export function frustumLines(clip, reach) {
  const [fx, fy, cx, cy] = clip.intrinsics[0];
  const corners = [
    [0, 0],
    [clip.width, 0],
    [clip.width, clip.height],
    [0, clip.height],
  ].map(([u, v]) => [((u - cx) / fx) * reach, ((v - cy) / fy) * reach, reach, 1]);
  const eye = [0, 0, 0, 1];
  return new Float32Array(corners.flatMap((corner, i) => [...eye, ...corner, ...corner, ...corners[(i + 1) % 4]]));
}
