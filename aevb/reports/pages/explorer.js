// The explorer page. A point is z; the square shows u = Phi(z) of two of its units. The z of a model
// with labels begins with a one-hot label, and the other units follow.
"use strict";

const { units, points, image, grid, films } = content; // a page without a decoder has a grid
const NUM_LABELS = content.num_labels, NUM_LATENTS = content.start.length;
const names = content.class_names; // empty if the data have no labels
const [ROWS, COLUMNS, CHANNELS = 1] = image.shape;
const FRAME_ROWS = ROWS / (content.window || 1); // a datapoint is a window of frames, or one
const EDGE = 0.001; // the square ends at this quantile and at 1 minus it
const MOST_SLIDERS = 30, MOST_NUMBERS = 6, MOST_NAMES = 50;
const FRAME_TIME = 120; // milliseconds of a frame of a film
const GAP = [70, 130, 255]; // the color of a missing value
const movable = units.slice(0, grid ? grid.num_axes : MOST_SLIDERS); // the units of largest KL

function inverseCdf(u) {
  let z = Math.log(u / (1 - u)) / 1.702; // a logistic approximation, then Newton steps
  for (let i = 0; i < 30; i++) {
    const density = Math.exp(-0.5 * z * z) / Math.sqrt(2 * Math.PI);
    z -= Math.max(-1, Math.min(1, (cdf(z) - u) / density));
  }
  return z;
}

const state = {
  z: new Array(NUM_LATENTS).fill(0),
  across: Math.min(...units.slice(0, 2).map(({ unit }) => unit)), // the two of largest KL
  up: Math.max(...units.slice(0, 2).map(({ unit }) => unit)),
  chosen: [], // the one or two pictured datapoints that were chosen last
};

// ---- datapoints and the decoder

// Splits a vector into rows of a given size.
function rowsOf(vector, size) {
  return Array.from({ length: vector.length / size }, (_, n) =>
    Array.from(vector.subarray(n * size, (n + 1) * size)));
}

// Return the latents [N][Z], and the pictures [N][D] as values of x, of points in the content.
const latentsOf = (text) => rowsOf(floats(text), NUM_LATENTS);
const picturesOf = (text, size = ROWS * COLUMNS * CHANNELS) => rowsOf(bytes(text), size)
  .map((row) => row.map((byte) => image.low + (byte / 255) * (image.high - image.low)));

const means = points ? latentsOf(points.means) : [];
const bounds = points ? Array.from(floats(points.bounds)) : [];
const pictures = points ? picturesOf(points.pictures) : [];
const gaps = points && points.missing ? rowsOf(bytes(points.missing), ROWS * COLUMNS * CHANNELS) : [];

// Returns {at, decode}: functions from z to the nearest precomputed point, and to its E[x|z].
function precomputed({ latents, pictures }) {
  const decoded = latentsOf(latents), shown = picturesOf(pictures), nearest = nearestOf(decoded);
  return { at: (z) => decoded[nearest(z)], decode: (z) => shown[nearest(z)] };
}
const { at, decode } = grid ? precomputed(grid) : { at: (z) => z, decode: compile(content.decoder) };

// Draws values in row-major order on a canvas, one pixel for each, with the frames of a window in
// rows. The missing values are blue.
function paint(canvas, values, missing) {
  const size = FRAME_ROWS * COLUMNS; // pixels of a frame
  const number = values.length / (size * CHANNELS), across = Math.ceil(Math.sqrt(number));
  canvas.width = across * COLUMNS;
  canvas.height = Math.ceil(number / across) * FRAME_ROWS;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  const scale = 255 / (image.high - image.low || 1);
  for (let i = 0; i < number * size; i++) {
    const frame = Math.floor(i / size), row = Math.floor((i % size) / COLUMNS);
    const pixel = (Math.floor(frame / across) * FRAME_ROWS + row) * canvas.width +
      (frame % across) * COLUMNS + (i % COLUMNS);
    for (let c = 0; c < 3; c++) {
      const at = i * CHANNELS + (c % CHANNELS);
      pixels.data[4 * pixel + c] = missing && missing[at] ? GAP[c] : (values[at] - image.low) * scale;
    }
    pixels.data[4 * pixel + 3] = 255;
  }
  context.putImageData(pixels, 0, 0);
}

// ---- the square

