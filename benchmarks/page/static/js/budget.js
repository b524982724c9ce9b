// The slider of the budget, 1 to every patch token, with marks at the usual ratios.
import { tokensOf } from "./settings.js";

const RATIOS = [0.35, 0.5, 0.7, 1];

export class Budget {
  // changed(tokens): called for each position of the slider.
  constructor(root, settings, changed) {
    this.patches = settings.patches;
    this.slider = root.querySelector("input");
    this.label = root.querySelector("output");
    this.slider.max = this.patches;
    this.slider.value = settings.keep;
    this.slider.addEventListener("input", () => changed(this.#update()));
    this.marks = RATIOS.map((ratio) => this.#mark(root.querySelector(".marks"), ratio, changed));
    this.#update();
  }

  #mark(list, ratio, changed) {
    const tokens = tokensOf(ratio, this.patches);
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = ratio === 1 ? "full" : `${100 * ratio}%`;
    button.setAttribute("aria-label", `Keep ${tokens} of ${this.patches} tokens`);
    button.style.setProperty("--at", this.patches > 1 ? (tokens - 1) / (this.patches - 1) : 1);
    button.addEventListener("click", () => {
      this.slider.value = tokens;
      changed(this.#update());
    });
    list.appendChild(button);
    return { tokens, button };
  }

  #update() {
    const tokens = Number(this.slider.value);
    const text = `${tokens} of ${this.patches} tokens`;
    this.label.textContent = `${tokens} of ${this.patches} · ${Math.round((100 * tokens) / this.patches)}%`;
    this.slider.setAttribute("aria-valuetext", text);
    this.slider.style.setProperty("--filled", this.patches > 1 ? (tokens - 1) / (this.patches - 1) : 1);
    for (const mark of this.marks ?? []) mark.button.setAttribute("aria-pressed", mark.tokens === tokens);
    return tokens;
  }
}
