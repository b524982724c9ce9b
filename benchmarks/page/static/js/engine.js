// The worker's functions as promises.
import { PageError } from "./errors.js";

export class Engine {
  constructor() {
    this.calls = new Map();
    this.next = 0;
    this.worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data }) => this.#settle(data.id, data.failure, data.result);
    this.worker.onerror = (event) => {
      const reason = event.message || "js/worker.js or onnxruntime-web/ could not be loaded";
      for (const id of [...this.calls.keys()]) this.#settle(id, `The models' worker failed: ${reason}.`);
    };
  }

  // More than one thread needs shared memory, which browsers give to cross-origin isolated pages only.
  async start(settings) {
    this.threads = globalThis.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
    await this.#call("start", [settings.preprocessing, this.threads]);
  }

  open(name, file) {
    return this.#call("open", [name, file]);
  }

  setImage(picture) {
    const { width, height, prepared } = picture;
    const { data } = picture.canvas.getContext("2d").getImageData(0, 0, width, height);
    return this.#call("setImage", [data, width, height, prepared], [data.buffer]);
  }

  setInput(input) {
    return this.#call("setInput", [input]);
  }

  run(name, tokens, repeats = 1) {
    return this.#call("run", [name, tokens, repeats]);
  }

  #call(method, args, transfer = []) {
    return new Promise((resolve, reject) => {
      const id = this.next++;
      this.calls.set(id, { resolve, reject });
      this.worker.postMessage({ id, method, args }, transfer);
    });
  }

  #settle(id, failure, result) {
    const call = this.calls.get(id);
    this.calls.delete(id);
    if (failure === undefined) call?.resolve(result);
    else call?.reject(new PageError(failure));
  }
}
