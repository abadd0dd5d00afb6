/** The page: a volume is chosen, shown and predicted, whatever engine does the work. */
import { BrowserEngine } from "./engine_browser.js";
import { ServerEngine } from "./engine_server.js";
import { VoxgapError, oneLine } from "./errors.js";
import { showAnswer, showFacts } from "./answer.js";
import { inOne, nameOf } from "./patient.js";
import { saveAnswer, saveLabels } from "./save.js";
import { Slots } from "./slots.js";
import { LABELS, Viewer } from "./viewer.js";
import { intensity } from "./volume.js";
import { times } from "./readers/numbers.js";

const ENGINES = { browser: BrowserEngine, server: ServerEngine };
/** Formats that say which way is up: canonical orientation, in which height and depth run upwards. */
const SCAN = /\.(nii(\.gz)?|nrrd|nhdr|mha|mhd|dcm|dicom)$/i;
/** As scanners name them: with a suffix, or numbers alone. */
const DICOM = /(\.dcm|\.dicom|(^|\.)[^.]*\d|^[^.]+)$/i;
const at = (id) => document.getElementById(id);

let engine;
let viewer;
let slots;
/** What is open; a later one takes its place, and what arrives for the earlier one is dropped. */
let open = null;

async function start() {
  engine = await ENGINES[document.documentElement.dataset.engine].start();
  const { input, classes } = engine.manifest;
  at("title").textContent = engine.name;
  document.title = `${engine.name} · voxgap`;
  const kinds = classes.length ? ` Classes: ${classes.join(", ")}.` : "";
  if (input.channels.length > 1) at("ask").textContent = "Choose a volume, in one file or several,";
  at("about").textContent = `Takes volumes of ${taken(input)} (depth, height, width, channels: ${input.channels.join(", ")}).${refused(input)}${kinds}`;
  at("formats").textContent = engine.formats.join("  ");
  at("privacy").textContent = engine.note;
  showFacts(at("facts").tBodies[0], engine.manifest);
  slots = new Slots(at("slots"), input.channels, use);
  viewer = new Viewer([...document.querySelectorAll("#planes figure")], showValue);
  for (const sample of engine.samples) at("samples").append(sampleButton(sample));
  at("samples").hidden = !engine.samples.length;
  at("show-control").hidden = !engine.can.filled;
  at("choose").hidden = false;
  listen();
}

function listen() {
  at("file").addEventListener("change", ({ target }) => {
    if (target.files.length) take([...target.files]);
    target.value = ""; // so that the same file can be chosen again
  });
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      at("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files.length) take([...event.dataTransfer.files]);
    });
  }
  at("channel").addEventListener("change", ({ target }) => {
    viewer.setChannel(Number(target.value));
    resetWindow();
  });
  at("gaps").addEventListener("change", ({ target }) => draw({ colourGaps: target.checked }));
  at("flip").addEventListener("change", ({ target }) => {
    viewer.volume.upright = target.checked;
    viewer.draw();
  });
  at("show").addEventListener("change", showVersion);
  at("overlay").addEventListener("change", showOverlay);
  for (const id of ["low", "high"]) at(id).addEventListener("input", setWindow);
  at("reset").addEventListener("click", resetWindow);
  at("save").addEventListener("click", () => saveAnswer(open, engine.manifest));
  at("save-labels").addEventListener("click", () => working("fetching the label map", async (shown) => {
    saveLabels(await engine.labelFile(shown), shown.patient);
  }));
}

/** What this page takes: a server brings files onto the network's grid and cuts them into patches, a browser does neither. */
function taken({ shape, patches, grid }) {
  const voxels = grid?.spacing ? ` with voxels of ${grid.spacing.join("×")}` : "";
  if (patches && engine.can.cut) return `any size, in patches of ${times(shape)}${voxels}`;
  if (engine.can.place && grid?.size) return `any size, which are brought to ${times(shape)}${voxels}`;
  return `${times(shape)}${voxels}${patches || grid?.size ? "" : ", or deeper, in windows"}`;
}

