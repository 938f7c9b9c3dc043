/* Light or dark: as the system has it, unless the switch says otherwise. */

const KEY = "swathe.theme";
const system = matchMedia("(prefers-color-scheme: dark)");

export function begin() {
  apply();
  system.addEventListener("change", apply);
}

export function theme() {
  return document.documentElement.dataset.theme;
}

export function switchTheme() {
  const next = theme() === "dark" ? "light" : "dark";
  if ((next === "dark") === system.matches) localStorage.removeItem(KEY);
  else localStorage.setItem(KEY, next);
  apply();
}

function apply() {
  document.documentElement.dataset.theme = localStorage.getItem(KEY) ?? (system.matches ? "dark" : "light");
  document.dispatchEvent(new Event("theme"));
}
