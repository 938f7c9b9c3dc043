/* Which page is shown: the address after # names it. */

import { current, may, resume, signOut } from "./api.js";
import { h } from "./dom.js";
import { jobPage, jobsPage } from "./jobs.js";
import { launchPage } from "./launch.js";
import { signInPage } from "./signin.js";
import { sweepPage } from "./sweep.js";
import { sweepsPage } from "./sweeps.js";
import { begin as beginTheme, switchTheme, theme } from "./theme.js";

const main = document.getElementById("main");
const top = document.getElementById("top");
let ends = new AbortController();
let shown = null;

function route() {
  const [path, query = ""] = location.hash.replace(/^#/, "").split("?");
  const parts = path.split("/").filter(Boolean).map(decodeURIComponent);
  return { parts, query: new URLSearchParams(query) };
}

/** Put what a page shows into its address, without opening it again. */
function renamed(query) {
  const [path] = (location.hash || "#/sweeps").split("?");
  history.replaceState(null, "", query ? `${path}?${query}` : path);
}

function show() {
  ends.abort();
  ends = new AbortController();
  main.replaceChildren();
  const { parts, query } = route();
  const [page = "sweeps", one] = parts;
  header(page);
  const { signal } = ends;
  if (!current()) {
    document.title = "Sign in – Swathe";
    signInPage(main);
    return;
  }
  document.title = [one, page === "new" ? "New sweep" : page[0].toUpperCase() + page.slice(1), "Swathe"].filter(Boolean).join(" – ");
  if (page === "sweeps" && one) sweepPage(main, one, query, renamed, signal);
  else if (page === "new" && may("runner")) launchPage(main, query, signal);
  else if (page === "jobs" && one) jobPage(main, one, signal);
  else if (page === "jobs") jobsPage(main, query, renamed, signal);
  else sweepsPage(main, query, renamed, signal);
  if (shown !== null && shown !== location.hash) main.focus();
  shown = location.hash;
}

function header(page) {
  const who = current();
  const links = [["sweeps", "Sweeps", true], ["new", "New sweep", may("runner")], ["jobs", "Jobs", true]];
  const dark = theme() === "dark";
  top.replaceChildren(
    h(
      "div",
      { class: "bar" },
      h("a", { class: "brand", href: "#/sweeps" }, h("img", { src: "/static/icon.svg", alt: "", width: 18, height: 18 }), "Swathe"),
      who ? h("nav", { "aria-label": "Pages" }, links.filter(([, , offered]) => offered).map(([name, text]) => h("a", { href: `#/${name}`, "aria-current": page === name ? "page" : null }, text)), h("a", { href: "/mlflow/", target: "_blank", rel: "noopener" }, "MLflow")) : null,
      h(
        "div",
        { class: "who" },
        who ? h("span", {}, h("b", {}, who.name), `, ${who.role}`) : null,
        h("span", { class: "fill" }),
        h("button", { type: "button", class: "plain", onclick: () => { switchTheme(); header(page); }, "aria-label": dark ? "Light colours" : "Dark colours" }, dark ? "Light" : "Dark"),
        who ? h("button", { type: "button", class: "plain", onclick: () => signOut() }, "Sign out") : null,
      ),
    ),
  );
}

document.getElementById("skip").addEventListener("click", (event) => {
  // The address names the page and not a place in it.
  event.preventDefault();
  main.focus();
});
beginTheme();
window.addEventListener("hashchange", show);
document.addEventListener("session", show);
try {
  await resume();
  show();
} catch (error) {
  main.replaceChildren(h("p", { class: "error", role: "alert" }, `${error.message} Load the page again when it runs.`));
}
