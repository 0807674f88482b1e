// The review page: filters, the grid and the view of one row, actions, keyboard.

import { getExport, getRows, perform } from "./api.js";
import { describe, fillCard, fillSingle, loadImage, makeCard, startEditing } from "./card.js";
import { openGenerate, openReplace, setUpDialogs } from "./dialogs.js";
import { element } from "./dom.js";
import { VirtualList } from "./list.js";
import { REVIEWS, Rows } from "./rows.js";
import { startTheme } from "./theme.js";

const SAVE_DELAY = 1500; // milliseconds from the last change until it is saved

const find = (id) => document.getElementById(id);
const rows = new Rows();
let facts = null; // what the server can do
let revision = -1;
let current = null; // the row with the focus
let single = false;
let saving = 0;

const announce = (text) => { find("status").textContent = text; };

const actions = {
  choose: (row) => choose(row),
  open: (row) => { choose(row); showSingle(true); },
  edit: (row) => edit(row),
  accept: (row) => mark(row, "accepted"),
  reject: (row) => mark(row, "rejected"),
  use: (row, text) => act("edit", () => ({ row: row.row, caption: text })),
  next: () => move(1),
  previous: () => move(-1),
  close: () => showSingle(false),
};

const list = new VirtualList(find("list"), (row, position) => {
  const card = makeCard(row, position, rows.shown.length, actions);
  if (row === current) setTabStops(card, true);
  return card;
}, loadImage);

// The server's state.

/** Performs an action and shows what it changed; returns the response, or null if it failed. */
async function act(action, content = () => ({})) {
  const position = rows.shown.indexOf(current);
  try {
    const reply = await perform(action, () => ({ revision, ...content() }));
    const before = revision;
    take(reply);
    if (reply.revision !== before) refresh(position);
    if (reply.message) announce(reply.message);
    showProblem("");
    if (action !== "save" && reply.revision !== before) saveSoon();
    return reply;
  } catch (error) {
    showProblem(error.message);
    return null;
  }
}

function take(reply) {
  rows.update(reply.rows);
  revision = reply.revision;
  for (const name of ["undo", "redo"]) {
    find(name).disabled = !reply[name];
    find(name).title = reply[name] ? `${name === "undo" ? "Undo" : "Redo"}: ${reply[name]} (${name === "undo" ? "z" : "y"})` : "";
  }
  find("save").disabled = !reply.unsaved;
  find("saved").textContent = reply.unsaved ? `${reply.unsaved} unsaved` : "saved";
}

function saveSoon() {
  clearTimeout(saving);
  saving = setTimeout(() => act("save"), SAVE_DELAY);
}

function saveNow() {
  clearTimeout(saving);
  return act("save");
}

function showProblem(text) {
  find("problem").textContent = text;
  find("problem").hidden = !text;
}

// What is shown.

function readFilters() {
  const number = (id) => (find(id).value.trim() === "" ? null : Number(find(id).value));
  return {
    terms: find("text").value.toLowerCase().split(/\s+/u).filter(Boolean),
    review: find("review").value === "all" ? null : find("review").value,
    minScore: number("min-score"), maxScore: number("max-score"),
    minWords: number("min-words"), maxWords: number("max-words"),
    reason: find("reason").value || null,
    order: find("order").value,
  };
}

/** Shows the rows that match the filters; the row at `position`, or the current one, stays the current one. */
function refresh(position = rows.shown.indexOf(current)) {
  const before = rows.shown;
  const hadFocus = find("list").contains(document.activeElement);
  rows.select(readFilters());
  showCounts();
  const same = before.length === rows.shown.length && before.every((row, index) => row === rows.shown[index]);
  if (!same) {
    list.setItems(rows.shown);
    if (!rows.shown.includes(current)) choose(rows.shown[Math.min(Math.max(position, 0), rows.shown.length - 1)] ?? null);
    else list.kept = current;
  }
  for (const [row, card] of list.cards) fillCard(card, row);
  find("empty").hidden = rows.shown.length > 0;
  if (single) showSingle(true);
  else if (!same && hadFocus) focusCurrent();
}

function showCounts() {
  const counts = rows.counts(), options = find("review").options;
  const labels = { all: `all (${rows.all.length})` };
  for (const review of Object.keys(REVIEWS)) labels[review] = `${REVIEWS[review]} (${counts[review]})`;
  if (!options.length) find("review").append(...["all", ...Object.keys(REVIEWS)].map((value) => element("option", { value })));
  for (const option of options) option.textContent = labels[option.value];
  find("count").textContent = `${rows.shown.length.toLocaleString("en")} of ${rows.all.length.toLocaleString("en")}`;
  find("accept-shown").disabled = find("replace").disabled = !rows.shown.length;
}

