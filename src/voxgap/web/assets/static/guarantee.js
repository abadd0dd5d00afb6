/** What is guaranteed of an answer for the gaps of its input: the same rule as `voxgap.promises`. */

/** Which channels are missing as a whole, by index, and the kind of the missing rate of all others. */
export function patternOf({ values, shape }, rates) {
  const channels = shape[3];
  const voxels = values.length / channels;
  const counts = new Array(channels).fill(0);
  for (let i = 0; i < values.length; i++) if (Number.isNaN(values[i])) counts[i % channels]++;
  const missing = [...counts.keys()].filter((channel) => counts[channel] === voxels);
  const left = channels - missing.length;
  const gaps = counts.reduce((sum, count) => sum + count, 0) - voxels * missing.length;
  const rate = left ? gaps / (voxels * left) : 0;
  return { missing, rate: rates.filter((bound) => bound < rate).length };
}

/** The pattern, for people. */
export function patternWords({ missing, rate }, rates, channels) {
  if (missing.length === channels.length) return "everything missing";
  const percent = (share) => `${Math.round(100 * share)}%`;
  const within = rate > 1 ? `${percent(rates[rate - 1])} to ` : "up to ";
  const much = rate ? within + percent(rates[rate] ?? 1) : "nothing";
  if (!missing.length) return `${much} missing`;
  return `${missing.map((channel) => channels[channel]).join(", ")} missing, and ${much} of the rest`;
}

/** Which classes are in the set; the bounds of each value; or how many voxels of each class but the first its region has. */
export function promised(task, values, thresholds, tolerance) {
  if (task === "regression") {
    return Array.from(values, (value, i) => {
      const reach = thresholds[i] + tolerance * Math.max(1, Math.abs(value));
      return [value - reach, value + reach];
    });
  }
  if (task === "classification") return Array.from(values, (p) => p >= thresholds[0] - tolerance);
  const counts = thresholds.map(() => 0);
  const outputs = thresholds.length + 1;
  thresholds.forEach((threshold, i) => {
    if (threshold === null) return;
    for (let at = i + 1; at < values.length; at += outputs) if (values[at] >= threshold - tolerance) counts[i]++;
  });
  return counts;
}

/** What is guaranteed of one answer; null where the bundle guarantees nothing, no `rests` where nothing of such gaps. */
export function guaranteed(volume, output, { task, classes, input, guarantee }) {
  if (!guarantee) return null;
  const { rates, coverage, tolerance, claims } = guarantee;
  const pattern = patternOf(volume, rates);
  const names = pattern.missing.map((channel) => input.channels[channel]).sort().join("\n");
  const claim = claims.find(({ missing, rate }) => rate === pattern.rate && [...missing].sort().join("\n") === names);
  const said = { coverage, pattern: patternWords(pattern, rates, input.channels), rests: claim?.rests ?? null };
  if (!claim) return said;
  const found = promised(task, output, claim.thresholds, tolerance);
  if (task === "regression") return { ...said, intervals: found };
  if (task === "classification") return { ...said, classes: classes.filter((_, i) => found[i]) };
  const known = classes.slice(1).map((name, i) => [name, found[i]]).filter((_, i) => claim.thresholds[i] !== null);
  return { ...said, voxels: Object.fromEntries(known) };
}

/** The same in a sentence; nothing without one. */
export function inWords(said) {
  if (!said) return "";
  const { coverage, pattern, rests, classes, intervals, voxels } = said;
  if (!rests) return `Nothing is guaranteed for ${pattern}: too few such scans were calibrated on.`;
  const short = (value) => Number(value.toPrecision(5));
  const share = `${Number((100 * coverage).toPrecision(4))} %`;
  const such = `of scans like this (${pattern})`;
  const assumed = rests === "assumption" ? " This assumes that gaps depend on nothing." : "";
  if (voxels) {
    const regions = Object.entries(voxels).map(([name, count]) => `${name} ${count} voxels`);
    return `Regions that hold ${share} of a class's volume, in the mean ${such}: ${regions.join(", ")}.${assumed}`;
  }
  const what = intervals
    ? `the value lies between ${intervals.map(([low, high]) => `${short(low)} and ${short(high)}`).join(", ")}`
    : `it is ${classes.join(" or ")}`;
  if (classes?.length === 0) {
    return `No class is likely enough for scans like this (${pattern}) to be in a set that holds the true one in ${share}: look at this one yourself.${assumed}`;
  }
  return `In ${share} ${such} ${what}.${assumed}`;
}
