// The page: pictures in, requests to the service it came from, cards out.

import { Picture, save } from "./results.js";

const AT_A_TIME = 4; // requests on their way; the service puts their pictures together
const ALTERNATIVES = 5;
const TRIES = 5; // of a request that finds the service full

const find = (id) => document.getElementById(id);
const pictures = [];
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

async function caption(picture) {
  const form = new FormData();
  form.append("pictures", picture.file, picture.name);
  for (const [name, value] of Object.entries(picture.wish)) form.append(name, String(value));
  form.append("attention", "true");
  form.append("alternatives", String(ALTERNATIVES));
  const reply = await ask("v1/caption", { method: "POST", body: form });
  const answer = await reply.json().catch(() => null); // what stands before the service may answer in a form of its own
  if (!reply.ok || !answer) throw new Error(answer?.error?.message ?? `The service answered ${reply.status}; try again`);
  return answer;
}

// Work.

function enqueue(picture) {
  picture.wish = wish();
  picture.turn = (picture.turn ?? 0) + 1;
  picture.showWorking();
  waiting.push([picture, picture.turn]);
  next();
}

async function next() {
  if (running >= AT_A_TIME || !waiting.length) return;
  const [picture, turn] = waiting.shift();
  running += 1;
  try {
    const answer = await caption(picture);
    if (picture.turn === turn) picture.showResult(answer, answer.results[0]);
  } catch (error) {
    const message = error instanceof TypeError ? "The service cannot be reached. Is it still running?" : error.message;
    if (picture.turn === turn) picture.showRefused(message);
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
    const picture = new Picture(file, { tell, remove });
    pictures.push(picture);
    find("pictures").append(picture.card);
    if (file.size > most) {
      picture.showRefused(`${picture.name}: ${(file.size / 1e6).toFixed(0)} MB, more than the ${most / 1e6} allowed; make it smaller`);
    } else {
      enqueue(picture);
    }
  }
  showState();
}

function remove(picture) {
  const place = pictures.indexOf(picture);
  pictures.splice(place, 1);
  picture.turn = -1;
  picture.dispose();
  tell(`${picture.name} removed`);
  const neighbour = pictures[Math.min(place, pictures.length - 1)];
  (neighbour?.card.querySelector(".word, button") ?? find("choose")).focus();
  showState();
}

function showState() {
  const done = pictures.filter((picture) => picture.result);
  find("again").disabled = !pictures.length;
  find("save-all").disabled = !done.length;
  find("hint").hidden = !done.some((picture) => picture.result.captions[0].words.some((word) => word.attention));
}

// Options.

const strategy = () => document.querySelector("input[name=strategy]:checked").value;

function wish() {
  const chosen = { strategy: strategy(), num_captions: find("captions").value };
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
  find("captions").max = limits.num_captions;
  find("captions").value = options.num_captions;
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
    pictures.forEach(enqueue);
  });
  find("save-all").addEventListener("click", () => {
    const done = pictures.filter((picture) => picture.result);
    save(done.map((picture) => ({ model: picture.answer.model, options: picture.answer.options, results: [picture.result] })), "captions.json");
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
