/** Results as files. */

export function saveAnswer({ answer, file }, manifest) {
  const fields = ["class", "values", "missing_rate", "warnings", "seconds", "model"];
  const kept = Object.fromEntries(fields.filter((name) => answer[name] !== undefined).map((name) => [name, answer[name]]));
  for (const name of ["probabilities", "calibrated", "voxels"]) {
    if (answer[name]) kept[name] = Object.fromEntries(answer[name]);
  }
  const text = JSON.stringify({ file: file.name, task: manifest.task, ...kept }, null, 2);
  save(`${stem(file.name)}.voxgap.json`, text, "application/json");
}

export function saveLabels({ suffix, content }, name) {
  save(`${stem(name)}.labels${suffix}`, content, "application/octet-stream");
}

const stem = (name) => name.replace(/\.(nii\.gz|[^.]+)$/i, "");

function save(name, content, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