const plane = find("plane");
const scatter = document.createElement("canvas"); // the scatter plot; constant while a point moves
scatter.width = scatter.height = plane.width;

// Returns a color from blue through green to yellow as t goes from 0 to 1, increasingly light.
const colorOf = (t) => `hsl(${250 - 200 * t} 75% ${40 + 20 * t}%)`;

// Returns the color of a class: hues that are evenly spaced, and lighter for every other class.
const classColor = (k) => `hsl(${Math.round((360 * k) / names.length)} 75% ${k % 2 ? 62 : 42}%)`;

// Returns the words of a datapoint's class, or "".
const classOf = (point) => (names.length ? `, ${names[points.classes[point]]}` : "");

// Returns a color for each datapoint by its value, and the nodes of the legend.
function colorsByValue(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const low = sorted[Math.floor(sorted.length * 0.02)];
  const high = sorted[Math.ceil(sorted.length * 0.98) - 1];
  const within = (value) => Math.max(0, Math.min(1, (value - low) / (high - low || 1)));
  const number = (value) => value.toLocaleString("en", { maximumFractionDigits: 1 });
  const colors = values.map((value) => colorOf(within(value)));
  return [colors, [mark(colorOf(0)), ` ${number(low)} to `, mark(colorOf(1)), ` ${number(high)}`]];
}

// Returns the same by class.
function colorsByClass(classes) {
  const more = names.length > MOST_NAMES ? `and ${names.length - MOST_NAMES} more` : "";
  const nodes = names.slice(0, MOST_NAMES).map((name, k) =>
    element("span", { class: "class" }, mark(classColor(k)), ` ${name}`));
  return [classes.map(classColor), [...nodes, more]];
}

const mark = (color) => element("span", { style: `color:${color}` }, "■");

// Returns the pixel of z in the square.
function pixelOf(z) {
  return [cdf(z[state.across]) * plane.width, (1 - cdf(z[state.up])) * plane.height];
}

function drawScatter() {
  const context = scatter.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  context.fillStyle = style.getPropertyValue("--panel");
  context.fillRect(0, 0, scatter.width, scatter.height);
  context.strokeStyle = style.getPropertyValue("--line");
  for (let i = 1; i < 4; i++) {
    const at = (i * scatter.width) / 4;
    context.strokeRect(at, -1, 0, scatter.height + 2);
    context.strokeRect(-1, at, scatter.width + 2, 0);
  }
  if (!points) return;
  const by = find("color").value;
  const [colors, nodes] = by === "classes" ? colorsByClass(points.classes)
    : colorsByValue(by === "bounds" ? bounds : points.places);
  means.forEach((mean, i) => {
    const [x, y] = pixelOf(mean);
    context.fillStyle = colors[i];
    context.fillRect(x - 2.5, y - 2.5, 5, 5);
  });
  find("legend").replaceChildren(...nodes);
}

function drawPlane() {
  const context = plane.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  context.drawImage(scatter, 0, 0);
  const [x, y] = pixelOf(state.z);
  context.beginPath();
  context.arc(x, y, 9, 0, 2 * Math.PI);
  context.lineWidth = 4;
  context.strokeStyle = style.getPropertyValue("--panel");
  context.stroke();
  context.strokeStyle = style.getPropertyValue("--mark");
  context.lineWidth = 2.5;
  context.stroke();
}

// ---- updates when the point moves

const sliders = new Map();

// Returns the name of a unit: of a state-space model, that of a frame's unit.
function nameOf(unit) {
  const size = content.frame_latents;
  return size ? `z${(unit % size) + 1}, frame ${Math.floor(unit / size) + 1}`
    : `z${unit - NUM_LABELS + 1}`;
}

function show() {
  drawPlane();
  paint(find("picture"), decode(state.z));
  const own = at(state.z).slice(NUM_LABELS);
  const some = own.slice(0, MOST_NUMBERS).map((value) => value.toFixed(2));
  find("z").textContent = some.join(", ") + (own.length > MOST_NUMBERS ? ", …" : "");
  find("label").value = labelOf(state.z);
  for (const [unit, { slider, output }] of sliders) {
    slider.value = cdf(state.z[unit]);
    output.textContent = state.z[unit].toFixed(2);
  }
}

function move(z) {
  state.z = z;
  show();
}

// Returns the number of the label of z: -1 if it has none.
const labelOf = (z) => z.slice(0, NUM_LABELS).indexOf(1);

