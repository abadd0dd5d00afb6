// Copies what the page needs of onnxruntime-web into the package: `npm ci --ignore-scripts && npm run vendor`.
// The CPU build alone (no WebGPU, no WebGL), its glue code bundled, its binary packed by xz (xz-utils).
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";

const from = new URL("./node_modules/onnxruntime-web/dist/", import.meta.url);
const to = new URL("../src/voxgap/web/assets/static/vendor/", import.meta.url);

const code = readFileSync(new URL("ort.wasm.bundle.min.mjs", from), "utf8");
writeFileSync(new URL("onnxruntime-web.js", to), code.replace(/\/\/# sourceMappingURL=\S+\s*$/, ""));
const binary = readFileSync(new URL("ort-wasm-simd-threaded.wasm", from));
const packed = execFileSync("xz", ["-9e", "--stdout"], { input: binary, maxBuffer: binary.length });
writeFileSync(new URL("onnxruntime-web.wasm.xz", to), packed);
