/** The network, in a thread of its own: the page stays alive while it works. */
import * as ort from "./vendor/onnxruntime-web.js";

const RUNTIME = new URL("./vendor/onnxruntime-web.wasm.gz", import.meta.url);
let session = null;

/** Fetches a file; one that a server unpacked on the way (Content-Encoding) is not unpacked again. */
async function fetchBytes(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url.pathname}: the web server answers ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

async function unpacked(bytes) {
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function start(url) {
  // One thread: more would need headers (COOP, COEP) that a plain static server doesn't send.
  ort.env.wasm.numThreads = 1;
  const [runtime, model] = await Promise.all([fetchBytes(RUNTIME).then(unpacked), fetchBytes(url)]);
  ort.env.wasm.wasmBinary = runtime;
  return ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
}

async function predict({ model, values, shape }) {
  session ??= start(new URL(model));
  const ready = await session;
  const started = performance.now();
  const input = new ort.Tensor("float32", values, [1, ...shape]);
  const results = await ready.run({ [ready.inputNames[0]]: input });
  const output = results[ready.outputNames[0]];
  return { output: await output.getData(), shape: output.dims.slice(1), seconds: (performance.now() - started) / 1000 };
}

self.addEventListener("message", async ({ data }) => {
  try {
    self.postMessage({ id: data.id, result: await predict(data) });
  } catch (error) {
    self.postMessage({ id: data.id, error: String(error?.message ?? error) });
  }
});
