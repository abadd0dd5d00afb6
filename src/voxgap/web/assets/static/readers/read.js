/** Reads a volume that is on the network's grid already, or says how to bring it there. */
import { VoxgapError, oneLine } from "../errors.js";
import { readNifti } from "./nifti.js";
import { times } from "./numbers.js";
import { readNpy, readNpz } from "./numpy.js";

const FORMATS = { ".npy": readNpy, ".npz": readNpz, ".nii": readNifti, ".nii.gz": readNifti };
export const SUFFIXES = Object.keys(FORMATS);
const SPACING_TOLERANCE = 1e-3;

/**
 * @param {File} file
 * @param {object} input of the manifest: shape, and grid with spacing and missing_values
 * @returns {Promise<{values: Float32Array, shape: number[], spacing: ?number[], affine: ?number[][]}>}
 */
export async function readVolume(file, input) {
  const suffix = SUFFIXES.filter((known) => file.name.toLowerCase().endsWith(known)).at(-1);
  if (!suffix) throw convert(file, input, `this page reads ${SUFFIXES.join(", ")}; voxgap reads many more`);
  try {
    const volume = await FORMATS[suffix](file, (shape, spacing) => checkGrid(file, input, shape, spacing));
    setMissing(volume.values, input.grid?.missing_values ?? []);
    return volume;
  } catch (error) {
    if (!(error instanceof VoxgapError) || error.command) throw oneLine(file.name, error);
    throw new VoxgapError(`${file.name}: ${error.message}`);
  }
}

function checkGrid(file, input, shape, spacing) {
  if (String(shape) !== String(input.shape)) {
    const channels = (input.channels ?? []).join(", ");
    throw convert(
      file,
      input,
      `shape ${times(shape)}, but this network takes ${times(input.shape)} (depth, height, width, channels: ${channels})`,
    );
  }
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
  const name = JSON.stringify(file.name);
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
