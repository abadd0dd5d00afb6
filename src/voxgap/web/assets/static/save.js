/** Results as files. */

import { nameOf } from "./patient.js";

export function saveAnswer({ answer, patient }, manifest) {
  const fields = ["class", "values", "missing_rate", "windows", "warnings", "seconds", "model", "voxels_of", "guarantee"];
  const kept = Object.fromEntries(fields.filter((name) => answer[name] !== undefined).map((name) => [name, answer[name]]));
  for (const name of ["probabilities", "calibrated", "voxels"]) {
    if (answer[name]) kept[name] = Object.fromEntries(answer[name]);
  }
  const names = patient.files.map((file) => file?.name ?? null);
  const file = patient.perChannel
    ? { files: Object.fromEntries(manifest.input.channels.map((name, i) => [name, names[i]])) }
    : { file: nameOf(patient) };
  const text = JSON.stringify({ ...file, task: manifest.task, ...kept }, null, 2);
  save(`${stem(patient)}.voxgap.json`, text, "application/json");
}

export function saveLabels({ suffix, content }, patient) {
  save(`${stem(patient)}.labels${suffix}`, content, "application/octet-stream");
}

const stem = ({ files }) => files.find(Boolean).name.replace(/\.(nii\.gz|[^.]+)$/i, "");

function save(name, content, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
