// The card of one image: its captions, the attention map of each word, and the most probable words.

import { describeLocation, draw } from "./attention.js";
import { element, textAttributes } from "./dom.js";

/** Formats a probability. */
export function percent(probability) {
  if (probability === null) return "unknown";
  if (probability >= 0.095) return `${Math.round(100 * probability)} %`;
  if (probability >= 0.00095) return `${(100 * probability).toFixed(1)} %`;
  if (!(probability > 1e-12)) return "nearly 0";
  return `1 in ${Number((1 / probability).toPrecision(2)).toLocaleString("en")}`;
}

export class ImageCard {
  /** `announce` sends a text to screen readers. */
  constructor(file, { announce, remove }) {
    this.file = file;
    this.announce = announce;
    this.result = null; // set when the server has responded
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
    const content = element("div", { class: "content" }, top, this.body, this.detail);
    this.card = element("article", { class: "image", "aria-label": this.name }, this.view, content);
    this.showBusy();
  }

  showBusy() {
    this.clear();
    this.body.replaceChildren(element("p", { class: "busy", text: "Captioning…" }));
    this.detail.hidden = true;
    this.save.hidden = true;
    this.card.setAttribute("aria-busy", "true");
  }

  showError(message) {
    this.clear();
    this.result = null;
    this.detail.hidden = true;
    this.save.hidden = true;
    this.card.removeAttribute("aria-busy");
    this.body.replaceChildren(element("p", { class: "error", role: "alert", text: message }));
  }

  showNoPreview() {
    this.image.hidden = true;
    this.view.prepend(element("p", { class: "no-preview note", text: "This browser cannot display the file." }));
  }

  /** Shows the response `answer`, in which `result` is the entry of this image. */
  showResult(answer, result) {
    this.clear();
    this.pinned = null;
    this.answer = answer;
    this.result = result;
    this.image.alt = result.captions[0].text;
    this.card.removeAttribute("aria-busy");
    this.body.replaceChildren(...result.captions.map((caption, index) => this.captionRow(caption, index)));
    this.detail.hidden = false;
    this.save.hidden = false;
    this.showDetail(null);
    this.announce(`${this.name}: ${result.captions[0].text}`);
  }

  captionRow(caption, index) {
    const all = [...caption.words, { ...caption.end, last: true }];
    const buttons = all.map((word, number) => this.wordButton(word, number));
    buttons[0].tabIndex = 0;
    const words = element("div", {
      ...textAttributes(caption.text), class: "words", role: "group", "aria-label": `Caption ${index + 1}: ${caption.text}. Arrow keys move along its words`,
      onkeydown: (event) => this.moveFocus(event, buttons),
      onmouseleave: () => this.showAttention(this.pinned),
      onfocusout: (event) => { if (!words.contains(event.relatedTarget)) this.showAttention(this.pinned); },
    }, ...buttons);
    const mean = Math.exp(all.reduce((sum, word) => sum + Math.log(word.probability || 1e-30), 0) / all.length);
    const copy = element("button", {
      class: "quiet", type: "button", text: "Copy", "aria-label": `Copy: ${caption.text}`,
      onclick: () => this.copy(caption.text, copy),
    });
    const numbers = element("div", { class: "numbers" },
      element("span", { text: `${percent(mean)} per word`, title: "geometric mean over the words and the end" }),
      element("span", { text: `${percent(caption.probability)} in total` }),
      element("span", { text: "cut", title: "at the maximum length", hidden: caption.finished }), copy);
    return element("div", { class: "caption" }, words, numbers);
  }

  wordButton(word, number) {
    const shown = word.last ? "end" : word.text;
    const button = element("button", {
      class: word.last ? "word end" : "word", type: "button", tabindex: "-1", text: shown,
      "aria-pressed": "false", "data-index": number,
      "aria-label": `${word.last ? "the end" : word.text}, ${percent(word.probability)}`,
      onmouseenter: () => this.showAttention(button), onfocus: () => this.showAttention(button), onclick: () => this.pin(button),
    });
    button.style.setProperty("--probability", word.probability ?? 0);
    button.word = word;
    return button;
  }

