/* Where a token becomes a session. */

import { signIn } from "./api.js";
import { field, h, mark } from "./dom.js";

export function signInPage(main) {
  const token = h("input", { type: "password", name: "token", autocomplete: "current-password", spellcheck: "false", required: true, autofocus: true, placeholder: "swt_…" });
  const button = h("button", { type: "submit", class: "main" }, "Sign in");
  async function submit(event) {
    event.preventDefault();
    button.disabled = true;
    try {
      await signIn(token.value.trim());
    } catch (error) {
      mark(token, error.message);
      token.focus();
    } finally {
      button.disabled = false;
    }
  }
  main.append(
    h(
      "section",
      { class: "card signin" },
      h("h1", {}, "Sign in to Swathe"),
      h("form", { onsubmit: submit }, field("Token", token), button, h("p", { class: "note" }, "Whoever runs the server makes tokens: ", h("code", {}, "swathe token create NAME --role runner"), ".")),
    ),
  );
  token.focus();
}
