// Where the model looked, drawn over an image.
//
// The weights are a grid, row by row, whose cells' centres lie at the centres of their shares of the frame; from one to
// the next the map goes without a corner, so that a single bright cell is a spot and not a star. Colour and opacity both follow the weight, on one scale for all words: full heat is the
// word's largest weight, but never less than FULL_HEAT times the uniform one, so that an undecided look stays faint.

export const FULL_HEAT = 5;
export const STRONGEST = 0.85; // opacity at full heat
const LONGER_SIDE = 240; // pixels of the drawing, which the browser stretches over the image

const HEAT = [ // from nothing to full: dark violet, magenta, orange, pale yellow
  [0.0, [60, 20, 110]],
  [0.4, [170, 45, 110]],
  [0.75, [240, 125, 35]],
  [1.0, [255, 226, 120]],
];

/** Returns the colour [red, green, blue] of a strength from 0 to 1. */
export function colourOf(strength) {
  let place = 1;
  while (place < HEAT.length - 1 && strength > HEAT[place][0]) place += 1;
  const [low, from] = HEAT[place - 1];
  const [high, to] = HEAT[place];
  const share = Math.min(1, Math.max(0, (strength - low) / (high - low)));
  return from.map((value, channel) => Math.round(value + share * (to[channel] - value)));
}

/** Returns the way from 0 to 1 with a level start and end. */
const smooth = (share) => share * share * (3 - 2 * share);

/** Returns the weight at a point of the frame, x and y from 0 to 1. */
export function weightAt(weights, rows, columns, x, y) {
  const across = Math.min(columns - 1, Math.max(0, x * columns - 0.5));
  const down = Math.min(rows - 1, Math.max(0, y * rows - 0.5));
  const left = Math.floor(across), top = Math.floor(down);
  const right = Math.min(columns - 1, left + 1), bottom = Math.min(rows - 1, top + 1);
  const at = (row, column) => weights[row * columns + column];
  const along = smooth(across - left);
  const upper = at(top, left) + along * (at(top, right) - at(top, left));
  const lower = at(bottom, left) + along * (at(bottom, right) - at(bottom, left));
  return upper + smooth(down - top) * (lower - upper);
}

/** Draws one word's weights on a canvas that lies over the model's frame, of the given width and height. */
export function draw(canvas, weights, [rows, columns], width, height) {
  const scale = LONGER_SIDE / Math.max(width, height);
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const full = Math.max(Math.min(1, FULL_HEAT / weights.length), ...weights);
  const context = canvas.getContext("2d", { willReadFrequently: true }); // drawn by the processor, a pixel at a time
  const image = context.createImageData(canvas.width, canvas.height);
  for (let y = 0, place = 0; y < canvas.height; y += 1) {
    for (let x = 0; x < canvas.width; x += 1, place += 4) {
      const weight = weightAt(weights, rows, columns, (x + 0.5) / canvas.width, (y + 0.5) / canvas.height);
      const strength = Math.min(1, weight / full);
      image.data.set(colourOf(strength), place);
      image.data[place + 3] = Math.round(255 * STRONGEST * strength);
    }
  }
  context.putImageData(image, 0, 0);
}

/** Says in words where most of the weight lies, for those who do not see the drawing. */
export function whereabouts(weights, [rows, columns]) {
  const total = weights.reduce((sum, value) => sum + value, 0) || 1;
  let x = 0, y = 0, spread = 0;
  weights.forEach((value, place) => {
    x += (value / total) * ((place % columns) + 0.5) / columns;
    y += (value / total) * (Math.floor(place / columns) + 0.5) / rows;
    if (value > 0) spread -= (value / total) * Math.log2(value / total);
  });
  if (spread > 0.93 * Math.log2(weights.length)) return "all over the image";
  const across = x < 0.4 ? "left" : x > 0.6 ? "right" : "";
  const down = y < 0.4 ? "upper" : y > 0.6 ? "lower" : "";
  if (!across && !down) return "the middle";
  if (!across) return `the ${down} middle`;
  return down ? `the ${down} ${across}` : `the ${across}`;
}
