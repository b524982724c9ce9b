// What runs next, one job after another: the newest picture, the answer at the newest budget, the answer with every
// token, then more runs of both in turns until their medians are steady.
import { Timings } from "./timings.js";
import { sentence } from "./errors.js";

const STEADY = 7; // runs of each model behind a median
const SETTLED = 3;
const SLICE = 20; // milliseconds: shorter runs are repeated to last that long, since browsers round their clocks

export class Loop {
  // show(name, answer, picture): called with each answer, name is "filtered" or "full"; answer: { tokens, logits,
  // indices }. timed(): called when a median changes. failed(text): called with a sentence.
  constructor(engine, settings, { show, timed, failed }) {
    Object.assign(this, { engine, settings, show, timed, failed });
    this.timings = new Timings();
    this.opened = new Set();
    this.tokens = settings.keep;
    this.frames = null;
    this.running = false;
  }

  setPicture(picture) {
    this.pending = picture;
    this.#wake();
  }

  setTokens(tokens) {
    this.tokens = tokens;
    this.#wake();
  }

  // frames(): the camera's newest picture; null to stop.
  setLive(frames) {
    this.frames = frames;
    this.#wake();
  }

  milliseconds(name) {
    return this.timings.median(this.#key(name));
  }

  // Whether both medians rest on enough runs to be compared.
  get settled() {
    return ["filtered", "full"].every((name) => this.timings.count(this.#key(name)) >= SETTLED);
  }

  async #wake() {
    if (this.running) return;
    this.running = true;
    try {
      while (await this.#step());
    } catch (error) {
      this.failed(sentence(error));
    } finally {
      this.running = false;
    }
  }

  // Does the most urgent job; false when there is none.
  async #step() {
    if (!this.opened.has("filtered")) return this.#open("filtered");
    if (this.pending) return this.#take();
    if (!this.picture && !this.frames) return false;
    if (this.picture && this.answered.filtered !== this.tokens) return this.#answer("filtered");
    if (!this.opened.has("full")) return this.#open("full");
    if (this.picture && this.answered.full === undefined) return this.#answer("full");
    if (this.frames) return this.#frame();
    return this.#measure();
  }

  async #open(name) {
    await this.engine.open(name, this.settings.models[name]);
    this.opened.add(name);
    return true;
  }

  async #take() {
    const picture = this.pending;
    this.pending = null;
    await this.engine.setImage(picture);
    this.picture = picture;
    this.answered = {};
    return true;
  }

  async #frame() {
    await new Promise(requestAnimationFrame); // none while the page is hidden
    if (this.frames) this.pending ??= this.frames();
    return true;
  }

  async #answer(name) {
    const tokens = name === "full" ? this.settings.patches : this.tokens;
    const result = await this.#run(name, tokens, 1);
    this.answered[name] = tokens;
    this.show(name, { tokens, logits: result.logits, indices: result.indices }, this.picture);
    this.timed();
    return true;
  }

  async #measure() {
    const waiting = ["filtered", "full"].filter((name) => this.timings.count(this.#key(name)) < STEADY);
    if (!waiting.length) return false;
    const count = (name) => this.timings.count(this.#key(name));
    const name = waiting.reduce((least, other) => (count(other) < count(least) ? other : least));
    const tokens = name === "full" ? this.settings.patches : this.tokens;
    const repeats = Math.max(1, Math.min(20, Math.floor(SLICE / this.milliseconds(name))));
    await this.#run(name, tokens, repeats);
    this.timed();
    return true;
  }

  async #run(name, tokens, repeats) {
    const result = await this.engine.run(name, name === "full" ? null : tokens, repeats);
    this.timings.add(this.#key(name, tokens), result.milliseconds);
    return result;
  }

  #key(name, tokens = this.tokens) {
    return name === "full" ? "full" : `filtered ${tokens}`;
  }
}