/** What it refuses, though the network takes it elsewhere. */
function refused({ patches, grid }) {
  const moved = grid?.size || grid?.spacing || grid?.crop;
  if (engine.can.place || !moved) return "";
  return ` This page resamples${patches ? " and cuts" : ""} nothing: scans on another grid, as scanners make them, are for voxgap serve and voxgap predict.`;
}

/** Files that were chosen or dropped: a patient. */
function take(files) {
  if (engine.manifest.input.channels.length > 1) {
    begin(""); // what was open is another patient, and it may yet be asked which file is which
    at("status").textContent = "";
    return slots.take(files);
  }
  if (files.length === 1 || (engine.can.series && files.every(({ name }) => DICOM.test(name)))) return use(inOne(files));
  begin("");
  const series = engine.can.series ? ", or the files of one DICOM series" : "";
  fail(new VoxgapError(`${files.length} files, and this network takes one volume of one channel; choose one file${series}`));
}

function sampleButton(sample) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = sample.title;
  button.addEventListener("click", async () => {
    const mine = begin(`fetching ${sample.title}`);
    try {
      const file = await engine.sample(sample);
      if (mine !== open) return;
      slots.clear();
      await use(inOne([file]));
    } catch (error) {
      if (mine === open) fail(oneLine(sample.title, error));
    }
  });
  return button;
}

/** Opens, shows and predicts one patient. */
async function use(patient) {
  const name = nameOf(patient);
  const mine = begin(`reading ${name}`);
  try {
    const upright = SCAN.test(patient.files.find(Boolean).name);
    const volume = { ...(await engine.open(patient)), patient, upright };
    if (mine !== open) return;
    Object.assign(open, { volume, patient });
    showVolume(volume, name);
    at("status").textContent = "predicting …";
    const answer = await engine.predict(volume);
    if (mine !== open) return;
    open.answer = answer;
    showAnswer(answer, volume, engine.manifest);
    fillOverlays(answer);
    at("result").hidden = false;
    at("status").textContent = "";
  } catch (error) {
    if (mine === open) fail(oneLine(name, error));
  }
}

function begin(what) {
  open = {};
  at("status").textContent = `${what} …`;
  at("error").hidden = true;
  at("shown").hidden = true;
  at("result").hidden = true;
  return open;
}

function fail(error) {
  at("status").textContent = "";
  at("message").textContent = error.message;
  at("command").textContent = error.command ?? "";
  at("remedy").hidden = !error.command;
  at("error").hidden = false;
}

/** Runs what takes a while for the open volume; an error leaves what is shown. */
async function working(what, task) {
  const mine = open;
  at("error").hidden = true;
  at("status").textContent = `${what} …`;
  try {
    await task(mine);
  } catch (error) {
    if (mine === open) fail(oneLine(nameOf(mine.patient), error));
  } finally {
    if (mine === open) at("status").textContent = "";
  }
}

function showVolume(volume, name) {
  at("shown").hidden = false;
  at("name").textContent = name;
  const names = engine.manifest.input.channels;
  at("channel").replaceChildren(...names.map((name, index) => new Option(name, index)));
  at("channel-control").hidden = names.length < 2;
  at("overlay-control").hidden = true;
  at("legend").hidden = true;
  at("gaps").checked = true;
  at("flip").checked = volume.upright;
  at("show").value = "read";
  viewer.show(volume);
  // A channel that is missing shows nothing: the first one that is there.
  const there = names.findIndex((_, channel) => volume.values.some((v, i) => i % names.length === channel && !Number.isNaN(v)));
  at("channel").value = Math.max(0, there);
  viewer.setChannel(Math.max(0, there));
  resetWindow();
}

function draw(changes) {
  Object.assign(viewer, changes);
  viewer.draw();
  showValue();
}

