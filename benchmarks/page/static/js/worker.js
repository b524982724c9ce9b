// The models, in a worker: the page stays responsive while they run. One message is one call of a function below.
import * as ort from "../onnxruntime-web/ort.wasm.bundle.min.js";
import { checkedBytes } from "./download.js";
import { PageError, sentence } from "./errors.js";
import { inputFromView, rgbFromRgba, viewFromImage } from "./preprocess.js";

const OPTIONS = { executionProviders: ["wasm"], logSeverityLevel: 3 }; // errors only: a page's console is the user's

const sessions = {};
let settings;
let input;

const methods = {
  // threads: more than one needs a page that is cross-origin isolated.
  start(given, threads) {
    settings = given;
    ort.env.wasm.numThreads = threads;
    ort.env.wasm.wasmPaths = {
      wasm: new URL("../onnxruntime-web/ort-wasm-simd-threaded.wasm", import.meta.url).href,
    };
  },

  async open(name, file) {
    const bytes = await checkedBytes(file);
    try {
      sessions[name] = await ort.InferenceSession.create(bytes, OPTIONS);
    } catch (error) {
      throw new PageError(`ONNX Runtime could not open ${file.path}: ${error.message ?? error}`);
    }
  },

  setImage(rgba, width, height, prepared) {
    const view = viewFromImage({ ...rgbFromRgba(rgba, width, height), prepared }, settings);
    input = tensorFrom(inputFromView(view, settings));
    return view.data;
  },

  setInput(given) {
    input = tensorFrom(given);
  },

  // tokens: the budget; null for a model without one. milliseconds: mean of `repeats` runs.
  async run(name, tokens, repeats) {
    const feeds = { images: input };
    if (tokens !== null) feeds.slots = new ort.Tensor("int32", new Int32Array(tokens), [tokens]);
    let results;
    const start = performance.now();
    for (let i = 0; i < repeats; i++) results = await sessions[name].run(feeds);
    const milliseconds = (performance.now() - start) / repeats;
    return {
      milliseconds,
      logits: Float32Array.from(results.logits.data),
      indices: results.indices ? Int32Array.from(results.indices.data) : null,
    };
  },
};

function tensorFrom({ type, data, dims }) {
  return new ort.Tensor(type, data, dims);
}

self.onmessage = async ({ data: { id, method, args } }) => {
  try {
    self.postMessage({ id, result: await methods[method](...args) });
  } catch (error) {
    self.postMessage({ id, failure: sentence(error) });
  }
};
