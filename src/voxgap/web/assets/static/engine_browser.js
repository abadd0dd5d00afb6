/** Reads and predicts in this browser, from the files of the folder; nothing leaves the machine. */
import { VoxgapError } from "./errors.js";
import { calibrated, labelValues, named } from "./decision.js";
import { guaranteed } from "./guarantee.js";
import { doubts } from "./missingness.js";
import { nifti } from "./nifti.js";
import { product } from "./readers/numbers.js";
import { SUFFIXES, readPatient } from "./readers/read.js";
import { missingRate } from "./volume.js";
import { predictWindows } from "./windows.js";

/** The map of what the network looked at has blocks of a sixth of the longest side, and no more than this many. */
const MAX_BLOCKS = 512;

export class BrowserEngine {
  static async start() {
    const manifest = await fetchJson("manifest.json");
    const samples = await fetchJson("samples/index.json").catch(() => []); // removed from pages of confidential data
    return new BrowserEngine(manifest, samples);
  }

  constructor(manifest, samples) {
    this.manifest = manifest;
    this.samples = samples;
    this.formats = SUFFIXES;
    this.name = manifest.name;
    this.can = { filled: false, cut: false, place: false, series: false, occlusion: manifest.task !== "segmentation" };
    this.note = "Files are read and predicted in this browser: nothing leaves this machine.";
    this.worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    this.waiting = new Map();
    this.worker.addEventListener("message", ({ data }) => this.#settle(data));
    this.worker.addEventListener("error", (event) => this.#fail(event.message || "the worker did not start"));
  }

  async sample({ name, url }) {
    const response = await fetch(url);
    if (!response.ok) throw new VoxgapError(`${url}: the web server answers ${response.status}`);
    return new File([await response.blob()], name);
  }

  open(patient) {
    return readPatient(patient, this.manifest.input);
  }

  async predict(volume) {
    const { output, shape, seconds, windows } = await this.#run(volume, volume.values);
    if (!output.every(Number.isFinite)) {
      throw new VoxgapError("the network's answer is not finite for such values; give them in the units of the training data");
    }
    return { ...this.#answer(volume, output, shape, seconds), windows };
  }

  /**
   * How the answer falls where a block is made missing, one prediction for each block; NaN where nothing was
   * observed. Occlusion sensitivity (Zeiler and Fergus, ECCV 2014), with gaps for their grey squares.
   */
  async occlusion(volume, answer, onProgress) {
    const boxes = blocks(volume.shape).filter((box) => voxels(volume.shape, box).some((at) => observed(volume, at)));
    const map = new Float32Array(product(volume.shape.slice(0, 3))).fill(NaN);
    const channels = volume.shape[3];
    for (const [done, box] of boxes.entries()) {
      onProgress(done / boxes.length);
      const values = volume.values.slice();
      const inside = voxels(volume.shape, box);
      for (const at of inside) values.fill(NaN, at * channels, (at + 1) * channels);
      const { output } = await this.#run(volume, values);
      for (const at of inside) map[at] = answer.output[answer.best] - output[answer.best];
    }
    return map;
  }

  async labelMap(volume, answer) {
    return answer.labels;
  }

  async labelFile({ volume, answer }) {
    const values = labelValues(this.manifest);
    return { suffix: ".nii", content: nifti(answer.labels.map((label) => values[label]), volume) };
  }

  #answer(volume, output, shape, seconds) {
    const { task, classes, network, calibration, decision } = this.manifest;
    const threshold = decision?.threshold ?? undefined;
    const answer = { threshold, missing_rate: missingRate(volume.values), warnings: doubts(volume, this.manifest), guarantee: guaranteed(volume, output, this.manifest), seconds, model: network, output };
    if (task === "segmentation") return { ...answer, ...labelled(output, shape, classes, decision.threshold) };
    if (task === "regression") return { ...answer, values: Array.from(output), best: output.indexOf(Math.max(...output)) };
    const byName = (numbers) => numbers && new Map(classes.map((name, i) => [name, numbers[i]]));
    const best = named(output, decision.threshold);
    return { ...answer, class: classes[best], probabilities: byName(output), calibrated: byName(calibrated(output, calibration, volume)), best };
  }

  #run({ shape }, values) {
    return predictWindows((window) => this.#runOne(window), { values, shape }, this.manifest.input.shape);
  }

  #runOne(values) {
    const id = crypto.getRandomValues(new Uint32Array(1))[0];
    const model = new URL("model.onnx", document.baseURI).href;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, model, values, shape: this.manifest.input.shape });
    });
  }

  #settle({ id, result, error }) {
    const { resolve, reject } = this.waiting.get(id);
    this.waiting.delete(id);
    if (error) reject(new VoxgapError(`the network can't run here (${error.split("\n")[0].slice(0, 200)})`));
    else resolve(result);
  }

  #fail(reason) {
    for (const { reject } of this.waiting.values()) reject(new VoxgapError(`the network can't run here (${reason})`));
    this.waiting.clear();
  }
}

/** The class that is named for each voxel, and how many voxels each class has. */
function labelled(output, shape, classes, threshold) {
  const labels = new Int16Array(product(shape.slice(0, 3)));
  const counts = new Array(classes.length).fill(0);
  const outputs = shape[3];
  for (let voxel = 0; voxel < labels.length; voxel++) {
    const best = named(output, threshold, voxel * outputs, outputs);
    labels[voxel] = best;
    counts[best]++;
  }
  return { labels, voxels_of: "file", voxels: new Map(classes.map((name, i) => [name, counts[i]])) };
}

function blocks(shape) {
  let edge = Math.ceil(Math.max(...shape.slice(0, 3)) / 6);
  while (product(shape.slice(0, 3).map((length) => Math.ceil(length / edge))) > MAX_BLOCKS) edge++;
  const [depths, heights, widths] = shape.slice(0, 3).map((length) => {
    const starts = Array.from({ length: Math.ceil(length / edge) }, (_, i) => i * edge);
    return starts.map((start) => [start, Math.min(start + edge, length)]);
  });
  return depths.flatMap((d) => heights.flatMap((h) => widths.map((w) => [d, h, w])));
}

/** Where the voxels of a box are, counted without channels. */
function voxels([, height, width], [[d0, d1], [h0, h1], [w0, w1]]) {
  const found = [];
  for (let d = d0; d < d1; d++) {
    for (let h = h0; h < h1; h++) for (let w = w0; w < w1; w++) found.push((d * height + h) * width + w);
  }
  return found;
}

function observed({ values, shape }, voxel) {
  return values.subarray(voxel * shape[3], (voxel + 1) * shape[3]).some((value) => !Number.isNaN(value));
}

async function fetchJson(path) {
  const response = await fetch(path);
  if (!response.ok) throw new VoxgapError(`${path}: the web server answers ${response.status}; copy the whole folder`);
  return response.json();
}
