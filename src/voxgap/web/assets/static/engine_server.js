/** Lets `voxgap serve` read and predict. */
import { labelValues } from "./decision.js";
import { VoxgapError } from "./errors.js";
import { product } from "./readers/numbers.js";

export class ServerEngine {
  static async start() {
    const [card, samples] = await Promise.all([json(await ask("v1/model")), json(await ask("v1/samples"))]);
    return new ServerEngine(card, samples);
  }

  constructor(card, samples) {
    this.manifest = card.manifest;
    this.formats = card.formats;
    // One that would be doubted is none to begin with.
    const plain = samples.filter(({ warnings }) => !warnings.length);
    const titled = plain.map(({ name, url, note }) => ({ name, url: url.replace(/^\//, ""), title: note || name }));
    this.samples = titled.filter(({ title }, index) => titled.findIndex((other) => other.title === title) === index);
    this.name = card.model.name;
    this.can = { filled: true, series: true, place: true, cut: Boolean(card.manifest.input.patches), occlusion: card.manifest.task !== "segmentation" };
    this.note = "Files are sent to the server that this page comes from, and kept there no longer than the answer takes.";
  }

  async sample({ name, url }) {
    const { values, shape } = await volumeOf(await ask(url), Float32Array);
    return Object.assign(new File([values], name), { shape });
  }

  async open(patient) {
    const { values, shape } = await volumeOf(await this.#send("v1/view", patient), Float32Array);
    return { values, shape, spacing: this.manifest.input.spacing, affine: null };
  }

  async predict({ patient }) {
    const { predictions, model, timing, drift } = await json(await this.#send("v1/predict", patient));
    const [answer] = predictions;
    const inOrder = (held) => held && new Map(this.manifest.classes.map((name) => [name, held[name]]));
    return {
      ...answer,
      warnings: drift ? [...answer.warnings, drift] : answer.warnings,
      probabilities: inOrder(answer.probabilities),
      calibrated: inOrder(answer.calibrated),
      voxels: inOrder(answer.voxels),
      seconds: timing.total_ms / 1000,
      model: `${model.name} (${model.network}, ${model.sha256.slice(0, 12)})`,
    };
  }

  async filled({ patient }) {
    return (await volumeOf(await this.#send("v1/fill", patient), Float32Array)).values;
  }

  async occlusion({ patient }, { class: named }) {
    // For a class that a threshold decided for, not for the most probable one.
    const path = named ? `v1/occlusion?class=${encodeURIComponent(named)}` : "v1/occlusion";
    return (await volumeOf(await this.#send(path, patient), Float32Array)).values;
  }

  async labelMap({ patient }) {
    const { values } = await volumeOf(await this.#send("v1/label_map", patient), Int16Array);
    const index = new Map(labelValues(this.manifest).map((value, i) => [value, i]));
    return values.map((value) => index.get(value));
  }

  /** On the grid of the file, however it was brought onto the network's. */
  async labelFile({ patient }) {
    return { suffix: ".nii.gz", content: await (await this.#send("v1/label_map?format=nifti", patient)).blob() };
  }

  /** Sends files as they are, each as its channel; a sample, which has a shape, as the numbers that it is. */
  #send(path, { files, perChannel }) {
    if (files[0]?.shape) {
      const headers = { "Content-Type": "application/octet-stream", "X-Shape": files[0].shape.join(",") };
      return ask(path, { method: "POST", headers, body: files[0] });
    }
    const body = new FormData();
    files.forEach((file, index) => {
      if (file) body.append(perChannel ? this.manifest.input.channels[index] : "file", file, file.name);
    });
    return ask(path, { method: "POST", body });
  }
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new VoxgapError("the server does not answer; is `voxgap serve` still running?");
  }
  if (response.ok) return response;
  const { detail } = await response.json().catch(() => ({}));
  throw new VoxgapError(typeof detail === "string" ? detail : `${path}: the server answers ${response.status}`);
}

const json = (response) => response.json();

async function volumeOf(response, Numbers) {
  const shape = (response.headers.get("X-Shape") ?? "").split(",").map(Number);
  const bytes = await response.arrayBuffer();
  if (bytes.byteLength !== product(shape) * Numbers.BYTES_PER_ELEMENT) {
    throw new VoxgapError("the server's answer is not whole; try again");
  }
  return { values: new Numbers(bytes), shape };
}
