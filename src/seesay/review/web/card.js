// The card of one row in the grid, and the view of one row.

import { thumbnail } from "./api.js";
import { element, textAttributes } from "./dom.js";
import { REVIEWS } from "./rows.js";

const button = (text, label, onclick, kind = "quiet") => element("button", {
  class: kind, type: "button", text, "aria-label": label, title: label, tabindex: "-1",
  onclick: (event) => { event.stopPropagation(); onclick(); },
});

const fileName = (image) => image.slice(image.lastIndexOf("/") + 1);

function captionText(row) {
  const attributes = row.caption ? textAttributes(row.caption) : {};
  return element("p", { class: row.caption ? "words-of" : "words-of none", ...attributes, text: row.caption || row.reason || "no caption" });
}

const score = (row) => (row.score === null ? "" : `score ${row.score.toFixed(2)}`);

/** Describes a row for screen readers. */
export const describe = (row) => `${row.caption || "no caption"}, ${REVIEWS[row.review]}, ${fileName(row.image)}`;

function image(row) {
  const shown = element("img", { class: "thumbnail", alt: "", loading: "lazy", decoding: "async", draggable: "false" });
  shown.addEventListener("error", () => {
    if (shown.src) shown.replaceWith(element("p", { class: "thumbnail no-image note", text: "The image cannot be shown." }));
  });
  return shown;
}

/** Creates the card of a row; `actions` has the functions open, edit, accept, reject and choose. */
export function makeCard(row, position, total, actions) {
  const card = element("article", {
    class: "entry", role: "listitem", tabindex: "-1", "data-row": row.row, "aria-posinset": position + 1, "aria-setsize": total,
    onfocusin: () => actions.choose(row),
  });
  const picture = image(row);
  card.body = element("div", { class: "entry-text", onclick: () => actions.edit(row) });
  card.facts = element("div", { class: "facts" });
  const buttons = element("div", { class: "entry-buttons" },
    button("✓", "Accept (a)", () => actions.accept(row)), button("✕", "Reject (r)", () => actions.reject(row)),
    button("✎", "Edit (Enter)", () => actions.edit(row)));
  card.append(element("div", { class: "frame", onclick: () => actions.open(row) }, picture), card.body,
    element("div", { class: "file-name", text: fileName(row.image), title: row.image, dir: "auto" }),
    element("div", { class: "foot" }, card.facts, buttons));
  fillCard(card, row);
  return card;
}

/** Shows the current caption and status of a row on its card. */
export function fillCard(card, row) {
  card.dataset.review = row.review;
  card.setAttribute("aria-label", describe(row));
  if (!card.body.querySelector("textarea")) card.body.replaceChildren(captionText(row));
  card.facts.replaceChildren(
    element("span", { class: "badge", text: REVIEWS[row.review] }),
    element("span", { class: row.reason && row.caption ? "reason" : "", text: row.caption ? row.reason || score(row) : "", title: row.reason || "" }));
}

/** Starts to load the image of a card. */
export function loadImage(card) {
  const shown = card.querySelector("img.thumbnail");
  if (shown && !shown.src) shown.src = thumbnail(card.dataset.row, "small");
}

/** Fills the view of one row; `actions` as for cards, with next, previous, close, use and regenerate. */
export function fillSingle(view, row, place, actions) {
  const changed = view.dataset.row !== String(row.row);
  view.dataset.row = row.row;
  view.dataset.review = row.review;
  if (changed || !view.picture) {
    view.picture = element("div", { class: "large" }, image(row));
    view.picture.firstChild.src = thumbnail(row.row, "large");
  }
  view.body = element("div", { class: "entry-text", onclick: () => actions.edit(row) }, captionText(row));
  const facts = element("dl", { class: "details" });
  const add = (name, value) => { if (value) facts.append(element("dt", { text: name }), element("dd", { text: value, dir: "auto" })); };
  add("Image", row.image);
  add("Status", REVIEWS[row.review]);
  add("Score", row.score === null ? "" : String(row.score));
  add("Reason", row.reason);
  if (row.finished === false) add("Note", "cut at the maximum length");
  const others = [...new Set([row.model_caption, ...row.alternatives])].filter((text) => text && text !== row.caption);
  const list = element("ul", { class: "others", "aria-label": "Captions of the model" }, ...others.map((text) => element("li", {},
    element("span", { ...textAttributes(text), text }), stop(button("Use", `Use: ${text}`, () => actions.use(row, text), "")))));
  const buttons = [
    button("✓ Accept", "Accept (a)", () => actions.accept(row), "main"), button("✕ Reject", "Reject (r)", () => actions.reject(row), ""),
    button("✎ Edit", "Edit (Enter)", () => actions.edit(row), ""),
    ...(actions.regenerate ? [button("↻ Generate", "Generate again (g)", () => actions.regenerate(row), "")] : []),
  ];
  const moves = [
    button("←", "Previous (k)", actions.previous, ""), element("span", { text: place }), button("→", "Next (j)", actions.next, ""),
    button("All images", "All images (v)", actions.close, "quiet"),
  ];
  moves.concat(buttons).forEach(stop);
  view.replaceChildren(view.picture, element("div", { class: "side" },
    element("div", { class: "moves" }, ...moves), view.body, element("div", { class: "entry-buttons" }, ...buttons),
    element("h2", { text: "Captions of the model", hidden: !others.length }), list, facts));
}

/** Makes a button reachable by the Tab key. */
function stop(control) {
  if (control.tagName === "BUTTON") control.tabIndex = 0;
  return control;
}

/** Shows an editor in place of a caption; `finish(text, key)` gets the text, or null if it was left. */
export function startEditing(holder, row, maxLength, finish) {
  const field = element("textarea", { ...textAttributes(row.caption), "aria-label": `Caption of ${fileName(row.image)}`, maxlength: maxLength });
  field.value = row.caption;
  let open = true;
  const end = (text, key) => {
    if (!open) return;
    open = false;
    field.remove();
    holder.replaceChildren(captionText(row));
    finish(text, key);
  };
  field.addEventListener("click", (event) => event.stopPropagation());
  field.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.isComposing) return;
    if (event.key === "Escape") end(null, "Escape");
    else if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      end(field.value, event.ctrlKey || event.metaKey ? "Accept" : "Enter");
    } else if (event.key.toLowerCase() === "s" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      end(field.value, "Save");
    }
  });
  field.addEventListener("blur", () => end(field.value, "blur"));
  holder.replaceChildren(field);
  field.focus();
  field.select();
}
