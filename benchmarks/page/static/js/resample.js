// Resampling of 8-bit RGB with the arithmetic of Pillow (src/libImaging/Resample.c and Geometry.c): filters are widened
// by the scale when shrinking, weights are rounded to 22 bits, 8 bits between the two passes. A canvas resamples
// otherwise, and the model would get other pixels than in training.

const FRACTION_BITS = 32 - 8 - 2; // of a weight: 8 bits of pixel, 2 of headroom for weights outside 0..1
const HALF = 1 << (FRACTION_BITS - 1);

const sinc = (x) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));

function bicubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

function hamming(x) {
  x = Math.abs(x);
  if (x === 0) return 1;
  return x >= 1 ? 0 : sinc(x) * (0.54 + 0.46 * Math.cos(x * Math.PI));
}

const KERNELS = {
  box: { weight: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0), support: 0.5 },
  bilinear: { weight: (x) => Math.max(0, 1 - Math.abs(x)), support: 1 },
  hamming: { weight: hamming, support: 1 },
  bicubic: { weight: bicubic, support: 2 },
  lanczos: { weight: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0), support: 3 },
};

// For each of `to` output pixels: the first input pixel, and the weights of the inputs from there on.
function taps(from, to, kernel) {
  const scale = from / to;
  const widened = Math.max(scale, 1);
  const support = kernel.support * widened;
  return Array.from({ length: to }, (_, out) => {
    const center = (out + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const last = Math.min(from, Math.trunc(center + support + 0.5));
    const exact = [];
    for (let i = first; i < last; i++) exact.push(kernel.weight((i - center + 0.5) * (1 / widened)));
    const sum = exact.reduce((total, weight) => total + weight, 0);
    const fixed = exact.map((weight) => (sum !== 0 ? weight / sum : weight) * (1 << FRACTION_BITS));
    return { first, weights: Int32Array.from(fixed, (weight) => Math.trunc(weight + (weight < 0 ? -0.5 : 0.5))) };
  });
}

const clipped = (fixed) => Math.min(255, Math.max(0, fixed >> FRACTION_BITS));

function acrossRows(image, wide, kernel) {
  const columns = taps(image.width, wide, kernel);
  const out = new Uint8Array(image.height * wide * 3);
  const data = image.data;
  let target = 0;
  for (let y = 0; y < image.height; y++) {
    const row = y * image.width * 3;
    for (const { first, weights } of columns) {
      let [red, green, blue] = [HALF, HALF, HALF];
      let at = row + first * 3;
      for (let i = 0; i < weights.length; i++, at += 3) {
        const weight = weights[i];
        red += data[at] * weight;
        green += data[at + 1] * weight;
        blue += data[at + 2] * weight;
      }
      out[target++] = clipped(red);
      out[target++] = clipped(green);
      out[target++] = clipped(blue);
    }
  }
  return { data: out, width: wide, height: image.height };
}

function downColumns(image, high, kernel) {
  const stride = image.width * 3;
  const out = new Uint8Array(high * stride);
  const sums = new Int32Array(stride);
  taps(image.height, high, kernel).forEach(({ first, weights }, y) => {
    sums.fill(HALF);
    weights.forEach((weight, i) => {
      const row = (first + i) * stride;
      for (let x = 0; x < stride; x++) sums[x] += image.data[row + x] * weight;
    });
    for (let x = 0; x < stride; x++) out[y * stride + x] = clipped(sums[x]);
  });
  return { data: out, width: image.width, height: high };
}

// Where each output pixel is taken from. Summed step by step as Pillow does: a product rounds otherwise.
function nearest(from, to) {
  const step = from / to;
  let at = step * 0.5;
  return Array.from({ length: to }, () => {
    const index = Math.min(Math.trunc(at), from - 1);
    at += step;
    return index;
  });
}

function taken(image, wide, high) {
  const out = new Uint8Array(high * wide * 3);
  const columns = nearest(image.width, wide);
  let target = 0;
  for (const y of nearest(image.height, high)) {
    for (const x of columns) {
      const at = (y * image.width + x) * 3;
      out.set(image.data.subarray(at, at + 3), target);
      target += 3;
    }
  }
  return { data: out, width: wide, height: high };
}

export const INTERPOLATIONS = ["nearest", ...Object.keys(KERNELS)];

// image: { data: Uint8Array [height * width * 3], width, height }; returns the same at wide x high.
export function resize(image, wide, high, interpolation) {
  if (interpolation === "nearest") return taken(image, wide, high);
  const kernel = KERNELS[interpolation];
  if (wide === image.width && high === image.height) return image;
  if (wide === image.width) return downColumns(image, high, kernel);
  if (high === image.height) return acrossRows(image, wide, kernel);
  // Pillow's order since version 13 (python-pillow/Pillow, pull request 9549).
  if (high < image.height && image.height - high > 2 * (image.width - wide)) {
    return acrossRows(downColumns(image, high, kernel), wide, kernel);
  }
  return downColumns(acrossRows(image, wide, kernel), high, kernel);
}
