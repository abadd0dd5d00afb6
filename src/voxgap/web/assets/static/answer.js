/** The answer, as text and bars. */
import { decided } from "./decision.js";
import { inWords } from "./guarantee.js";
import { LABELS } from "./viewer.js";
import { product, times } from "./readers/numbers.js";
import { ratesAlong } from "./volume.js";

const at = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;

export function showAnswer(answer, volume, manifest) {
  at("answer").textContent = headline(answer, volume);
  at("warnings").replaceChildren(...answer.warnings.map((line) => element("li", line)));
  const [what, quantity, rows] = table(answer, manifest);
  at("what").textContent = what;
  at("quantity").textContent = quantity;
  at("calibrated").hidden = !answer.calibrated;
  at("table").tBodies[0].replaceChildren(...rows);
  showMissing(answer, volume, manifest.input.channels);
  at("decided").textContent = decided(answer.threshold, manifest.classes);
  at("decided").hidden = !at("decided").textContent;
  at("guarantee").textContent = inWords(answer.guarantee);
  at("guarantee").hidden = !at("guarantee").textContent;
  at("windows").hidden = answer.windows === 1;
  at("windows").textContent = `Deeper than the network's input of ${manifest.input.shape[0]}: the mean over ${answer.windows} overlapping windows along depth.`;
  at("run").textContent = `${answer.model}, ${answer.seconds.toFixed(2)} s`;
  at("save-labels").hidden = !answer.voxels;
}

function headline({ class: name, probabilities, values, voxels }, { shape }) {
  if (probabilities) return `${name}, ${percent(probabilities.get(name))}`;
  if (voxels) {
    const [total, grid] = [sum(voxels.values()), shape.slice(0, 3)];
    return `${total === product(grid) ? times(grid) : total} voxels labelled`;
  }
  return values.map((value) => Number(value.toPrecision(5))).join(", ");
}

function table({ class: best, probabilities, calibrated, values, voxels, voxels_of: grid }, manifest) {
  if (probabilities) {
    const rows = [...probabilities].map(([name, p]) => {
      const line = row(name, p, p.toFixed(4), name === best);
      if (calibrated) line.append(element("td", calibrated.get(name).toFixed(4)));
      return line;
    });
    return ["class", "probability", rows];
  }
  if (voxels) {
    const total = sum(voxels.values());
    const rows = [...voxels].map(([name, count], index) => row(name, count / total, `${count}`, false, LABELS[index - 1]));
    return ["class", grid === "network" ? "voxels on the network's grid" : "voxels of the file", rows];
  }
  const names = manifest.data?.target_names ?? values.map((_, index) => `output ${index + 1}`);
  return ["output", "value", values.map((value, i) => row(names[i], null, `${Number(value.toPrecision(6))}`))];
}

function row(name, share, text, best = false, colour = null) {
  const line = document.createElement("tr");
  line.classList.toggle("best", best);
  const head = element("th", name);
  head.scope = "row";
  if (colour) {
    const swatch = element("span", "");
    swatch.className = "swatch";
    swatch.style.background = `rgb(${colour})`;
    head.prepend(swatch);
  }
  const bar = document.createElement("td");
  bar.className = "bar";
  if (share !== null) {
    bar.append(document.createElement("div"));
    bar.firstChild.style.setProperty("--share", share);
  }
  line.append(head, bar, element("td", text));
  return line;
}

function showMissing({ missing_rate: rate }, volume, channels) {
  const lines = [["of all values", percent(rate)]];
  if (rate > 0) {
    const all = channels.map((_, channel) => ratesAlong(volume, channel));
    if (channels.length > 1) {
      channels.forEach((name, channel) => lines.push([`channel ${name}`, percent(mean(all[channel][0]))]));
    }
    ["depth", "height", "width"].forEach((axis, i) => {
      const length = volume.shape[i];
      const whole = all[0][i].filter((_, index) => all.every((rates) => rates[i][index] === 1)).length;
      if (whole && whole < length) lines.push([`whole slices, ${axis}`, `${whole} of ${length}`]);
    });
  }
  const rows = lines.map(([name, text]) => {
    const line = document.createElement("tr");
    line.append(element("th", name), element("td", text));
    return line;
  });
  at("missing").tBodies[0].replaceChildren(...rows);
}

/** What the manifest says of the network, in a table. */
/** A score's name as people read it: dice_1 is of the second class. */
function scored(name, classes) {
  const [, index] = name.match(/^dice_(\d+)$/) ?? [];
  return classes?.[index] === undefined ? name.replaceAll("_", " ") : `dice of ${classes[index]}`;
}

export function showFacts(body, manifest) {
  const { strategy, scores, data, created, versions, input, decision, classes } = manifest;
  const test = Object.entries(scores?.test ?? {}).filter(([, value]) => typeof value === "number");
  const gaps = data?.missingness;
  const facts = [
    ["task", manifest.task],
    ["names", decided(decision?.threshold, classes)],
    ["strategy", words(strategy)],
    ["voxel size", input.spacing?.map((size) => Number(size.toPrecision(4))).join(" × ")],
    ["network", manifest.network],
    ["trained on", data && `${data.name.split(/[\\/]/).at(-1)}${gaps ? `: ${gaps.volumes} volumes, ${percent(gaps.missing_rate)} missing (${gaps.pattern})` : ""}`],
    ["test scores", test.map(([name, value]) => `${scored(name, manifest.classes)} ${value.toFixed(3)}`).join(", ")],
    ["made", created && `${created.slice(0, 10)} with voxgap ${versions?.voxgap}`],
  ];
  const rows = facts.filter(([, text]) => text).map(([name, text]) => {
    const line = document.createElement("tr");
    const head = element("th", name);
    head.scope = "row";
    line.append(head, element("td", text));
    return line;
  });
  body.replaceChildren(...rows);
}

const words = (settings) =>
  Object.entries(settings ?? {})
    .filter(([, value]) => value && (typeof value !== "object" || Object.keys(value).length))
    .map(([name, value]) => (value === true ? name : `${name} ${typeof value === "object" ? JSON.stringify(value) : value}`))
    .join(", ");

const sum = (numbers) => [...numbers].reduce((a, b) => a + b, 0);
const mean = (numbers) => sum(numbers) / numbers.length;

function element(kind, text) {
  const made = document.createElement(kind);
  made.textContent = text;
  return made;
}
