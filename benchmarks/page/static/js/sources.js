// Where pictures come from: sample images, a file that is chosen, dropped or pasted, and the camera.
import { Camera } from "./camera.js";
import { sentence } from "./errors.js";
import { pictureFromBlob, pictureFromUrl } from "./pictures.js";

export class Sources {
  // picture(value), live(frames or null), failed(text): called with what a source gives.
  constructor(settings, { picture, live, failed }) {
    Object.assign(this, { picture, live, failed });
    this.camera = new Camera();
    this.cameraButton = document.getElementById("camera");
    this.cameraButton.addEventListener("click", () => this.#toggleCamera());
    const file = document.getElementById("file");
    document.getElementById("choose").addEventListener("click", () => file.click());
    file.addEventListener("change", () => {
      this.#take(file.files[0]);
      file.value = ""; // the same file can be chosen again
    });
    this.samples = settings.samples.map((sample, i) => this.#sample(sample, i));
    document.getElementById("samples").hidden = !this.samples.length;
    this.#acceptDrops();
    document.addEventListener("paste", (event) => this.#take(event.clipboardData.files[0]));
  }

  #sample(sample, i) {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-label", `Sample image ${i + 1}`);
    const image = button.appendChild(document.createElement("img"));
    image.src = sample.path;
    image.alt = "";
    button.addEventListener("click", () => this.choose(i));
    document.getElementById("samples").appendChild(button);
    return { ...sample, button };
  }

  choose(i) {
    const sample = this.samples[i];
    return this.#give(() => pictureFromUrl(sample.path, sample.prepared), sample);
  }

  #take(file) {
    if (file) this.#give(() => pictureFromBlob(file, file.name || "The pasted image"));
  }

  async #give(load, sample = null) {
    this.#stopCamera();
    const request = (this.request = {});
    try {
      const picture = await load();
      if (this.request !== request) return; // another one was chosen meanwhile
      for (const { button } of this.samples) button.setAttribute("aria-pressed", button === sample?.button);
      this.picture(picture);
    } catch (error) {
      this.failed(sentence(error));
    }
  }

  async #toggleCamera() {
    if (this.camera.running) return this.#stopCamera();
    this.cameraButton.disabled = true;
    try {
      await this.camera.start();
      this.request = null;
      for (const { button } of this.samples) button.setAttribute("aria-pressed", false);
      this.cameraButton.textContent = "Stop the camera";
      this.live(() => this.camera.frame());
    } catch (error) {
      this.camera.stop();
      this.failed(sentence(error));
    } finally {
      this.cameraButton.disabled = false;
    }
  }

  #stopCamera() {
    if (!this.camera.running) return;
    this.live(null);
    this.camera.stop();
    this.cameraButton.textContent = "Use the camera";
  }

  #acceptDrops() {
    let depth = 0;
    const mark = () => document.body.classList.toggle("dropping", depth > 0);
    document.addEventListener("dragenter", () => (depth++, mark()));
    document.addEventListener("dragleave", () => (depth--, mark()));
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      depth = 0;
      mark();
      this.#take(event.dataTransfer.files[0]);
    });
  }
}
