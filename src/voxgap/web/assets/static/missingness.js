/**
 * Why to doubt an answer: what this volume misses, and its values, against the training data's. The same rules as
 * `voxgap.runtime`'s.
 */
import { missingRate } from "./volume.js";

const OUTSIDE = 0.01;
const FAR = 10;

/** As Python's `.4g`: a half goes to the even neighbour, and large and small numbers get an exponent. */
function general(number) {
  const half = /^(-?\d\.\d\d[02468])50*e(.*)/.exec(number.toExponential(40));
  const [digits, exponent] = half ? half.slice(1) : number.toExponential(3).split("e");
  if (exponent >= -4 && exponent < 4) return Object.is(number, -0) ? "-0" : String(Number(`${digits}e${exponent}`));
  return `${Number(digits)}e${exponent[0]}${exponent.slice(1).padStart(2, "0")}`;
}

/** @returns {string[]} one sentence for each difference */
export function doubts({ values, shape }, manifest) {
  if (missingRate(values) === 1) return ["no observed voxel: the answer is what the network says of nothing"];
  const known = manifest.data?.profile?.channels ?? {};
  return manifest.input.channels.flatMap((name, index) => {
    if (!known[name]) return [];
    const observed = channelOf(values, shape[3], index).filter((value) => !Number.isNaN(value));
    return [absence(name, observed, known[name]), valueDoubt(name, observed, known[name])].filter(Boolean);
  });
}

function absence(name, observed, { missing_rate: [, high] }) {
  return !observed.length && high < 1 ? `channel ${name} is missing as a whole, which it never was in the training data` : null;
}

function valueDoubt(name, observed, { values, deviation }) {
  if (!observed.length || !values || !deviation) return null;
  const [low, high] = values;
  const slack = (high - low) / 2;
  const outside = observed.filter((v) => v < low - slack || v > high + slack).length / observed.length;
  const mean = observed.reduce((sum, v) => sum + v, 0) / observed.length;
  const spread = Math.sqrt(observed.reduce((sum, v) => sum + (v - mean) ** 2, 0) / observed.length);
  const least = observed.reduce((a, b) => Math.min(a, b));
  const most = observed.reduce((a, b) => Math.max(a, b));
  const far = FAR * (high - low);
  const isFar = far > 0 && (least < low - far || most > high + far);
  if (!isFar && outside <= OUTSIDE && deviation[0] / 10 <= spread && spread <= deviation[1] * 10) return null;
  return `channel ${name}: values from ${general(least)} to ${general(most)}, in the training data ${general(low)} to ${general(high)}; check the units`;
}

function channelOf(values, channels, index) {
  const found = new Float32Array(values.length / channels);
  for (let i = 0; i < found.length; i++) found[i] = values[i * channels + index];
  return found;
}