// Returns z with new values of its other units, by functions of the old ones.
const withUnits = (z, change) => z.map((value, i) => (i < NUM_LABELS ? value : change(value, i)));

function moveTo(u, v) {
  const within = (value) => Math.max(EDGE, Math.min(1 - EDGE, value));
  const z = [...state.z];
  if (state.up !== state.across) z[state.up] = inverseCdf(within(v));
  z[state.across] = inverseCdf(within(u));
  move(z);
}

function moveToPointer(event) {
  const box = plane.getBoundingClientRect();
  moveTo((event.clientX - box.left) / box.width, 1 - (event.clientY - box.top) / box.height);
}

plane.addEventListener("pointerdown", (event) => {
  plane.setPointerCapture(event.pointerId);
  moveToPointer(event);
});
plane.addEventListener("pointermove", (event) => {
  if (plane.hasPointerCapture(event.pointerId)) moveToPointer(event);
});
plane.addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  if (!(event.key in steps)) return;
  event.preventDefault();
  const size = event.shiftKey ? 0.1 : 0.01, [right, up] = steps[event.key];
  moveTo(cdf(state.z[state.across]) + right * size, cdf(state.z[state.up]) + up * size);
});

for (const axis of ["across", "up"]) {
  find(axis).append(...movable.map(({ unit }) => element("option", { value: unit }, nameOf(unit))));
  find(axis).value = state[axis];
  find(axis).addEventListener("change", () => {
    state[axis] = +find(axis).value;
    drawScatter();
    show();
  });
}
if (!names.length) {
  find("color").querySelector("[value=classes]").remove();
  find("color").value = "places";
}
find("color").addEventListener("change", () => {
  drawScatter();
  show();
});

for (const { unit, kl } of movable) {
  const slider = element("input", { type: "range", min: EDGE, max: 1 - EDGE, step: "any" });
  const output = element("output");
  const label = nameOf(unit) + (kl === null ? "" : ` (${kl.toFixed(2)} nats)`);
  find("sliders").append(element("label", {}, element("span", {}, label), slider, output));
  slider.addEventListener("input", () => {
    const z = [...state.z];
    z[unit] = inverseCdf(+slider.value);
    move(z);
  });
  sliders.set(unit, { slider, output });
}

find("labels").hidden = !NUM_LABELS;
find("label").append(...names.slice(0, NUM_LABELS).map((name, k) =>
  element("option", { value: k }, name)));
find("label").addEventListener("change", () => {
  const chosen = +find("label").value;
  move(state.z.map((value, i) => (i < NUM_LABELS ? +(i === chosen) : value)));
});
find("middle").addEventListener("click", () => move(withUnits(state.z, () => 0)));
find("random").hidden = grid && grid.num_axes < units.length;
find("random").addEventListener("click", () => {
  move(withUnits(state.z, () => inverseCdf(EDGE + (1 - 2 * EDGE) * Math.random())));
});

// ---- datapoints

const buttons = [];

function choose(n) {
  state.chosen = [...state.chosen.slice(-1), n];
  buttons.forEach((button, i) => button.setAttribute("aria-pressed", state.chosen.includes(i)));
  find("pairs").replaceChildren(...state.chosen.map(pairOf));
  find("between").value = 1;
  move(means[points.pictured[n]]);
}

// Shows a datapoint beside E[x|z] at the mean of its q(z|x).
function pairOf(n) {
  const place = points.places[points.pictured[n]];
  const original = element("canvas", { role: "img", "aria-label": `test datapoint ${place}` });
  paint(original, pictures[n], gaps[n]);
  const reconstruction = element("canvas", { role: "img", "aria-label": "its reconstruction" });
  paint(reconstruction, decode(means[points.pictured[n]]));
  const nats = bounds[points.pictured[n]].toFixed(1);
  return element("figure", {}, original, reconstruction,
    element("figcaption", { class: "soft" },
      `datapoint ${place}${classOf(points.pictured[n])}, bound ${nats} nats`));
}

function moveBetween(t) {
  if (state.chosen.length < 2) return;
  const [from, to] = state.chosen.map((n) => means[points.pictured[n]]);
  move(withUnits(t < 0.5 ? from : to, (_, unit) => (1 - t) * from[unit] + t * to[unit]));
}

