/** What is made of a network's answer: the same rules as `voxgap.decision`'s and `voxgap.runtime`'s. */
import { patternOf } from "./guarantee.js";

const LEAST = 1e-12;

/** The index of the class that is named: the most probable one; of two, the second from the threshold on. */
export function named(probabilities, threshold, from = 0, count = probabilities.length) {
  if (threshold !== null) return Number(probabilities[from + 1] >= threshold);
  let best = 0;
  for (let c = 1; c < count; c++) if (probabilities[from + c] > probabilities[from + best]) best = c;
  return best;
}

/** Why a class is named that may be the less probable one; nothing where the most probable one is. */
export function decided(threshold, classes) {
  return threshold == null ? "" : `${classes[1]} from a probability of ${Number(threshold.toPrecision(4))} on`;
}

/** The temperature for an input: that of its pattern of gaps, where it has one of its own. */
export function temperatureOf(volume, { temperature, patterns, rates }) {
  if (!patterns) return temperature;
  const { missing, rate } = patternOf(volume, rates);
  const own = patterns.find((one) => one.rate === rate && one.missing.join() === missing.join());
  return own?.temperature ?? temperature;
}

/** Probabilities at the temperature that was fitted on validation data, for the gaps of this volume; null without one. */
export function calibrated(probabilities, calibration, volume) {
  if (!calibration?.temperature) return null;
  const temperature = temperatureOf(volume, calibration);
  const logits = Array.from(probabilities, (p) => Math.log(Math.max(p, LEAST)) / temperature);
  const most = Math.max(...logits);
  const odds = logits.map((logit) => Math.exp(logit - most));
  const total = odds.reduce((sum, odd) => sum + odd, 0);
  return odds.map((odd) => odd / total);
}

/** What stands for each class in a label map: the value that it was learnt from, 255 say.
 *  Earlier bundles don't say it: there it is what the class is called, or its place. */
export function labelValues({ classes, label_values: learnt }) {
  if (learnt) return learnt;
  const values = classes.map((name) => (/^[0-9]{1,5}$/.test(name) ? Number(name) : NaN));
  const drawn = new Set(values).size === values.length && values.every((value) => value <= 32767);
  return drawn ? values : classes.map((_, index) => index);
}
