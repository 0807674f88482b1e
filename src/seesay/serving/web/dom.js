// Elements and texts of the web UIs.

/** Creates an element; texts are set as text, never as markup. */
export function element(tag, { text, ...attributes } = {}, ...children) {
  const created = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) created.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) created.setAttribute(name, value === true ? "" : value);
  }
  if (text !== undefined) created.textContent = text;
  created.append(...children);
  return created;
}

const LANGUAGES = [ // by script; kana first, because Japanese also uses Chinese characters
  ["ja", /[\p{Script=Hiragana}\p{Script=Katakana}]/u], ["zh", /\p{Script=Han}/u], ["ko", /\p{Script=Hangul}/u],
  ["ar", /\p{Script=Arabic}/u], ["he", /\p{Script=Hebrew}/u], ["th", /\p{Script=Thai}/u],
  ["hi", /\p{Script=Devanagari}/u], ["el", /\p{Script=Greek}/u], ["und-Cyrl", /\p{Script=Cyrillic}/u],
];

/** Returns the `dir` and `lang` attributes of a caption; the language is derived from the script, if possible. */
export function textAttributes(text) {
  return { dir: "auto", lang: LANGUAGES.find(([, letters]) => letters.test(text))?.[0] };
}
