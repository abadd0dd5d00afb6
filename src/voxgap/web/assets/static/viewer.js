/** Three planes through one volume: gaps coloured, label map or heat map on top, a crosshair through all. */
import { ratesAlong } from "./volume.js";

export const GAP = [228, 87, 46];
export const LABELS = [
  [11, 110, 143],
  [224, 160, 48],
  [106, 141, 58],
  [143, 75, 143],
  [58, 166, 160],
  [181, 121, 59],
  [120, 130, 220],
  [220, 120, 170],
];
const UP = [70, 170, 255];
const DOWN = [255, 214, 80];
/** For each plane: the axis that it cuts, and those that run down and to the right. */
const PLANES = [
  [0, 1, 2],
  [1, 0, 2],
  [2, 0, 1],
];

/** The slice nearest to the middle that shows something; the middle where all are missing. */
function shownFirst(rates) {
  const middle = rates.length >> 1;
  const nearer = (best, slice) => (Math.abs(slice - middle) < Math.abs(best - middle) ? slice : best);
  const shown = [...rates.keys()].filter((slice) => rates[slice] < 1);
  return shown.length ? shown.reduce(nearer) : middle;
}

export class Viewer {
  /**
   * @param {HTMLElement[]} planes one for each axis, with a canvas, a range input, and a canvas for the strip
   * @param {() => void} onMove
   */
  constructor(planes, onMove) {
    this.planes = planes.map((element) => ({
      canvas: element.querySelector(".slice"),
      slider: element.querySelector("input"),
      strip: element.querySelector(".strip"),
      text: element.querySelector("output"),
    }));
    this.onMove = onMove;
    this.volume = null;
    this.planes.forEach((plane, axis) => this.#listen(plane, axis));
    new ResizeObserver(() => this.draw()).observe(planes[0].parentElement);
  }

  /** @param {{values: Float32Array, shape: number[], spacing: ?number[], upright: boolean}} volume */
  show(volume) {
    this.volume = volume;
    this.drawn = volume.values;
    this.overlay = null;
    this.channel = 0;
    this.colourGaps = true;
    this.planes.forEach(({ slider }, axis) => (slider.max = volume.shape[axis] - 1));
    this.#layOut();
    this.setChannel(0);
    this.position = this.rates.map((rates) => shownFirst([...rates]));
  }

  setChannel(channel) {
    this.channel = channel;
    this.rates = ratesAlong(this.volume, channel);
  }

  /** Where the value of this channel at a voxel lies. */
  index([d, h, w], channels = 1, channel = 0) {
    const [, height, width] = this.volume.shape;
    return ((d * height + h) * width + w) * channels + channel;
  }

  move(axis, index) {
    this.position[axis] = Math.max(0, Math.min(this.volume.shape[axis] - 1, Math.round(index)));
    this.draw();
    this.onMove();
  }

  draw() {
    if (!this.volume) return;
    this.planes.forEach((plane, axis) => {
      this.#drawSlice(plane, PLANES[axis]);
      this.#drawStrip(plane, axis);
      plane.slider.value = this.position[axis];
      plane.text.textContent = `${this.position[axis] + 1} of ${this.volume.shape[axis]}`;
    });
  }

  /** All planes at one scale, where the screen is wide enough for three beside each other. */
  #layOut() {
    const { shape, spacing } = this.volume;
    const wide = PLANES.map(([, , right]) => shape[right] * (spacing?.[right] ?? 1));
    const least = Math.max(...wide) / 2;
    const columns = wide.map((size) => `minmax(0, ${Math.max(size, least)}fr)`).join(" ");
    this.planes[0].canvas.closest("#planes").style.setProperty("--columns", columns);
  }

  #drawSlice({ canvas }, [cut, down, right]) {
    const { shape, spacing, upright } = this.volume;
    const [rows, columns] = [shape[down], shape[right]];
    const image = new ImageData(columns, rows);
    const voxel = [...this.position];
    let at = 0;
    for (let row = 0; row < rows; row++) {
      voxel[down] = upright ? rows - 1 - row : row;
      for (let column = 0; column < columns; column++, at += 4) {
        voxel[right] = column;
        image.data.set(this.#colour(voxel), at);
      }
    }
    const [tall, wide] = [rows * (spacing?.[down] ?? 1), columns * (spacing?.[right] ?? 1)];
    canvas.style.aspectRatio = `${wide} / ${tall}`;
    paint(canvas, image);
    const y = (upright ? rows - 1 - this.position[down] : this.position[down]) + 0.5;
    crosshair(canvas, (this.position[right] + 0.5) / columns, y / rows);
  }

