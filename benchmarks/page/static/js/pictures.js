// Pictures to classify: a canvas with the decoded pixels, upright and opaque, as artifacts/images.py decodes them.
import { PageError } from "./errors.js";

const MAX_PIXELS = 16_000_000; // Safari's canvas ends there
const MAX_BYTES = 64_000_000;

// source: anything that drawImage takes; prepared: it has been resized and cropped to the model's input already.
export function pictureFrom(source, width, height, prepared = false) {
  const scale = Math.min(1, Math.sqrt(MAX_PIXELS / (width * height)));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.floor(width * scale));
  canvas.height = Math.max(1, Math.floor(height * scale));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white"; // under transparent pixels
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  return { canvas, width: canvas.width, height: canvas.height, prepared };
}

export async function pictureFromBlob(blob, name, prepared = false) {
  if (blob.size > MAX_BYTES) {
    throw new PageError(`${name} has ${Math.round(blob.size / 1e6)} MB; the page takes images up to 64 MB.`);
  }
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, {
      imageOrientation: "from-image",
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
    });
  } catch {
    throw new PageError(`${name} is not an image that this browser reads. Take a JPEG, PNG or WebP file.`);
  }
  try {
    return pictureFrom(bitmap, bitmap.width, bitmap.height, prepared);
  } finally {
    bitmap.close();
  }
}

export async function pictureFromUrl(url, prepared) {
  const answer = await fetch(url);
  if (!answer.ok) throw new PageError(`${url} could not be loaded: the server answers with status ${answer.status}.`);
  return pictureFromBlob(await answer.blob(), url, prepared);
}
