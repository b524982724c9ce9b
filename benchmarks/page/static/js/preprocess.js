// From decoded pixels to the model's input: resize, crop, then normalise in float32 as runtime/preprocess.py does.
import { PageError } from "./errors.js";
import { fillColour, placement } from "./geometry.js";
import { resize } from "./resample.js";

const MAX_PIXELS = 32_000_000; // after the resize: 96 MB

// { data: Uint8Array [height * width * 3], width, height } from a canvas's RGBA; the canvas is opaque.
export function rgbFromRgba(rgba, width, height) {
  const data = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; to < data.length; from += 4) {
    data[to++] = rgba[from];
    data[to++] = rgba[from + 1];
    data[to++] = rgba[from + 2];
  }
  return { data, width, height };
}

// The image resized and cropped to the input's size. picture: an RGB image; prepared: it has been already.
export function viewFromImage(picture, settings) {
  const at = placement(settings, picture);
  if (at.wide * at.high > MAX_PIXELS) {
    throw new PageError(
      `An image of ${picture.width} x ${picture.height} pixels is too elongated. Crop it to the part to be classified.`,
    );
  }
  const resized = picture.prepared ? picture : resize(picture, at.wide, at.high, settings.interpolation);
  if (resized.width !== at.wide || resized.height !== at.high) {
    throw new PageError("A sample image does not have the model's size. Make the page again: tokfilter page.");
  }
  const { width, height } = settings;
  const data = new Uint8Array(width * height * 3);
  const fill = fillColour(settings);
  for (let i = 0; i < data.length; i++) data[i] = fill[i % 3];
  const left = Math.max(0, at.x);
  const right = Math.min(width, at.x + at.wide);
  for (let y = Math.max(0, at.y); y < Math.min(height, at.y + at.high); y++) {
    const row = ((y - at.y) * at.wide - at.x) * 3;
    data.set(resized.data.subarray(row + left * 3, row + right * 3), (y * width + left) * 3);
  }
  return { data, width, height };
}

// { type, data, dims } of the model's input for a view, in the form that its graphs take.
export function inputFromView(view, settings) {
  const { width, height } = settings;
  if (settings.form === "uint8-nhwc") return { type: "uint8", data: view.data, dims: [1, height, width, 3] };
  const floats = settings.form === "float";
  const data = new (floats ? Float32Array : Uint8Array)(3 * height * width);
  const area = height * width;
  for (let channel = 0; channel < 3; channel++) {
    const values = floats ? normalised(settings.mean[channel], settings.std[channel]) : null;
    for (let i = 0; i < area; i++) {
      const pixel = view.data[i * 3 + channel];
      data[channel * area + i] = floats ? values[pixel] : pixel;
    }
  }
  return { type: floats ? "float32" : "uint8", data, dims: [1, 3, height, width] };
}

// (pixel / 255 - mean) / std for each pixel value, rounded to float32 after each operation (artifacts/pixels.py).
function normalised(mean, std) {
  const round = Math.fround;
  return Float32Array.from({ length: 256 }, (_, pixel) =>
    round(round(round(pixel / 255) - round(mean)) / round(std)),
  );
}
