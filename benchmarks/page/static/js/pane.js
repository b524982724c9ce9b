// One of the two panes: picture, time, and the most probable classes as bars.
import { drawPicture } from "./draw.js";
import { className } from "./settings.js";

const BARS = 5;

export class Pane {
  constructor(root, settings) {
    this.settings = settings;
    this.canvas = root.querySelector("canvas");
    this.tokens = root.querySelector(".tokens");
    this.time = root.querySelector(".time");
    const list = root.querySelector(".bars");
    this.rows = Array.from({ length: Math.min(BARS, settings.classes) }, () => list.appendChild(bar()));
  }

  // answer: { tokens, logits, indices }; indices are null where every token is kept. Returns the best class's name.
  show(answer, picture) {
    const { patches } = this.settings;
    drawPicture(this.canvas, picture, this.settings, answer.indices);
    this.canvas.dataset.drawn = answer.indices?.length ?? patches;
    this.tokens.textContent = answer.tokens === patches ? `all ${patches} tokens` : `${answer.tokens} of ${patches} tokens`;
    const probabilities = softmax(answer.logits);
    const best = Array.from(probabilities.keys()).sort((a, b) => probabilities[b] - probabilities[a]);
    this.rows.forEach((row, i) => fill(row, className(this.settings, best[i]), probabilities[best[i]]));
    const name = className(this.settings, best[0]);
    const percent = percentOf(probabilities[best[0]]);
    this.canvas.setAttribute("aria-label", `The picture with ${answer.tokens} of ${patches} tokens: ${name}, ${percent}`);
    return { name, percent };
  }

  showTime(milliseconds) {
    this.time.textContent = milliseconds === null ? "…" : millisecondsOf(milliseconds);
  }
}

function millisecondsOf(value) {
  return `${value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ms`;
}

function percentOf(probability) {
  return `${(100 * probability).toFixed(probability > 0.995 || probability < 0.00995 ? 1 : 0)}%`;
}

function softmax(logits) {
  const highest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = Float64Array.from(logits, (value) => Math.exp(value - highest));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((value) => value / sum);
}

function bar() {
  const row = document.createElement("li");
  for (const part of ["name", "percent", "track"]) {
    const element = row.appendChild(document.createElement("span"));
    element.className = part;
  }
  row.querySelector(".track").appendChild(document.createElement("i"));
  return row;
}

function fill(row, name, probability) {
  row.querySelector(".name").textContent = name;
  row.querySelector(".percent").textContent = percentOf(probability);
  row.querySelector("i").style.width = `${100 * probability}%`;
}
