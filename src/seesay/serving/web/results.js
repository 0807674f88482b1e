// One image with its captions: the words, where the model looked at each, and what else it could have said.

import { draw, whereabouts } from "./attention.js";

/** Returns an element; every text is set as text, never as markup. */
export function element(tag, { text, ...attributes } = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

const LANGUAGES = [ // told by script; kana come first, as Japanese has Chinese characters too
  ["ja", /[\p{Script=Hiragana}\p{Script=Katakana}]/u], ["zh", /\p{Script=Han}/u], ["ko", /\p{Script=Hangul}/u],
  ["ar", /\p{Script=Arabic}/u], ["he", /\p{Script=Hebrew}/u], ["th", /\p{Script=Thai}/u],
  ["hi", /\p{Script=Devanagari}/u], ["el", /\p{Script=Greek}/u], ["und-Cyrl", /\p{Script=Cyrillic}/u],
];

/** Returns the attributes of an element that holds a caption: its direction, and its language where the script tells. */
export function written(text) {
  return { dir: "auto", lang: LANGUAGES.find(([, letters]) => letters.test(text))?.[0] };
}

/** Returns a probability in words. */
export function percent(probability) {
  if (probability === null) return "unknown";
  if (probability >= 0.095) return `${Math.round(100 * probability)} %`;
  if (probability >= 0.00095) return `${(100 * probability).toFixed(1)} %`;
  if (!(probability > 1e-12)) return "nearly 0";
  return `1 in ${Number((1 / probability).toPrecision(2)).toLocaleString("en")}`;
}

export class ImageCard {
  /** A card; `tell` says something to screen readers. */
  constructor(file, { tell, remove }) {
    this.file = file;
    this.tell = tell;
    this.result = null; // of the service, once it is there
    this.pinned = null;
    this.address = URL.createObjectURL(file);
    this.image = element("img", {
      alt: "", src: this.address, onerror: () => this.showNoPreview(),
      onload: () => this.view.style.setProperty("--ratio", this.image.naturalWidth / this.image.naturalHeight),
    });
    this.canvas = element("canvas", { "aria-hidden": "true", hidden: true });
    this.view = element("div", { class: "view" }, this.image, this.canvas);
    this.body = element("div", { class: "body" });
    this.detail = element("div", { class: "detail", hidden: true });
    this.name = file.name || "pasted image";
    this.save = element("button", {
      class: "quiet", type: "button", text: "JSON", hidden: true,
      "aria-label": `Download the captions of ${this.name} as JSON`, onclick: () => this.download(),
    });
    const close = element("button", {
      class: "quiet", type: "button", text: "✕", "aria-label": `Remove ${this.name}`, onclick: () => remove(this),
    });
    const top = element("div", { class: "top" }, element("h2", { dir: "auto", text: this.name }), this.save, close);
    const said = element("div", { class: "said" }, top, this.body, this.detail);
    this.card = element("article", { class: "image", "aria-label": this.name }, this.view, said);
    this.showWorking();
  }

  showWorking() {
    this.clear();
    this.body.replaceChildren(element("p", { class: "working", text: "Looking…" }));
    this.detail.hidden = true;
    this.save.hidden = true;
    this.card.setAttribute("aria-busy", "true");
  }

  showRefused(message) {
    this.clear();
    this.result = null;
    this.detail.hidden = true;
    this.save.hidden = true;
    this.card.removeAttribute("aria-busy");
    this.body.replaceChildren(element("p", { class: "refused", role: "alert", text: message }));
  }

  showNoPreview() {
    this.image.hidden = true;
    this.view.prepend(element("p", { class: "gone note", text: "This browser cannot show the file." }));
  }

  /** Shows what the service says: `answer` is the whole, `result` the image's entry in it. */
  showResult(answer, result) {
    this.clear();
    this.pinned = null;
    this.answer = answer;
    this.result = result;
    this.image.alt = result.captions[0].text;
    this.card.removeAttribute("aria-busy");
    this.body.replaceChildren(...result.captions.map((caption, place) => this.captionRow(caption, place)));
    this.detail.hidden = false;
    this.save.hidden = false;
    this.showDetail(null);
    this.tell(`${this.name}: ${result.captions[0].text}`);
  }

  captionRow(caption, place) {
    const all = [...caption.words, { ...caption.end, last: true }];
    const buttons = all.map((word, number) => this.wordButton(word, number));
    buttons[0].tabIndex = 0;
    const words = element("div", {
      ...written(caption.text), class: "words", role: "group", "aria-label": `Caption ${place + 1}: ${caption.text}. Arrow keys walk along its words`,
      onkeydown: (event) => this.walk(event, buttons),
      onmouseleave: () => this.look(this.pinned),
      onfocusout: (event) => { if (!words.contains(event.relatedTarget)) this.look(this.pinned); },
    }, ...buttons);
    const each = Math.exp(all.reduce((sum, word) => sum + Math.log(word.probability || 1e-30), 0) / all.length);
    const copy = element("button", {
      class: "quiet", type: "button", text: "Copy", "aria-label": `Copy: ${caption.text}`,
      onclick: () => this.copy(caption.text, copy),
    });
    const numbers = element("div", { class: "numbers" },
      element("span", { text: `${percent(each)} a word`, title: "geometric mean over the words and the end" }),
      element("span", { text: `all of it ${percent(caption.probability)}` }),
      element("span", { text: "cut", title: "at the most words allowed", hidden: caption.finished }), copy);
    return element("div", { class: "caption" }, words, numbers);
  }

  wordButton(word, number) {
    const shown = word.last ? "end" : word.text;
    const button = element("button", {
      class: word.last ? "word end" : "word", type: "button", tabindex: "-1", text: shown,
      "aria-pressed": "false", "data-place": number,
      "aria-label": `${word.last ? "the end" : word.text}, ${percent(word.probability)}`,
      onmouseenter: () => this.look(button), onfocus: () => this.look(button), onclick: () => this.pin(button),
    });
    button.style.setProperty("--probability", word.probability ?? 0);
    button.word = word;
    return button;
  }

  /** Moves along a caption's words by the keyboard. */
  walk(event, buttons) {
    const here = buttons.indexOf(document.activeElement);
    const forward = getComputedStyle(event.currentTarget).direction === "rtl" ? -1 : 1;
    const steps = { ArrowRight: here + forward, ArrowLeft: here - forward, Home: 0, End: buttons.length - 1 };
    if (event.key === "Escape") {
      this.pin(null);
      this.look(null);
    } else if (event.key in steps) {
      event.preventDefault();
      const next = buttons[Math.min(buttons.length - 1, Math.max(0, steps[event.key]))];
      buttons.forEach((button) => { button.tabIndex = button === next ? 0 : -1; });
      next.focus();
      this.tell(this.inWords(next.word));
    }
  }

  pin(button) {
    const before = this.pinned;
    this.pinned = button === before ? null : button;
    for (const each of [before, button]) {
      if (!each) continue;
      each.classList.toggle("pinned", each === this.pinned);
      each.setAttribute("aria-pressed", String(each === this.pinned));
    }
    if (button) this.tell(this.inWords(button.word));
    this.look(button);
  }

  /** Shows where the model looked at a word; null = nowhere. */
  look(button) {
    this.card.querySelectorAll(".word.on").forEach((each) => each.classList.remove("on"));
    button?.classList.add("on");
    const { grid, frame, width, height } = this.result ?? {};
    const weights = button?.word.attention;
    const seen = Boolean(weights && grid && !this.image.hidden);
    this.view.classList.toggle("looking", seen);
    this.canvas.hidden = !seen;
    if (seen) {
      draw(this.canvas, weights, grid, width * frame.width, height * frame.height);
      for (const [side, share] of [["left", frame.left], ["top", frame.top], ["width", frame.width], ["height", frame.height]]) {
        this.canvas.style[side] = `${100 * share}%`;
      }
    }
    this.showDetail(button?.word ?? null);
  }

  showDetail(word) {
    if (!word) {
      this.detail.replaceChildren(element("p", { class: "note", text: "Choose a word to see where the model looked, and what else it could have said." }));
      return;
    }
    const said = element("p", { text: this.inWords({ ...word, top_tokens: null }) });
    const own = word.last ? null : word.text;
    const bars = (word.top_tokens ?? []).map(({ text, probability }) => {
      const bar = element("div", { class: "share" });
      bar.style.width = `${100 * (probability ?? 0)}%`;
      return element("li", { class: text === own ? "own" : undefined },
        element("span", { ...written(text ?? ""), text: text ?? "(end)" }), bar, element("span", { class: "amount", text: percent(probability) }));
    });
    this.detail.replaceChildren(said, element("ol", { "aria-label": "The likeliest words here" }, ...bars));
  }

  /** Says all of a word, for screen readers too. */
  inWords(word) {
    const what = word.last ? "The end" : `“${word.text}”`;
    const where = word.attention && this.result.grid ? `, looking at ${whereabouts(word.attention, this.result.grid)}` : "";
    const others = (word.top_tokens ?? []).filter(({ text }) => text !== (word.last ? null : word.text)).slice(0, 3);
    const instead = others.map(({ text, probability }) => `${text ?? "the end"} ${percent(probability)}`).join(", ");
    return `${what}: ${percent(word.probability)}${where}.${instead ? ` Instead: ${instead}.` : ""}`;
  }

  async copy(text, button) {
    try {
      await navigator.clipboard.writeText(text);
    } catch { // not on a secure address
      const field = element("textarea", { class: "unseen" });
      field.value = text;
      document.body.append(field);
      field.select();
      document.execCommand("copy");
      field.remove();
      button.focus();
    }
    button.textContent = "Copied";
    this.tell("Copied");
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }

  download() {
    save({ model: this.answer.model, options: this.answer.options, results: [this.result] }, this.name);
  }

  clear() {
    this.pinned = null;
    this.view.classList.remove("looking");
    this.canvas.hidden = true;
  }

  dispose() {
    URL.revokeObjectURL(this.address);
    this.card.remove();
  }
}

/** Lets the browser save an answer as a file. */
export function save(content, name) {
  const address = URL.createObjectURL(new Blob([`${JSON.stringify(content, null, 2)}\n`], { type: "application/json" }));
  const link = element("a", { href: address, download: `${name.replace(/\.[^.]*$/, "")}.json` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