function setTabStops(card, on) {
  card.tabIndex = on ? 0 : -1;
  if (on) card.setAttribute("aria-current", "true");
  else card.removeAttribute("aria-current");
  for (const control of card.querySelectorAll("button")) control.tabIndex = on ? 0 : -1;
}

/** Makes a row the current one. */
function choose(row) {
  if (row === current) return;
  const old = list.cards.get(current);
  if (old) setTabStops(old, false);
  current = row;
  list.kept = row;
  const card = list.cards.get(row);
  if (card) setTabStops(card, true);
}

function focusCurrent() {
  const position = rows.shown.indexOf(current);
  if (position < 0) find("list").focus();
  else list.reveal(position)?.focus({ preventScroll: true });
}

/** Moves to another row, by a number of positions. */
function move(steps) {
  if (!rows.shown.length) return;
  const here = rows.shown.indexOf(current);
  goTo(here < 0 ? 0 : Math.min(rows.shown.length - 1, Math.max(0, here + steps)));
}

function goTo(position) {
  choose(rows.shown[position] ?? null);
  if (single) {
    showSingle(true);
    announce(current ? describe(current) : "");
  } else focusCurrent();
}

function showSingle(on) {
  single = on && current !== null;
  find("single").hidden = !single;
  find("list").hidden = single;
  find("view").textContent = single ? "All images" : "Single view";
  if (single) {
    const hadFocus = find("single").contains(document.activeElement);
    const place = `${(rows.shown.indexOf(current) + 1).toLocaleString("en")} of ${rows.shown.length.toLocaleString("en")}`;
    if (!find("single").querySelector("textarea")) fillSingle(find("single"), current, place, actions);
    if (hadFocus || document.activeElement === document.body) {
      find("single").tabIndex = -1;
      find("single").focus({ preventScroll: true });
    }
  } else {
    list.layOut();
    focusCurrent();
  }
}

// Actions.

function mark(row, review) {
  choose(row);
  act("mark", () => ({ rows: [row.row], review }));
  if (review) move(1); // at once, so that the next key is for the next row
}

function edit(row) {
  if (!row) return;
  choose(row);
  const holder = single ? find("single").body : list.reveal(rows.shown.indexOf(row))?.body;
  if (!holder || holder.querySelector("textarea")) return;
  startEditing(holder, row, facts.max_characters, (text, key) => {
    if (key !== "blur") (single ? find("single") : list.cards.get(row))?.focus({ preventScroll: true });
    if (text !== null && (text.trim() !== row.caption || key === "Accept")) {
      act("edit", () => ({ row: row.row, caption: text, accept: key === "Accept" }));
    }
    if (key === "Accept") move(1);
    if (key === "Save") saveNow();
  });
}

/** Undoes or redoes, and shows the first row that changed. */
async function goBack(action) {
  const reply = await act(action);
  const position = reply?.rows.length ? rows.shown.indexOf(rows.all[reply.rows[0].row]) : -1;
  if (position < 0) return;
  if (single || find("list").contains(document.activeElement)) goTo(position);
  else { // the focus stays on the button
    choose(rows.shown[position]);
    list.reveal(position);
  }
}

const numbers = (chosen) => chosen.map((row) => row.row);

function acceptShown() {
  act("mark", () => ({ rows: numbers(rows.shown), review: "accepted" }));
}

function replaceShown() {
  const shown = numbers(rows.shown);
  openReplace(
    (values) => perform("replace", () => ({ revision, rows: shown, ...values, preview: true })),
    (values) => act("replace", () => ({ rows: shown, ...values })),
  );
}

function generate(repeat = false) {
  if (!facts.model || !current) return;
  openGenerate(repeat, Math.min(rows.shown.length, facts.model.max_rows), async ({ all, ...values }) => {
    announce("Generating…");
    document.body.setAttribute("aria-busy", "true");
    const chosen = all ? rows.shown.slice(0, facts.model.max_rows) : [current];
    await act("regenerate", () => ({ rows: numbers(chosen), ...values }));
    document.body.removeAttribute("aria-busy");
  });
}

