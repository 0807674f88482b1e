// The theme of the web UIs: that of the system, light or dark; the browser stores the choice.

const THEMES = { "": "system", light: "light", dark: "dark" };

/** Applies the stored theme and makes `button` switch to the next one; `announce` sends a text to screen readers. */
export function startTheme(button, announce) {
  const set = (theme) => {
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    button.setAttribute("aria-label", `Theme: ${THEMES[theme]}`);
    try { localStorage.setItem("theme", theme); } catch { /* not stored */ }
  };
  try { set(localStorage.getItem("theme") ?? ""); } catch { set(""); }
  button.addEventListener("click", () => {
    const names = Object.keys(THEMES);
    const theme = names[(names.indexOf(document.documentElement.dataset.theme ?? "") + 1) % names.length];
    set(theme);
    announce(`Theme: ${THEMES[theme]}`);
  });
}