  #colour(voxel) {
    const place = this.index(voxel);
    const at = place * this.volume.shape[3] + this.channel;
    const missing = Number.isNaN(this.volume.values[at]);
    const value = this.drawn[at];
    if (Number.isNaN(value)) return this.colourGaps ? [...GAP, 255] : [40, 44, 48, 255];
    const grey = (255 * (value - this.low)) / (this.high - this.low);
    let colour = [grey, grey, grey];
    if (missing && this.colourGaps) colour = mix(colour, GAP, 0.3);
    if (this.overlay) colour = mix(colour, ...this.#over(this.overlay.map[place]));
    return [...colour, 255];
  }

  /** The colour that lies over a voxel, and how strongly. */
  #over(value) {
    if (this.overlay.kind === "labels") return value > 0 ? [LABELS[(value - 1) % LABELS.length], 0.5] : [LABELS[0], 0];
    // NaN: nothing was observed there, so that nothing could be hidden.
    return [value > 0 ? UP : DOWN, (0.75 * Math.abs(value)) / this.overlay.most || 0];
  }

  #drawStrip({ strip, slider }, axis) {
    const scale = window.devicePixelRatio;
    const [width, height] = [strip.clientWidth * scale, strip.clientHeight * scale];
    Object.assign(strip, { width, height });
    const pen = strip.getContext("2d");
    const rates = this.rates[axis];
    const style = getComputedStyle(strip);
    // The middle of the slider's thumb never reaches its ends.
    const margin = parseFloat(style.getPropertyValue("--thumb")) * 0.5 * scale;
    const step = rates.length > 1 ? (width - 2 * margin) / (rates.length - 1) : 0;
    const bar = Math.max(scale, Math.min(step, 2 * margin) - scale);
    rates.forEach((rate, index) => {
      pen.fillStyle = `rgb(${GAP.join(" ")} / ${index === this.position[axis] ? 1 : 0.6})`;
      pen.fillRect(margin + index * step - bar / 2, height * (1 - rate), bar, height * rate);
    });
    const here = rates[this.position[axis]];
    slider.setAttribute("aria-valuetext", `${this.position[axis] + 1}, ${Math.round(100 * here)} % missing`);
  }

  #listen({ canvas, slider }, axis) {
    const [, down, right] = PLANES[axis];
    slider.addEventListener("input", () => this.move(axis, Number(slider.value)));
    const point = (event) => {
      const box = canvas.getBoundingClientRect();
      const [rows, columns] = [this.volume.shape[down], this.volume.shape[right]];
      const row = Math.floor(((event.clientY - box.top) / box.height) * rows);
      this.position[right] = clamp(Math.floor(((event.clientX - box.left) / box.width) * columns), columns);
      this.move(down, this.volume.upright ? rows - 1 - clamp(row, rows) : row);
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      point(event);
    });
    canvas.addEventListener("pointermove", (event) => event.buttons && point(event));
    canvas.addEventListener("keydown", (event) => {
      const up = this.volume.upright ? 1 : -1;
      const keys = {
        ArrowLeft: [right, -1],
        ArrowRight: [right, 1],
        ArrowUp: [down, up],
        ArrowDown: [down, -up],
        PageUp: [axis, 1],
        PageDown: [axis, -1],
      };
      if (!(event.key in keys)) return;
      event.preventDefault();
      const [moved, by] = keys[event.key];
      this.move(moved, this.position[moved] + by);
    });
  }
}

const clamp = (index, length) => Math.max(0, Math.min(length - 1, index));

const mix = (below, above, share) => below.map((v, i) => (1 - share) * Math.max(0, Math.min(255, v)) + share * above[i]);

/** Voxels as sharp rectangles, however large the canvas is. */
function paint(canvas, image) {
  const scale = window.devicePixelRatio;
  const [width, height] = [Math.round(canvas.clientWidth * scale), Math.round(canvas.clientHeight * scale)];
  Object.assign(canvas, { width, height });
  const voxels = new OffscreenCanvas(image.width, image.height);
  voxels.getContext("2d").putImageData(image, 0, 0);
  const pen = canvas.getContext("2d");
  pen.imageSmoothingEnabled = false;
  pen.drawImage(voxels, 0, 0, width, height);
}

/** Lines that leave the voxel itself free. */
function crosshair(canvas, x, y) {
  const pen = canvas.getContext("2d");
  const { width, height } = canvas;
  const gap = 12 * window.devicePixelRatio;
  pen.strokeStyle = "rgb(90 220 255 / 0.7)";
  pen.lineWidth = window.devicePixelRatio;
  pen.beginPath();
  for (const [from, to] of [[0, x * width - gap], [x * width + gap, width]]) {
    pen.moveTo(from, y * height);
    if (to > from) pen.lineTo(to, y * height);
  }
  for (const [from, to] of [[0, y * height - gap], [y * height + gap, height]]) {
    pen.moveTo(x * width, from);
    if (to > from) pen.lineTo(x * width, to);
  }
  pen.stroke();
}
