// The dialogs: find and replace, and generate again.

const find = (id) => document.getElementById(id);
const PREVIEW_DELAY = 150; // milliseconds after the last key until matches are counted

let preview = null; // counts the matches of the open replace dialog
let apply = null; // of the open dialog
let seed = 0;

const readReplacement = () => ({
  find: find("find").value, replacement: find("replacement").value,
  whole_words: find("whole-words").checked, match_case: find("match-case").checked,
});

let waiting = 0;

function countLater() {
  clearTimeout(waiting);
  find("replace-all").disabled = true;
  waiting = setTimeout(count, PREVIEW_DELAY);
}

async function count() {
  const values = readReplacement();
  if (!values.find) {
    find("replace-count").textContent = "";
    return;
  }
  let text, ready = false;
  try {
    text = (await preview(values)).message;
    ready = !text.startsWith("found at 0 ");
  } catch (error) {
    text = error.message;
  }
  if (JSON.stringify(values) !== JSON.stringify(readReplacement())) return; // typed on
  find("replace-count").textContent = text;
  find("replace-all").disabled = !ready;
}

/** Opens the replace dialog; `count(values)` returns a response with a message, `run(values)` replaces. */
export function openReplace(counter, run) {
  preview = counter;
  apply = run;
  find("replace-dialog").returnValue = "";
  find("replace-dialog").showModal();
  find("find").select();
  countLater();
}

function readGeneration() {
  const strategy = find("strategy").value;
  const options = strategy ? { strategy } : {};
  if (strategy === "beam") options.beam_size = find("beam").value;
  if (strategy === "sample") {
    seed += 1; // other captions each time
    Object.assign(options, { temperature: find("temperature").value, sampling_seed: String(seed) });
  }
  const prompt = find("prompt-field").hidden ? null : find("prompt").value;
  return { options, prompt, all: find("all-shown").checked };
}

function showOptions() {
  find("beam-field").hidden = find("strategy").value !== "beam";
  find("temperature-field").hidden = find("strategy").value !== "sample";
}

/** Opens the dialog of generation, or with `repeat` runs with its values at once. */
export function openGenerate(repeat, shown, run) {
  if (repeat) {
    run({ ...readGeneration(), all: false });
    return;
  }
  apply = () => run(readGeneration());
  find("all-shown").checked = false;
  find("all-shown-text").textContent = `for the first ${shown} of the shown captions`;
  find("generate-dialog").returnValue = "";
  find("generate-dialog").showModal();
}

/** Connects the dialogs; `model` is null if no captions can be generated. */
export function setUpDialogs(model) {
  for (const id of ["find", "replacement", "whole-words", "match-case"]) find(id).addEventListener("input", countLater);
  for (const name of ["replace", "generate"]) {
    const dialog = find(`${name}-dialog`);
    // Enter in a field submits by the first button, which is Cancel.
    dialog.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.target.matches("button, textarea")) return;
      event.preventDefault();
      const button = dialog.querySelector("button[value=apply]");
      if (!button.disabled) button.click();
    });
    dialog.addEventListener("close", () => {
      if (dialog.returnValue === "apply") apply(readReplacement());
    });
  }
  if (!model) return;
  find("model").textContent = model.name;
  find("beam").value = Math.max(2, model.options.beam_size);
  find("temperature").value = model.options.temperature;
  find("prompt-field").hidden = !model.takes_prompts;
  find("prompt").value = model.prompt;
  find("strategy").addEventListener("input", showOptions);
  showOptions();
}
