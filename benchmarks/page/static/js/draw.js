// A picture as the model sees it. Dropped patches are grey and crossed out, a bright rim goes around the kept ones:
// dimming alone would not show on a dark picture.
import { fillColour, placement } from "./geometry.js";

const EDGE = 640; // pixels of the canvas, at least
const SLATE = "rgb(40 46 58 / 0.78)";
const LINE = "rgb(140 152 172 / 0.38)";
const RIM = "rgb(255 255 255 / 0.92)";
const RIM_SHADOW = "rgb(0 0 0 / 0.55)";

// kept: positions among the patches; null for every one.
export function drawPicture(canvas, picture, settings, kept) {
  const { preprocessing: input, grid } = settings;
  const scale = Math.ceil(EDGE / Math.max(input.width, input.height));
  canvas.width = input.width * scale;
  canvas.height = input.height * scale;
  const context = canvas.getContext("2d");
  const at = placement(input, picture);
  context.fillStyle = `rgb(${fillColour(input).join(" ")})`;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(picture.canvas, at.x * scale, at.y * scale, at.wide * scale, at.high * scale);
  if (kept !== null) dim(context, keptMask(kept, grid), grid);
}

function keptMask(kept, [rows, columns]) {
  const mask = new Uint8Array(rows * columns);
  for (const position of kept) mask[position] = 1;
  return mask;
}

function dim(context, mask, [rows, columns]) {
  const { width, height } = context.canvas;
  const [wide, high] = [width / columns, height / rows];
  const dropped = new Path2D();
  const crosses = new Path2D();
  const rim = new Path2D();
  const isKept = (row, column) =>
    row >= 0 && row < rows && column >= 0 && column < columns && mask[row * columns + column] === 1;
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      if (isKept(row, column)) continue;
      const [x, y] = [column * wide, row * high];
      dropped.rect(x, y, wide, high);
      crosses.moveTo(x, y + high);
      crosses.lineTo(x + wide, y);
      const line = (ax, ay, bx, by) => (rim.moveTo(ax, ay), rim.lineTo(bx, by));
      if (isKept(row, column - 1)) line(x, y, x, y + high);
      if (isKept(row, column + 1)) line(x + wide, y, x + wide, y + high);
      if (isKept(row - 1, column)) line(x, y, x + wide, y);
      if (isKept(row + 1, column)) line(x, y + high, x + wide, y + high);
    }
  }
  const pixel = width / 320;
  context.save();
  context.clip(dropped);
  context.globalCompositeOperation = "saturation";
  context.fillStyle = "#808080";
  context.fillRect(0, 0, width, height);
  context.globalCompositeOperation = "source-over";
  context.fillStyle = SLATE;
  context.fillRect(0, 0, width, height);
  context.restore();
  stroke(context, dropped, LINE, 0.75 * pixel);
  stroke(context, crosses, LINE, 0.75 * pixel);
  stroke(context, rim, RIM_SHADOW, 4 * pixel);
  stroke(context, rim, RIM, 2 * pixel);
}

function stroke(context, path, colour, width) {
  context.lineCap = "square";
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.stroke(path);
}
