// The web UI: reads images, sends requests to its own server, shows a card per image.

import { ImageCard, save } from "./results.js";
import { startTheme } from "./theme.js";

const MAX_REQUESTS = 4; // concurrent requests; the server batches their images
const TOP_TOKENS = 5;
const MAX_ATTEMPTS = 5; // of a request while the queue is full

const find = (id) => document.getElementById(id);
const images = [];
const queue = [];
let model = null;
let key = "";
let running = 0;
let seed = 0;

const announce = (text) => { find("status").textContent = text; };
const pause = (seconds) => new Promise((resolve) => { setTimeout(resolve, 1000 * seconds); });

// Requests.

async function send(path, options = {}) {
  for (let attempt = 1; ; attempt += 1) {
    const sent = key;
    const headers = sent ? { Authorization: `Bearer ${sent}` } : {};
    const reply = await fetch(path, { ...options, headers });
    if (reply.status === 401) { if (sent === key) await askForKey(); } // else another request has asked meanwhile
    else if (reply.status === 503 && attempt < MAX_ATTEMPTS) await pause(Number(reply.headers.get("Retry-After")) || 1);
    else return reply;
  }
}

let keyRequest = null;

function askForKey() {
  keyRequest ??= new Promise((resolve) => {
    const dialog = find("key-dialog");
    find("key-error").hidden = !key;
    dialog.addEventListener("close", () => {
      key = find("key").value;
      keyRequest = null;
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return keyRequest;
}

async function caption(image) {
  const form = new FormData();
  form.append("images", image.file, image.name);
  for (const [name, value] of Object.entries(image.options)) form.append(name, String(value));
  form.append("attention", "true");
  form.append("top_tokens", String(TOP_TOKENS));
  const reply = await send("v1/caption", { method: "POST", body: form });
  const answer = await reply.json().catch(() => null); // a proxy may respond in another format
  if (!reply.ok || !answer) throw new Error(answer?.error?.message ?? `The server responded with status ${reply.status}; try again`);
  return answer;
}

// Queue.

function enqueue(image) {
  image.options = readOptions();
  image.version = (image.version ?? 0) + 1; // results of earlier requests are ignored
  image.showBusy();
  queue.push([image, image.version]);
  next();
}

async function next() {
  if (running >= MAX_REQUESTS || !queue.length) return;
  const [image, version] = queue.shift();
  running += 1;
  try {
    const answer = await caption(image);
    if (image.version === version) image.showResult(answer, answer.results[0]);
  } catch (error) {
    const message = error instanceof TypeError ? "The server cannot be reached. Is it still running?" : error.message;
    if (image.version === version) image.showError(message);
  } finally {
    running -= 1;
    showState();
    next();
  }
  next();
}

function add(files) {
  const { file_bytes: maxBytes } = model.limits;
  for (const file of files) {
    const image = new ImageCard(file, { announce, remove });
    images.push(image);
    find("images").append(image.card);
    if (file.size > maxBytes) {
      image.showError(`${image.name}: ${(file.size / 1e6).toFixed(0)} MB, more than the ${maxBytes / 1e6} allowed; make it smaller`);
    } else {
      enqueue(image);
    }
  }
  showState();
}

function remove(image) {
  const index = images.indexOf(image);
  images.splice(index, 1);
  image.version = -1;
  image.dispose();
  announce(`${image.name} removed`);
  const neighbour = images[Math.min(index, images.length - 1)];
  (neighbour?.card.querySelector(".word, button") ?? find("choose")).focus();
  showState();
}

function showState() {
  const done = images.filter((image) => image.result);
  find("again").disabled = !images.length;
  find("save-all").disabled = !done.length;
  find("hint").hidden = !done.some((image) => image.result.captions[0].words.some((word) => word.attention));
}

// Options.

const strategy = () => document.querySelector("input[name=strategy]:checked").value;

function readOptions() {
  const options = { strategy: strategy(), num_return_sequences: find("captions").value };
  if (options.strategy === "beam") options.beam_size = find("beam").value;
  if (options.strategy === "sample") Object.assign(options, { temperature: find("temperature").value, sampling_seed: seed });
  return options;
}

function showOptions(event) {
  const beam = find("beam"), captions = find("captions");
  find("beam-field").hidden = strategy() !== "beam";
  find("temperature-field").hidden = strategy() !== "sample";
  if (strategy() === "beam" && Number(captions.value) > Number(beam.value)) {
    // There can be no more captions than beams: adjust the field that the user did not change.
    if (event?.target === beam) captions.value = beam.value;
    else beam.value = captions.value;
  }
  for (const name of ["beam", "temperature", "captions"]) find(`${name}-shown`).textContent = find(name).value;
}

function setUp({ id, encoder, vocabulary, options, limits }) {
  find("model").textContent = `${id} · encoder ${encoder} · vocabulary of ${vocabulary.toLocaleString("en")} words`;
  find("bounds").textContent = `${limits.formats.join(", ")}; up to ${limits.file_bytes / 1e6} MB and ${limits.pixels / 1e6} megapixels each`;
  find("files").accept = limits.formats.map((name) => `image/${name.toLowerCase()}`).join(",");
  document.querySelector(`input[name=strategy][value=${options.strategy}]`).checked = true;
  find("beam").max = limits.beam_size;
  find("beam").value = options.beam_size;
  find("captions").max = limits.num_return_sequences;
  find("captions").value = options.num_return_sequences;
  find("temperature").value = options.temperature;
  showOptions();
}

// Event listeners.

function listen() {
  const drop = find("drop");
  find("choose").addEventListener("click", () => find("files").click());
  find("files").addEventListener("change", (event) => { add(event.target.files); event.target.value = ""; });
  document.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    add(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => { if (event.clipboardData.files.length) add(event.clipboardData.files); });
  find("options").addEventListener("input", showOptions);
  find("options").addEventListener("submit", (event) => {
    event.preventDefault();
    seed += 1;
    images.forEach(enqueue);
  });
  find("save-all").addEventListener("click", () => {
    const done = images.filter((image) => image.result);
    save(done.map((image) => ({ model: image.answer.model, options: image.answer.options, results: [image.result] })), "captions.json");
  });
}

async function start() {
  startTheme(find("theme"), announce);
  try {
    const reply = await send("v1/models");
    [model] = (await reply.json()).data;
    setUp(model);
    listen();
    document.documentElement.dataset.ready = "true";
  } catch {
    find("model").textContent = "The server cannot be reached. Reload the page when it is running.";
  }
}

start();