  /** Moves the focus along the words of a caption. */
  moveFocus(event, buttons) {
    const here = buttons.indexOf(document.activeElement);
    const forward = getComputedStyle(event.currentTarget).direction === "rtl" ? -1 : 1;
    const steps = { ArrowRight: here + forward, ArrowLeft: here - forward, Home: 0, End: buttons.length - 1 };
    if (event.key === "Escape") {
      this.pin(null);
      this.showAttention(null);
    } else if (event.key in steps) {
      event.preventDefault();
      const next = buttons[Math.min(buttons.length - 1, Math.max(0, steps[event.key]))];
      buttons.forEach((button) => { button.tabIndex = button === next ? 0 : -1; });
      next.focus();
      this.announce(this.describe(next.word));
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
    if (button) this.announce(this.describe(button.word));
    this.showAttention(button);
  }

  /** Shows the attention map of a word; null = none. */
  showAttention(button) {
    this.card.querySelectorAll(".word.on").forEach((each) => each.classList.remove("on"));
    button?.classList.add("on");
    const { grid, frame, width, height } = this.result ?? {};
    const weights = button?.word.attention;
    const visible = Boolean(weights && grid && !this.image.hidden);
    this.view.classList.toggle("with-map", visible);
    this.canvas.hidden = !visible;
    if (visible) {
      draw(this.canvas, weights, grid, width * frame.width, height * frame.height);
      for (const [side, fraction] of [["left", frame.left], ["top", frame.top], ["width", frame.width], ["height", frame.height]]) {
        this.canvas.style[side] = `${100 * fraction}%`;
      }
    }
    this.showDetail(button?.word ?? null);
  }

  showDetail(word) {
    if (!word) {
      this.detail.replaceChildren(element("p", { class: "note", text: "Choose a word to show its attention map and the most probable words." }));
      return;
    }
    const description = element("p", { text: this.describe({ ...word, top_tokens: null }) });
    const own = word.last ? null : word.text;
    const bars = (word.top_tokens ?? []).map(({ text, probability }) => {
      const bar = element("div", { class: "share" });
      bar.style.width = `${100 * (probability ?? 0)}%`;
      return element("li", { class: text === own ? "own" : undefined },
        element("span", { ...textAttributes(text ?? ""), text: text ?? "(end)" }), bar, element("span", { class: "amount", text: percent(probability) }));
    });
    this.detail.replaceChildren(description, element("ol", { "aria-label": "The most probable words" }, ...bars));
  }

  /** Describes a word, its probability and its attention in one sentence. */
  describe(word) {
    const what = word.last ? "The end" : `“${word.text}”`;
    const where = word.attention && this.result.grid ? `, attending to ${describeLocation(word.attention, this.result.grid)}` : "";
    const others = (word.top_tokens ?? []).filter(({ text }) => text !== (word.last ? null : word.text)).slice(0, 3);
    const instead = others.map(({ text, probability }) => `${text ?? "the end"} ${percent(probability)}`).join(", ");
    return `${what}: ${percent(word.probability)}${where}.${instead ? ` Instead: ${instead}.` : ""}`;
  }

  async copy(text, button) {
    try {
      await navigator.clipboard.writeText(text);
    } catch { // not available without HTTPS
      const field = element("textarea", { class: "visually-hidden" });
      field.value = text;
      document.body.append(field);
      field.select();
      document.execCommand("copy");
      field.remove();
      button.focus();
    }
    button.textContent = "Copied";
    this.announce("Copied");
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }

  download() {
    save({ model: this.answer.model, options: this.answer.options, results: [this.result] }, this.name);
  }

  clear() {
    this.pinned = null;
    this.view.classList.remove("with-map");
    this.canvas.hidden = true;
  }

  dispose() {
    URL.revokeObjectURL(this.address);
    this.card.remove();
  }
}

/** Downloads a response as a JSON file. */
export function save(content, name) {
  const address = URL.createObjectURL(new Blob([`${JSON.stringify(content, null, 2)}\n`], { type: "application/json" }));
  const link = element("a", { href: address, download: `${name.replace(/\.[^.]*$/, "")}.json` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
