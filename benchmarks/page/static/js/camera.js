// The webcam: asked for when its button is pressed, frames as pictures.
import { PageError } from "./errors.js";
import { pictureFrom } from "./pictures.js";

const REASONS = {
  NotAllowedError: "The camera was not allowed. Allow it in the browser's settings for this page.",
  NotFoundError: "No camera was found on this device.",
  NotReadableError: "The camera is in use by another program.",
};

export class Camera {
  constructor() {
    this.video = document.createElement("video");
    this.video.muted = true;
    this.video.playsInline = true;
    this.stream = null;
  }

  get running() {
    return this.stream !== null;
  }

  async start() {
    if (!navigator.mediaDevices) {
      throw new PageError("Browsers give the camera to pages on https or localhost only.");
    }
    try {
      const wanted = { video: { facingMode: "environment", width: { ideal: 640 } }, audio: false };
      this.stream = await navigator.mediaDevices.getUserMedia(wanted);
    } catch (error) {
      throw new PageError(REASONS[error.name] ?? `The camera could not be started: ${error.message}`);
    }
    this.video.srcObject = this.stream;
    await this.video.play();
  }

  stop() {
    this.stream?.getTracks().forEach((track) => track.stop());
    this.video.srcObject = null;
    this.stream = null;
  }

  frame() {
    return pictureFrom(this.video, this.video.videoWidth, this.video.videoHeight);
  }
}