async function exportAccepted() {
  try {
    const address = URL.createObjectURL(await getExport());
    element("a", { href: address, download: "accepted.jsonl" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
    showProblem("");
  } catch (error) {
    showProblem(error.message);
  }
}

function clearFilters() {
  for (const id of ["text", "min-score", "max-score", "min-words", "max-words", "reason"]) find(id).value = "";
  find("review").value = "all";
  find("order").value = "file";
  refresh();
}

// Keyboard.

const page = () => list.columns * Math.max(1, Math.floor(find("list").clientHeight / (list.height ?? 300)));
const down = () => (single ? 1 : list.columns);

const SHORTCUTS = [
  ["j, →", "next caption", ["j", "ArrowRight"], () => move(1)],
  ["k, ←", "previous caption", ["k", "ArrowLeft"], () => move(-1)],
  ["↓", "the caption below", ["ArrowDown"], () => move(down())],
  ["↑", "the caption above", ["ArrowUp"], () => move(-down())],
  ["Page down", "a page down", ["PageDown"], () => move(page())],
  ["Page up", "a page up", ["PageUp"], () => move(-page())],
  ["Home", "first caption", ["Home"], () => goTo(0)],
  ["End", "last caption", ["End"], () => goTo(rows.shown.length - 1)],
  ["a", "accept, and go on", ["a"], () => current && mark(current, "accepted")],
  ["r", "reject, and go on", ["r"], () => current && mark(current, "rejected")],
  ["x", "clear the status", ["x"], () => current && mark(current, "")],
  ["m", "restore the model's caption", ["m"], () => current && act("revert", () => ({ rows: [current.row] }))],
  ["Enter", "edit; Enter keeps the text, Shift+Enter starts a line, Ctrl+Enter keeps and accepts, Escape leaves it", ["Enter"], () => edit(current)],
  ["v, Space", "one image or all images", ["v", " "], () => showSingle(!single)],
  ["Escape", "back to all images", ["Escape"], () => single && showSingle(false)],
  ["g", "generate again", ["g"], () => generate()],
  ["Shift+G", "generate again with the last options", ["G"], () => generate(true)],
  ["/", "search", ["/"], () => find("text").focus()],
  ["f", "further filters", ["f"], () => { find("more").open = true; find("order").focus(); }],
  ["c", "clear the filters", ["c"], clearFilters],
  ["h", "find and replace in the shown captions", ["h"], replaceShown],
  ["Shift+A", "accept all shown captions", ["A"], acceptShown],
  ["z, Ctrl+Z", "undo", ["z", "Ctrl+z"], () => goBack("undo")],
  ["y, Ctrl+Y", "redo", ["y", "Ctrl+y", "Ctrl+Z"], () => goBack("redo")],
  ["s, Ctrl+S", "save now", ["s", "Ctrl+s"], saveNow],
  ["e", "export the accepted captions", ["e"], exportAccepted],
  ["?", "these shortcuts", ["?"], () => find("help-dialog").showModal()],
];
const KEYS = new Map(SHORTCUTS.flatMap(([, , keys, run]) => keys.map((key) => [key, run])));

function onKey(event) {
  const { target } = event;
  if (event.isComposing || event.altKey || document.querySelector("dialog[open]")) return;
  if (target.closest("#filters") && (event.key === "Escape" || (event.key === "Enter" && target.id === "text"))) {
    event.preventDefault();
    find("more").open = false;
    if (single) find("single").focus(); else focusCurrent();
    return;
  }
  if (target.matches("input, select, textarea")) return;
  const activates = [" ", "Enter"].includes(event.key) && target.closest("button, a, summary");
  const run = KEYS.get(`${event.ctrlKey || event.metaKey ? "Ctrl+" : ""}${event.key}`);
  if (!run || activates) return;
  event.preventDefault();
  run();
}

// Start.

function setUpFilters() {
  const reasons = rows.reasons();
  find("reason-field").hidden = !reasons.length;
  find("reason").append(element("option", { value: "", text: "any or none" }), element("option", { value: "*", text: "any" }),
    ...reasons.slice(0, 50).map(([reason, number]) => element("option", { value: reason, text: `${reason} (${number})` })));
  let waiting = 0;
  find("filters").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(refresh, 80);
  });
  find("filters").addEventListener("submit", (event) => event.preventDefault());
  find("clear").addEventListener("click", clearFilters);
}

function listen() {
  const clicks = {
    undo: () => goBack("undo"), redo: () => goBack("redo"), save: saveNow, help: () => find("help-dialog").showModal(),
    view: () => showSingle(!single), replace: replaceShown, "accept-shown": acceptShown,
  };
  for (const [id, run] of Object.entries(clicks)) find(id).addEventListener("click", run);
  find("export").addEventListener("click", (event) => { event.preventDefault(); exportAccepted(); });
  document.addEventListener("keydown", onKey);
  document.addEventListener("click", (event) => { if (!find("more").contains(event.target)) find("more").open = false; });
  find("shortcuts").append(...SHORTCUTS.flatMap(([keys, text]) => [element("dt", { text: keys }), element("dd", { text })]));
}

async function start() {
  startTheme(find("theme"), announce);
  try {
    facts = await getRows();
  } catch (error) {
    showProblem(error.message);
    return;
  }
  take(facts);
  find("file").textContent = facts.name;
  document.title = `${facts.name} – seesay review`;
  if (facts.model) actions.regenerate = (row) => { choose(row); generate(); };
  setUpDialogs(facts.model);
  rows.select({ ...readFilters(), review: null });
  showCounts();
  setUpFilters();
  list.setItems(rows.shown);
  choose(rows.shown[0] ?? null);
  listen();
  focusCurrent();
  document.documentElement.dataset.ready = "true";
}

start();
