// The page: images in, requests to the service it came from, cards out.

import { ImageCard, save } from "./results.js";

const AT_A_TIME = 4; // requests on their way; the service puts their images together
const TOP_TOKENS = 5;
const TRIES = 5; // of a request that finds the service full

const find = (id) => document.getElementById(id);
const images = [];
const waiting = [];
let model = null;
let key = "";
let running = 0;
let seed = 0;

const tell = (text) => { find("status").textContent = text; };
const pause = (seconds) => new Promise((resolve) => { setTimeout(resolve, 1000 * seconds); });

// The service.

async function ask(path, options = {}) {
  for (let attempt = 1; ; attempt += 1) {
    const headers = key ? { Authorization: `Bearer ${key}` } : {};
    const reply = await fetch(path, { ...options, headers });
    if (reply.status === 401) await askForKey();
    else if (reply.status === 503 && attempt < TRIES) await pause(Number(reply.headers.get("Retry-After")) || 1);
    else return reply;
  }
}

let asking = null;

function askForKey() {
  asking ??= new Promise((resolve) => {
    const dialog = find("key-dialog");
    dialog.addEventListener("close", () => {
      key = find("key").value;
      asking = null;
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

async function caption(image) {
  const form = new FormData();
  form.append("images", image.file, image.name);
  for (const [name, value] of Object.entries(image.wish)) form.append(name, String(value));
  form.append("attention", "true");
  form.append("top_tokens", String(TOP_TOKENS));
  const reply = await ask("v1/caption", { method: "POST", body: form });
  const answer = await reply.json().catch(() => null); // what stands before the service may answer in a form of its own
  if (!reply.ok || !answer) throw new Error(answer?.error?.message ?? `The service answered ${reply.status}; try again`);
  return answer;
}

// Work.

function enqueue(image) {
  image.wish = wish();
  image.turn = (image.turn ?? 0) + 1;
  image.showWorking();
  waiting.push([image, image.turn]);
  next();
}

async function next() {
  if (running >= AT_A_TIME || !waiting.length) return;
  const [image, turn] = waiting.shift();
  running += 1;
  try {
    const answer = await caption(image);
    if (image.turn === turn) image.showResult(answer, answer.results[0]);
  } catch (error) {
    const message = error instanceof TypeError ? "The service cannot be reached. Is it still running?" : error.message;
    if (image.turn === turn) image.showRefused(message);
  } finally {
    running -= 1;
    showState();
    next();
  }
  next();
}

function add(files) {
  const { file_bytes: most } = model.limits;
  for (const file of files) {
    const image = new ImageCard(file, { tell, remove });
    images.push(image);
    find("images").append(image.card);
    if (file.size > most) {
      image.showRefused(`${image.name}: ${(file.size / 1e6).toFixed(0)} MB, more than the ${most / 1e6} allowed; make it smaller`);
    } else {
      enqueue(image);
    }
  }
  showState();
}

function remove(image) {
  const place = images.indexOf(image);
  images.splice(place, 1);
  image.turn = -1;
  image.dispose();
  tell(`${image.name} removed`);
  const neighbour = images[Math.min(place, images.length - 1)];
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

function wish() {
  const chosen = { strategy: strategy(), num_return_sequences: find("captions").value };
  if (chosen.strategy === "beam") chosen.beam_size = find("beam").value;
  if (chosen.strategy === "sample") Object.assign(chosen, { temperature: find("temperature").value, sampling_seed: seed });
  return chosen;
}

function showOptions(event) {
  const beam = find("beam"), captions = find("captions");
  find("beam-field").hidden = strategy() !== "beam";
  find("temperature-field").hidden = strategy() !== "sample";
  if (strategy() === "beam" && Number(captions.value) > Number(beam.value)) {
    // A beam ends in as many captions as it holds: the one that was not touched gives way.
    if (event?.target === beam) captions.value = beam.value;
    else beam.value = captions.value;
  }
  for (const name of ["beam", "temperature", "captions"]) find(`${name}-shown`).textContent = find(name).value;
}

function setUp({ id, encoder, vocabulary, options, limits }) {
  find("model").textContent = `${id} · looks through ${encoder} · knows ${vocabulary.toLocaleString("en")} words`;
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

// Colours.

const THEMES = { "": "as the system says", light: "light", dark: "dark" };

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  find("theme").setAttribute("aria-label", `Colours: ${THEMES[theme]}`);
  try { localStorage.setItem("theme", theme); } catch { /* not kept, then */ }
}

function nextTheme() {
  const names = Object.keys(THEMES);
  const theme = names[(names.indexOf(document.documentElement.dataset.theme ?? "") + 1) % names.length];
  setTheme(theme);
  tell(`Colours: ${THEMES[theme]}`);
}

// Ways in.

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
  find("theme").addEventListener("click", nextTheme);
}

async function start() {
  try { setTheme(localStorage.getItem("theme") ?? ""); } catch { setTheme(""); }
  try {
    const reply = await ask("v1/models");
    [model] = (await reply.json()).models;
    setUp(model);
    listen();
    document.documentElement.dataset.ready = "true";
  } catch {
    find("model").textContent = "The service cannot be reached. Load the page again when it runs.";
  }
}

start();
