/** What a volume holds: (depth, height, width, channels) as one Float32Array, NaN = missing. */

/** Share of the values that is missing, in [0, 1]. */
export function missingRate(values) {
  let missing = 0;
  for (let i = 0; i < values.length; i++) if (Number.isNaN(values[i])) missing++;
  return missing / values.length;
}

/** The missing rate of one channel at each position along each of the three axes. */
export function ratesAlong({ values, shape }, channel) {
  const [depth, height, width, channels] = shape;
  const counts = [depth, height, width].map((length) => new Float64Array(length));
  let at = channel;
  for (let d = 0; d < depth; d++) {
    for (let h = 0; h < height; h++) {
      for (let w = 0; w < width; w++, at += channels) {
        if (!Number.isNaN(values[at])) continue;
        counts[0][d]++;
        counts[1][h]++;
        counts[2][w]++;
      }
    }
  }
  const voxels = depth * height * width;
  return counts.map((axis) => axis.map((count) => (count * axis.length) / voxels));
}

/** Lowest, highest, and 1st and 99th percentile of what is observed in one channel. */
export function intensity({ values, shape }, channel) {
  const channels = shape[3];
  const observed = [];
  const step = Math.max(1, Math.floor(values.length / channels / 200_000));
  for (let at = channel; at < values.length; at += step * channels) {
    if (!Number.isNaN(values[at])) observed.push(values[at]);
  }
  if (!observed.length) return { min: 0, max: 1, low: 0, high: 1 };
  const sorted = Float32Array.from(observed).sort();
  const at = (share) => sorted[Math.round(share * (sorted.length - 1))];
  const [min, max] = [sorted[0], sorted[sorted.length - 1]];
  const [low, high] = at(0.99) > at(0.01) ? [at(0.01), at(0.99)] : [min, max];
  return high > low ? { min, max, low, high } : { min: min - 0.5, max: max + 0.5, low: min - 0.5, high: max + 0.5 };
}
