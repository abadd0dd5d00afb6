/** Volumes deeper than the network's input, in overlapping windows: the same rules as `voxgap.patches`'s. */
import { product } from "./readers/numbers.js";

const OVERLAP = 0.5;
const LEAST_WEIGHT = 1e-3;

/** The first slice of each window: evenly spaced, the outer ones flush with the ends. */
export function starts(length, edge) {
  if (length <= edge) return [0];
  const count = Math.ceil((length - edge) / Math.max(1, Math.floor(edge * (1 - OVERLAP)))) + 1;
  return Array.from({ length: count }, (_, i) => toEven((i * (length - edge)) / (count - 1)));
}

/**
 * @param {(values: Float32Array) => Promise<{output: Float32Array, shape: number[], seconds: number}>} run
 * @param {{values: Float32Array, shape: number[]}} volume
 * @param {number[]} size of the network's input: depth, height, width, channels
 * @returns {Promise<{output: Float32Array, shape: number[], seconds: number, windows: number}>} the mean over the
 *   windows that show something, or for each voxel the mean weighed by the distance to their centres
 */
export async function predictWindows(run, { values, shape }, size) {
  const plane = product(shape.slice(1));
  const found = [];
  for (const start of starts(shape[0], size[0])) {
    const window = values.slice(start * plane, (start + size[0]) * plane);
    found.push({ start, observed: window.some((value) => !Number.isNaN(value)), ...(await run(window)) });
  }
  const whole = found[0].shape.length > 1 ? blended(found, shape[0], size) : averaged(found);
  return { ...whole, seconds: found.reduce((sum, { seconds }) => sum + seconds, 0), windows: found.length };
}

function averaged(found) {
  const seen = found.some(({ observed }) => observed) ? found.filter(({ observed }) => observed) : found;
  const output = found[0].output.map((_, i) => seen.reduce((sum, { output }) => sum + output[i], 0) / seen.length);
  return { output, shape: found[0].shape };
}

function blended(found, depth, size) {
  const weights = importance(size);
  const [, height, width, outputs] = found[0].shape;
  const sums = new Float32Array(depth * height * width);
  const output = new Float32Array(sums.length * outputs);
  for (const { start, output: answer } of found) {
    const first = start * height * width;
    weights.forEach((weight, voxel) => {
      sums[first + voxel] += weight;
      for (let c = 0; c < outputs; c++) output[(first + voxel) * outputs + c] += weight * answer[voxel * outputs + c];
    });
  }
  return { output: output.map((value, i) => value / sums[Math.floor(i / outputs)]), shape: [depth, height, width, outputs] };
}

/** The weight of each voxel of a window: a Gaussian about its centre, whose deviation is an eighth of its size. */
function importance([depth, height, width]) {
  const along = [depth, height, width].map((edge) =>
    Array.from({ length: edge }, (_, i) => Math.exp(-0.5 * ((i - (edge - 1) / 2) / (edge / 8)) ** 2)),
  );
  const weights = new Float32Array(depth * height * width);
  let at = 0;
  for (const d of along[0]) {
    for (const h of along[1]) for (const w of along[2]) weights[at++] = Math.max(d * h * w, LEAST_WEIGHT);
  }
  return weights;
}

/** As NumPy rounds: a half goes to the even neighbour. */
function toEven(number) {
  const whole = Math.floor(number);
  return number - whole === 0.5 ? whole + (whole % 2) : Math.round(number);
}
