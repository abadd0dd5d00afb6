/**
 * Why to doubt an answer: what this volume misses, and its values, against the training data's. The same rules as
 * `voxgap.runtime`'s, except that the shape of the gaps (slices, blocks, voxels) is not compared here.
 */
import { missingRate } from "./volume.js";

const RATE_SLACK = 0.05;
const OUTSIDE = 0.01;
const FAR = 10;

const percent = (share) => `${(100 * share).toFixed(0)}%`;

/** @returns {string[]} one sentence for each difference */
export function doubts({ values, shape }, manifest) {
  if (missingRate(values) === 1) return ["no observed voxel: the answer is what the network says of nothing"];
  const known = manifest.data?.profile?.channels ?? {};
  return manifest.input.channels.flatMap((name, index) => {
    if (!known[name]) return [];
    const observed = channelOf(values, shape[3], index).filter((value) => !Number.isNaN(value));
    const rate = 1 - observed.length / (values.length / shape[3]);
    return [rateDoubt(name, rate, known[name]), valueDoubt(name, observed, known[name])].filter(Boolean);
  });
}

function rateDoubt(name, rate, { missing_rate: [low, high] }) {
  if (low - RATE_SLACK <= rate && rate <= high + RATE_SLACK) return null;
  if (rate === 1) return `channel ${name} is missing as a whole, which it never was in the training data`;
  return `channel ${name}: ${percent(rate)} missing, in the training data ${percent(low)} to ${percent(high)}`;
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
  const number = (v) => Number(v.toPrecision(4));
  return `channel ${name}: values from ${number(least)} to ${number(most)}, in the training data ${number(low)} to ${number(high)}; check the units`;
}

function channelOf(values, channels, index) {
  const found = new Float32Array(values.length / channels);
  for (let i = 0; i < found.length; i++) found[i] = values[i * channels + index];
  return found;
}
