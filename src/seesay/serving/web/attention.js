// Attention maps, drawn over an image.
//
// The weights are a grid in row-major order; each weight belongs to the centre of its cell of the frame. Between the centres
// the map is interpolated smoothly, so that a single bright cell appears as a spot, not as a star. Colour and opacity follow
// the weight, on one scale for all words: the maximum is the word's largest weight, but at least FULL_HEAT times the uniform
// weight, so that a nearly uniform map stays faint.

export const FULL_HEAT = 5;
export const STRONGEST = 0.85; // opacity at full heat
const LONGER_SIDE = 240; // pixels of the canvas, which the browser scales to the image

const HEAT = [ // from 0 to 1: dark violet, magenta, orange, pale yellow
  [0.0, [60, 20, 110]],
  [0.4, [170, 45, 110]],
  [0.75, [240, 125, 35]],
  [1.0, [255, 226, 120]],
];

/** Returns the colour [red, green, blue] of a strength from 0 to 1. */
export function colourOf(strength) {
  let index = 1;
  while (index < HEAT.length - 1 && strength > HEAT[index][0]) index += 1;
  const [low, from] = HEAT[index - 1];
  const [high, to] = HEAT[index];
  const fraction = Math.min(1, Math.max(0, (strength - low) / (high - low)));
  return from.map((value, channel) => Math.round(value + fraction * (to[channel] - value)));
}

/** Smooth step from 0 to 1. */
const smooth = (fraction) => fraction * fraction * (3 - 2 * fraction);

/** Returns the weight at a point of the frame, x and y from 0 to 1. */
export function weightAt(weights, rows, columns, x, y) {
  const across = Math.min(columns - 1, Math.max(0, x * columns - 0.5));
  const down = Math.min(rows - 1, Math.max(0, y * rows - 0.5));
  const left = Math.floor(across), top = Math.floor(down);
  const right = Math.min(columns - 1, left + 1), bottom = Math.min(rows - 1, top + 1);
  const at = (row, column) => weights[row * columns + column];
  const horizontal = smooth(across - left);
  const upper = at(top, left) + horizontal * (at(top, right) - at(top, left));
  const lower = at(bottom, left) + horizontal * (at(bottom, right) - at(bottom, left));
  return upper + smooth(down - top) * (lower - upper);
}

/** Draws one word's weights on a canvas over the frame, which has the given width and height. */
export function draw(canvas, weights, [rows, columns], width, height) {
  const scale = LONGER_SIDE / Math.max(width, height);
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const full = Math.max(Math.min(1, FULL_HEAT / weights.length), ...weights);
  const context = canvas.getContext("2d", { willReadFrequently: true }); // drawn by the CPU, pixel by pixel
  const image = context.createImageData(canvas.width, canvas.height);
  for (let y = 0, offset = 0; y < canvas.height; y += 1) {
    for (let x = 0; x < canvas.width; x += 1, offset += 4) {
      const weight = weightAt(weights, rows, columns, (x + 0.5) / canvas.width, (y + 0.5) / canvas.height);
      const strength = Math.min(1, weight / full);
      image.data.set(colourOf(strength), offset);
      image.data[offset + 3] = Math.round(255 * STRONGEST * strength);
    }
  }
  context.putImageData(image, 0, 0);
}

/** Describes in words where most of the weight lies, for screen readers. */
export function describeLocation(weights, [rows, columns]) {
  const total = weights.reduce((sum, value) => sum + value, 0) || 1;
  let x = 0, y = 0, entropy = 0;
  weights.forEach((value, index) => {
    x += (value / total) * ((index % columns) + 0.5) / columns;
    y += (value / total) * (Math.floor(index / columns) + 0.5) / rows;
    if (value > 0) entropy -= (value / total) * Math.log2(value / total);
  });
  if (entropy > 0.93 * Math.log2(weights.length)) return "spread over the image";
  const across = x < 0.4 ? "left" : x > 0.6 ? "right" : "";
  const down = y < 0.4 ? "upper" : y > 0.6 ? "lower" : "";
  if (!across && !down) return "the middle";
  if (!across) return `the ${down} middle`;
  return down ? `the ${down} ${across}` : `the ${across}`;
}
