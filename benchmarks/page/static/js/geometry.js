// Where an image lies on the model's input after resize and crop: the rules of timm's evaluation transform
// (runtime/preprocess.py has the same).

// Python's round: halves go to the even neighbour.
export function roundHalfEven(value) {
  const low = Math.floor(value);
  if (value - low !== 0.5) return Math.round(value);
  return low % 2 === 0 ? low : low + 1;
}

// Size { high, wide } of the whole image after the resize that precedes the crop.
export function resizedSize(settings, high, wide) {
  const scale = [Math.floor(settings.height / settings.crop_pct), Math.floor(settings.width / settings.crop_pct)];
  const mode = settings.crop_mode.replace("-floor", "");
  if (mode === "squash") return { high: scale[0], wide: scale[1] };
  if (mode === "center" && scale[0] === scale[1]) {
    // torchvision truncates the longer edge here; timm rounds it everywhere else.
    const edge = scale[0];
    return wide <= high
      ? { high: Math.trunc((edge * high) / wide), wide: edge }
      : { high: edge, wide: Math.trunc((edge * wide) / high) };
  }
  const ratios = [high / scale[0], wide / scale[1]];
  const ratio = mode === "border" ? Math.max(...ratios) : Math.min(...ratios);
  return { high: Math.max(1, roundHalfEven(high / ratio)), wide: Math.max(1, roundHalfEven(wide / ratio)) };
}

// Start of the resized image on the input along an axis: negative where it is cropped. floor: an odd margin is rounded
// down, as transformers does.
export function offset(resized, wanted, floor = false) {
  if (resized < wanted) return Math.floor((wanted - resized) / 2);
  return floor ? -Math.floor((resized - wanted) / 2) : -roundHalfEven((resized - wanted) / 2);
}

// The rectangle { x, y, wide, high } of the resized image on the input, in the input's pixels.
export function placement(settings, picture) {
  if (picture.prepared) return { x: 0, y: 0, wide: settings.width, high: settings.height };
  const { high, wide } = resizedSize(settings, picture.height, picture.width);
  const floor = settings.crop_mode.endsWith("-floor");
  return { x: offset(wide, settings.width, floor), y: offset(high, settings.height, floor), wide, high };
}

// Colour behind the image, where it does not fill the input.
export function fillColour(settings) {
  return settings.crop_mode === "border" ? settings.mean.map((value) => roundHalfEven(255 * value)) : [0, 0, 0];
}