/** The value under the crosshair, in words. */
function showValue() {
  const { position, volume, channel, drawn, overlay } = viewer;
  const index = viewer.index(position, volume.shape[3], channel);
  const missing = Number.isNaN(volume.values[index]);
  const number = (value) => Number(value.toPrecision(5));
  const filled = missing && !Number.isNaN(drawn[index]) ? `, filled with ${number(drawn[index])}` : "";
  const value = missing ? `missing${filled}` : `value ${number(volume.values[index])}`;
  const label = overlay?.kind === "labels" ? ` · ${engine.manifest.classes[overlay.map[viewer.index(position)]] ?? "unlabelled"}` : "";
  at("value").textContent = `At depth ${position[0] + 1}, height ${position[1] + 1}, width ${position[2] + 1}: ${value}${label}`;
}

const WINDOW_STEPS = 1000;

function resetWindow() {
  const { min, max, low, high } = intensity(viewer.volume, viewer.channel);
  const place = (value) => Math.round((WINDOW_STEPS * (value - min)) / (max - min));
  viewer.range = [min, max];
  at("low").value = place(low);
  at("high").value = place(high);
  draw({ low, high });
}

function setWindow() {
  const [min, max] = viewer.range;
  const value = (id) => min + ((max - min) * Number(at(id).value)) / WINDOW_STEPS;
  draw({ low: value("low"), high: Math.max(value("high"), value("low") + (max - min) / WINDOW_STEPS) });
}

async function showVersion() {
  const { volume } = open;
  if (at("show").value === "read") return draw({ drawn: volume.values });
  await working("filling the gaps", async (mine) => {
    mine.filled ??= await engine.filled(volume);
    if (mine === open && at("show").value === "filled") draw({ drawn: mine.filled });
  });
}

function fillOverlays({ voxels }) {
  const choices = [new Option("nothing", "")];
  if (voxels) choices.push(new Option("label map", "labels"));
  if (engine.can.occlusion) choices.push(new Option("what the network looked at", "heat"));
  at("overlay").replaceChildren(...choices);
  at("overlay-control").hidden = choices.length < 2;
  if (voxels) {
    at("overlay").value = "labels";
    showOverlay();
  }
}

async function labelMap() {
  return (open.labels ??= await engine.labelMap(open.volume, open.answer));
}

async function showOverlay() {
  const kind = at("overlay").value;
  at("legend").hidden = true;
  if (!kind) return draw({ overlay: null });
  const what = kind === "labels" ? "fetching the label map" : "hiding one part after the other";
  await working(what, async (mine) => {
    const map = kind === "labels" ? await labelMap() : await heatMap(mine);
    if (mine !== open || at("overlay").value !== kind) return;
    const most = kind === "heat" ? map.reduce((most, v) => (Math.abs(v) > most ? Math.abs(v) : most), 0) : 0;
    draw({ overlay: { kind, map, most } });
    showLegend(kind, map, mine.answer);
  });
}

async function heatMap(mine) {
  const progress = (share) => {
    if (mine === open) at("status").textContent = `hiding one part after the other: ${Math.round(100 * share)} %`;
  };
  return (mine.heat ??= await engine.occlusion(mine.volume, mine.answer, progress));
}

function showLegend(kind, map, answer) {
  at("legend").hidden = false;
  if (kind === "labels") {
    const names = engine.manifest.classes.slice(1).map((name, index) => {
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = `rgb(${LABELS[index % LABELS.length]})`;
      return [swatch, `${name}  `];
    });
    return at("legend").replaceChildren(...names.flat());
  }
  const low = map.reduce((least, v) => (v < least ? v : least), 0);
  const high = map.reduce((most, v) => (v > most ? v : most), 0);
  const what = answer.class === undefined || answer.class === null ? "the value" : `the probability of ${answer.class}`;
  at("legend").textContent = `Each part is made missing in turn. Blue: ${what} falls (by up to ${high.toFixed(3)}); yellow: it rises (by up to ${(-low).toFixed(3)}).`;
}

start().catch((error) => fail(oneLine("this page", error)));
