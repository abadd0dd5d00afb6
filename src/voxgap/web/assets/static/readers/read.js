/** Reads a patient that is on the network's grid already, or says how to bring it there. */
import { VoxgapError, oneLine } from "../errors.js";
import { readNifti } from "./nifti.js";
import { product, times } from "./numbers.js";
import { readNpy, readNpz } from "./numpy.js";
import { spacingOf } from "./orientation.js";

const FORMATS = { ".npy": readNpy, ".npz": readNpz, ".nii": readNifti, ".nii.gz": readNifti };
export const SUFFIXES = Object.keys(FORMATS);
const SPACING_TOLERANCE = 1e-3;
/** Of a voxel, along each axis, by which two files may lie apart and still be on one grid; as voxgap.grid's. */
const SAME = 0.01;
const MAX_VALUES = 2 ** 28;

/**
 * @param {import("../patient.js").Patient} patient
 * @param {object} input of the manifest: shape, channels, and grid with spacing, rules, reference and missing_values
 * @returns {Promise<{values: Float32Array, shape: number[], spacing: ?number[], affine: ?number[][]}>}
 */
export async function readPatient({ files, perChannel }, input) {
  if (!perChannel) return readVolume(files[0], input);
  const one = { ...input, shape: [...input.shape.slice(0, 3), 1], files };
  const read = [];
  for (const file of files) read.push(file && (await readVolume(file, one)));
  const named = input.channels.indexOf(input.grid?.reference);
  const first = read[named] ?? read.find(Boolean);
  const other = read.findIndex((volume) => volume && !sameGrid(volume, first));
  if (other >= 0) {
    throw convert(files[other], one, `lies on another grid than ${files[read.indexOf(first)].name}`);
  }
  const values = new Float32Array(first.values.length * files.length).fill(NaN);
  read.forEach((volume, c) => volume?.values.forEach((value, i) => (values[i * files.length + c] = value)));
  return { ...first, values, shape: [...first.shape.slice(0, 3), files.length] };
}

/** Whether two volumes have the same voxels, as far as they say where they lie. */
function sameGrid(one, other) {
  if (String(one.shape) !== String(other.shape)) return false;
  if (!one.affine || !other.affine) return true;
  const sizes = spacingOf(other.affine);
  const ends = [0, 1].flatMap((d) => [0, 1].flatMap((h) => [0, 1].map((w) => [d, h, w].map((end, i) => end * one.shape[i]))));
  const least = Math.min(...sizes);
  return ends.every((end) =>
    [0, 1, 2].every((row) => {
      const apart = [0, 1, 2].reduce((sum, i) => sum + (one.affine[row][i] - other.affine[row][i]) * end[i], 0);
      return Math.abs(apart + one.affine[row][3] - other.affine[row][3]) < SAME * least;
    }),
  );
}

/**
 * @param {File} file
 * @param {object} input of the manifest: shape, and grid with spacing, rules and missing_values
 * @returns {Promise<{values: Float32Array, shape: number[], spacing: ?number[], affine: ?number[][]}>}
 */
export async function readVolume(file, input) {
  const suffix = SUFFIXES.filter((known) => file.name.toLowerCase().endsWith(known)).at(-1);
  if (!suffix) throw convert(file, input, `this page reads ${SUFFIXES.join(", ")}; voxgap reads many more`);
  try {
    // Of what Python brings to a size, only a clip stays deeper, and no NIfTI file is one.
    const deep = !input.patches && !(input.grid?.size && FORMATS[suffix] === readNifti);
    const fits = (shape, spacing) => checkGrid(file, input, shape, spacing, deep);
    const volume = await FORMATS[suffix](file, fits, input.grid?.rules ?? 1);
    setMissing(volume.values, input.grid?.missing_values ?? []);
    return volume;
  } catch (error) {
    if (!(error instanceof VoxgapError) || error.command) throw oneLine(file.name, error);
    throw new VoxgapError(`${file.name}: ${error.message}`);
  }
}

function checkGrid(file, input, shape, spacing, deep) {
  const deeper = deep && shape[0] > input.shape[0];
  if (String(shape.slice(Number(deeper))) !== String(input.shape.slice(Number(deeper)))) {
    const channels = (input.channels ?? []).join(", ");
    throw convert(
      file,
      input,
      `shape ${times(shape)}, but this network takes ${times(input.shape)}${deep ? " or deeper" : ""} (depth, height, width, channels: ${channels})`,
    );
  }
  if (product(shape) > MAX_VALUES) throw convert(file, input, `shape ${times(shape)} is too large for this page`);
  const wanted = input.grid?.spacing;
  if (wanted && !wanted.every((size, i) => Math.abs(spacing?.[i] - size) <= SPACING_TOLERANCE * size)) {
    const has = spacing ? `spacing ${spacing.map((size) => Number(size.toPrecision(4))).join(", ")}` : "no spacing";
    throw convert(file, input, `${has}, but this network takes ${wanted.join(", ")}`);
  }
}

/** The error that shows how Python reads the file as the training data was read, and writes what this page takes. */
function convert(file, input, message) {
  if (input.patches) {
    const remedy = "predict larger volumes, which are cut into patches, with `voxgap predict` or `voxgap serve`";
    return new VoxgapError(`${file.name}: ${message}; ${remedy}`);
  }
  const name = input.files
    ? `[${input.files.map((each) => (each ? JSON.stringify(each.name) : "None")).join(", ")}]`
    : JSON.stringify(file.name);
  const code = `vg.write("converted.npz", vg.load("BUNDLE").read(${name})[0])`;
  return new VoxgapError(`${file.name}: ${message}`, `import voxgap as vg\n${code}`);
}

/** Values that stand for missing become NaN, compared as float32. */
function setMissing(values, sentinels) {
  const numbers = sentinels.map((value) => Math.fround(String(value).replace(/inf$/, "Infinity")));
  for (const sentinel of numbers) {
    for (let i = 0; i < values.length; i++) if (values[i] === sentinel) values[i] = NaN;
  }
}