if (pictures.length) {
  points.pictured.forEach((point, n) => {
    const canvas = element("canvas");
    paint(canvas, pictures[n], gaps[n]);
    const name = `test datapoint ${points.places[point]}${classOf(point)}`;
    const button = element("button", { type: "button", "aria-label": name, "aria-pressed": false }, canvas);
    button.addEventListener("click", () => choose(n));
    buttons.push(button);
    find("strip").append(button);
  });
  find("between").addEventListener("input", () => moveBetween(+find("between").value));
  find("play").addEventListener("click", () => {
    let t = 0;
    const tick = () => {
      find("between").value = t;
      moveBetween(t);
      t += 0.01;
      if (t <= 1) requestAnimationFrame(tick);
    };
    tick();
  });
  choose(0);
  choose(buttons.length - 1);
} else {
  find("data").hidden = true;
}

// ---- films

const reels = films.map(({ title, pictures, frames }) => {
  const shown = picturesOf(pictures, FRAME_ROWS * COLUMNS * CHANNELS);
  const canvas = element("canvas", { role: "img", "aria-label": title });
  find("reels").append(element("figure", {}, canvas,
    element("figcaption", { class: "soft" }, `${title}, ${frames} frames`)));
  return { canvas, shown };
});
const longest = Math.max(0, ...films.map(({ frames }) => frames));

// Shows a frame of every film; the shorter ones begin again.
function showFrame(number) {
  find("frame").value = number;
  for (const { canvas, shown } of reels) paint(canvas, shown[number % shown.length]);
}

find("films").hidden = !films.length;
if (films.length) {
  let timer = null;
  find("frame").max = longest - 1;
  find("frame").addEventListener("input", () => showFrame(+find("frame").value));
  const run = (isRunning) => {
    clearInterval(timer);
    timer = isRunning
      ? setInterval(() => showFrame((+find("frame").value + 1) % longest), FRAME_TIME) : null;
    find("run").textContent = isRunning ? "Pause" : "Play";
  };
  find("run").addEventListener("click", () => run(timer === null));
  showFrame(0);
}

// ---- other parts of the page

find("title").textContent = content.title;
for (const [name, value] of content.summary) {
  find("summary").append(element("div", {}, element("dt", {}, name), element("dd", {}, value)));
}
if (content.support) { // z is not real, so that no plane or line of it can be shown
  find("support").textContent = `z is of ${content.support}, of which there is no plane. The ` +
    "reconstructions below are at draws from q(z|x).";
  find("support").hidden = false;
  find("choose").textContent = "Choose two datapoints.";
  for (const id of ["space", "moves"]) find(id).hidden = true;
}
find("gaps").hidden = !gaps.length;
find("precomputed").hidden = !grid;
find("precomputed").textContent = grid ? grid.note : "";
const lines = ["train", "valid", "test"].filter((split) => `${split}_bound` in content.curve)
  .map((split) => ({
    label: split, color: `var(--${split === "train" ? "train" : "test"})`,
    dashed: split === "train",
    x: content.curve.examples, y: content.curve[`${split}_bound`],
  }));
find("curve").append(legend(lines), chart(lines, "training examples", "bound (nats per datapoint)"));

const colors = ["var(--train)", "var(--test)", "var(--third)"];
find("measures").hidden = !content.measures.length;
for (const { title, label, lines } of content.measures) {
  const words = [...new Set(lines.map((line) => line.word))];
  const drawn = lines.map(({ word, split, x, y }) => ({
    label: [word, split].filter(Boolean).join(", ") || title, x, y,
    dashed: split === "train",
    color: colors[words.length > 1 ? words.indexOf(word) : Number(split !== "train")],
  }));
  find("charts").append(element("figure", {}, element("figcaption", {}, title),
    legend(drawn), chart(drawn, "training examples", label, "both")));
}

function showConfig() {
  const shown = content.config.filter((one) => !one.is_default || !find("changed").checked);
  find("config").tBodies[0].replaceChildren(...shown.map(({ name, value, is_default }) =>
    element("tr", is_default ? {} : { class: "changed" },
      element("th", { scope: "row" }, name), element("td", {}, value === "" ? "''" : value))));
}
find("changed").addEventListener("change", showConfig);
showConfig();

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  drawScatter();
  show();
});
plane.setAttribute("aria-label", "Latent plane: a point to drag");
drawScatter();
move(content.start);
