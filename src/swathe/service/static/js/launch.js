/* A new sweep: a form made from the catalog, the YAML that it makes, and what the server says of it as one types. */

import { at, get, idempotencyKey, current, post } from "./api.js";
import { copy, field, h, mark, say, write } from "./dom.js";
import { count } from "./format.js";
import { format, parse } from "./space.js";
import { typed, write as yaml } from "./yaml.js";

// The groups that most sweeps choose from come first; the others are folded.
const COMMON = ["model", "data", "optim", "schedule", "sampler", "pruner"];
const DEFAULTS = { model: "mlp", data: "digits", optim: "adamw", schedule: "constant", regularization: "none", augmentation: "none", transfer: "none", cluster: "local", sampler: "tpe", pruner: "asha" };
const KINDS = [["log", "log"], ["interval", "interval"], ["choice", "choice"], ["range", "range"], ["other", "expression"]];
const QUIET = 700;

export async function launchPage(main, query, signal) {
  main.append(h("h1", {}, "New sweep"));
  let catalog;
  let names;
  try {
    [catalog, names] = await Promise.all([get("/catalog", { signal }), get("/sweeps?limit=200", { signal }).then((page) => page.sweeps.map((sweep) => sweep.name))]);
  } catch (error) {
    if (error.name !== "AbortError") main.append(h("p", { class: "error", role: "alert" }, error.message));
    return;
  }
  form(main, catalog, new Set(names), query, signal);
}

function form(main, catalog, taken, query, signal) {
  const from = h("select", { onchange: () => start(from.value) }, h("option", { value: "" }, "groups, from nothing"), catalog.sweeps.map((sweep) => h("option", { value: sweep.name }, sweep.name)));
  const about = h("p", { class: "note" });
  const text = (key, options = {}) => h("input", { "data-key": key, spellcheck: "false", autocomplete: "off", ...options, oninput: changed });
  const name = text("sweep.name", { required: true, maxlength: 100 });
  const metric = text("sweep.metric", { title: "The name of a reported metric, or several with commas" });
  const direction = h("select", { "data-key": "sweep.direction", onchange: changed });
  const trials = text("sweep.trials", { type: "number", min: 1, step: 1 });
  const epochs = text("epochs", { type: "number", min: 1, step: 1 });
  const workers = text("cluster.workers", { type: "number", min: 1, step: 1, placeholder: "all" });
  const priority = text("priority", { type: "number", min: -100, max: current().role === "admin" ? 100 : 0, step: 1, value: "0" });
  const groups = Object.fromEntries(Object.entries(catalog.groups).map(([group, options]) => [group, groupField(group, options)]));
  const rare = Object.keys(groups).filter((group) => !COMMON.includes(group));
  const keys = h("datalist", { id: "keys" });
  const searches = h("div", { class: "searches" });
  const settings = h("textarea", { "data-key": "settings", rows: 4, spellcheck: "false", placeholder: "model.hidden=[128, 64]\nregularization.patience=5", oninput: changed });
  const overrides = h("textarea", { "data-key": "overrides", rows: 2, spellcheck: "false", placeholder: "epochs=30", oninput: changed });
  const made = h("pre", { tabindex: "0", "aria-label": "The YAML of this sweep" });
  const verdict = h("p", { role: "status", class: "note" }, "Not checked yet.");
  const launch = h("button", { type: "submit", class: "main" }, "Launch");
  const space = h("ul", { class: "note" });
  let defaults = ["_self_"];
  let rest = {};
  let rows = [];
  let timer = null;
  let checking = null;
  // One key for one sweep as it is in the form: pressing twice launches once.
  let idempotency = idempotencyKey();

  const element = h(
    "form",
    { class: "form", novalidate: true, onsubmit: submit },
    h(
      "div",
      { class: "stack" },
      h("section", { class: "card stack" }, field("Start from", from), about, h("div", { class: "grid" }, field("Name", name), field("Trials", trials), field("Epochs", epochs), field("Metric", metric), field("Direction", direction), field("Workers", workers), field("Priority", priority))),
      h("section", { class: "card" }, h("fieldset", {}, h("legend", {}, "What is trained"), h("div", { class: "grid" }, COMMON.filter((group) => groups[group]).map((group) => groups[group].box)), h("details", {}, h("summary", { class: "note" }, `More groups: ${rare.join(", ")}`), h("div", { class: "grid" }, rare.map((group) => groups[group].box))))),
      h("section", { class: "card" }, h("fieldset", {}, h("legend", {}, "What is searched"), searches, h("button", { type: "button", onclick: () => { add({}).key.focus(); changed(); } }, "Add a parameter"), keys)),
      h("section", { class: "card stack" }, field("Settings that all trials have, one KEY=VALUE a line", settings), field("Overrides in Hydra's grammar, one a line", overrides)),
    ),
    h("div", { class: "stack sticky" }, h("section", { class: "card" }, h("header", {}, h("h2", {}, "Check"), h("span", { class: "fill" }), launch), verdict, space), h("section", { class: "card" }, h("header", {}, h("h2", {}, "YAML"), h("span", { class: "fill" }), h("button", { type: "button", onclick: () => copy(made.textContent) }, "Copy")), made)),
  );
  main.append(element);
  signal.addEventListener("abort", () => { clearTimeout(timer); checking?.abort(); }, { once: true });

  function groupField(group, options) {
    const select = h("select", { "data-key": group, onchange: () => { titled(); changed(); } }, options.map((one) => h("option", { value: one.option }, one.option)));
    select.value = options.some((one) => one.option === DEFAULTS[group]) ? DEFAULTS[group] : (options[0]?.option ?? "");
    function titled() {
      select.title = options.find((one) => one.option === select.value)?.title ?? "";
    }
    titled();
    return { select, box: field(group, select), titled };
  }

  /** Fill the form with a ready sweep, or with a first guess. */
  function start(source) {
    const ready = catalog.sweeps.find((sweep) => sweep.name === source);
    const config = ready?.config ?? { sweep: { trials: 40, space: { "optim.lr": "tag(log, interval(1e-4, 1.0))" } } };
    write(about, ready?.title ?? "");
    for (const [group, { select, titled }] of Object.entries(groups)) {
      select.value = DEFAULTS[group] ?? select.value;
      titled();
    }
    // What is no group (another sweep that this one builds on) stays as it is.
    defaults = [];
    for (const entry of config.defaults ?? ["_self_"]) {
      const [[key, option]] = typeof entry === "object" ? Object.entries(entry) : [[null, null]];
      const group = key?.replace(/^(override )?\//, "");
      if (group in groups) groups[group].select.value = option;
      else defaults.push(entry);
    }
    for (const { titled } of Object.values(groups)) titled();
    const { sweep = {}, epochs: many, defaults: _, ...others } = config;
    const { name: __, metric: measured, direction: way, trials: budget, space: searched = {}, when = {}, ...options } = sweep;
    name.value = free(ready?.name ?? "sweep");
    metric.value = [measured ?? "val_loss"].flat().join(", ");
    ways();
    direction.value = [way ?? "minimize"].flat().join(", ");
    // Several objectives have no pruner that the sweep does not name.
    if (Array.isArray(measured) && !(config.defaults ?? []).some((entry) => typeof entry === "object" && Object.keys(entry).some((one) => one.endsWith("pruner")))) groups.pruner.select.value = "none";
    trials.value = budget ?? 100;
    epochs.value = many ?? "";
    workers.value = others.cluster?.workers ?? "";
    if (others.cluster) delete others.cluster.workers;
    rest = {};
    settings.value = [...flat(others), ...flat(options, "sweep.")].map(([key, value]) => `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`).join("\n");
    rows.forEach((row) => row.element.remove());
    rows = [];
    for (const [key, search] of Object.entries(searched)) add({ key, ...parse(search) });
    for (const [condition, under] of Object.entries(when)) {
      for (const [key, search] of Object.entries(under)) {
        if (typeof search === "object") (rest[condition] ??= {})[key] = search;
        else add({ key, when: condition, ...parse(search) });
      }
    }
    changed();
  }

  function metrics() {
    return metric.value.split(",").map((one) => one.trim()).filter(Boolean);
  }

  /** Offer every combination of directions for as many metrics as there are. */
  function ways() {
    const many = Math.max(1, Math.min(4, metrics().length));
    if (direction.options.length === 2 ** many) return;
    const known = direction.value;
    let found = [""];
    for (let at = 0; at < many; at += 1) found = found.flatMap((before) => ["minimize", "maximize"].map((one) => (before ? `${before}, ${one}` : one)));
    direction.replaceChildren(...found.map((one) => h("option", {}, one)));
    direction.value = found.find((one) => one.startsWith(known)) ?? found[0];
  }

  function free(wanted) {
    if (!taken.has(wanted)) return wanted;
    let number = 2;
    while (taken.has(`${wanted}-${number}`)) number += 1;
    return `${wanted}-${number}`;
  }

  function add({ key = "", kind = "log", low = "", high = "", step = "", choices = [], text: written = "", when = "" }) {
    const row = {};
    const input = (label, value, options = {}) => h("input", { "aria-label": label, value, spellcheck: "false", autocomplete: "off", oninput: changed, ...options });
    row.key = h("input", { value: key, list: "keys", spellcheck: "false", autocomplete: "off", oninput: changed });
    row.kind = h("select", { onchange: () => { bounds(); changed(); } }, KINDS.map(([value, shown]) => h("option", { value }, shown)));
    row.kind.value = kind;
    row.low = input("from", low);
    row.high = input("to", high);
    row.step = input("step", step, { placeholder: "1" });
    row.choices = input("options", choices.join(", "));
    row.text = input("expression", written);
    row.when = input("only when", when, { placeholder: "optim=momentum" });
    row.bounds = h("div", { class: "bounds" });
    const keyBox = field("Key", row.key);
    const wrong = keyBox.lastChild;
    wrong.remove();
    row.element = h("div", { class: "search" }, keyBox, field("Kind", row.kind), row.bounds, field("Only when", row.when, { className: "when" }), h("button", { type: "button", class: "plain", "aria-label": "Remove this parameter", onclick: () => { rows = rows.filter((one) => one !== row); row.element.remove(); changed(); } }, "×"), wrong);
    function bounds() {
      const shown = { log: [["From", row.low], ["To", row.high]], interval: [["From", row.low], ["To", row.high]], range: [["From", row.low], ["Below", row.high], ["Step", row.step]], choice: [["Options", row.choices]], other: [["Expression", row.text]] };
      row.bounds.replaceChildren(...shown[row.kind.value].map(([label, element]) => field(label, element)));
    }
    bounds();
    rows.push(row);
    searches.append(row.element);
    return row;
  }

  function searchOf(row) {
    return format({ kind: row.kind.value, low: row.low.value.trim(), high: row.high.value.trim(), step: row.step.value.trim(), choices: [row.choices.value.trim()], text: row.text.value.trim() });
  }

  /** Return the sweep that the form says. */
  function config() {
    const chosen = Object.entries(groups).filter(([group, { select }]) => COMMON.includes(group) || select.value !== DEFAULTS[group]);
    const self = defaults.includes("_self_") ? defaults : [...defaults, "_self_"];
    const made = { defaults: [...chosen.map(([group, { select }]) => ({ [`/${group}`]: select.value })), ...self] };
    const whole = (input) => (input.value.trim() === "" ? null : typed(input.value));
    for (const line of lines(settings)) {
      const [key, ...value] = line.split("=");
      put(made, key.trim().split("."), typed(value.join("=")));
    }
    if (whole(epochs) !== null) made.epochs = whole(epochs);
    if (whole(workers) !== null) put(made, ["cluster", "workers"], whole(workers));
    const searched = {};
    const when = structuredClone(rest);
    for (const row of rows.filter((one) => one.key.value.trim())) {
      const condition = row.when.value.trim();
      if (condition) (when[condition] ??= {})[row.key.value.trim()] = searchOf(row);
      else searched[row.key.value.trim()] = searchOf(row);
    }
    ways();
    const several = metrics().length > 1;
    const goal = { direction: several ? direction.value.split(", ") : direction.value, metric: several ? metrics() : metric.value.trim() };
    made.sweep = { ...made.sweep, name: name.value.trim(), ...goal, ...(whole(trials) === null ? {} : { trials: whole(trials) }), space: searched };
    if (Object.keys(when).length) made.sweep.when = when;
    return made;
  }

  function lines(area) {
    return area.value.split("\n").map((line) => line.trim()).filter(Boolean);
  }

  function changed() {
    idempotency = idempotencyKey();
    made.textContent = yaml(config());
    hints();
    clearTimeout(timer);
    write(verdict, "Checking …");
    verdict.className = "note";
    timer = setTimeout(check, QUIET);
  }

  /** Offer the keys of the chosen options. */
  function hints() {
    const found = Object.keys(catalog.keys);
    for (const [group, { select }] of Object.entries(groups)) {
      found.push(group);
      const option = catalog.groups[group].find((one) => one.option === select.value);
      found.push(...Object.keys(option?.keys ?? {}).map((key) => `${group}.${key}`));
    }
    const shown = found.join();
    if (keys.dataset.shown === shown) return;
    keys.dataset.shown = shown;
    keys.replaceChildren(...found.map((key) => h("option", { value: key })));
  }

  async function check() {
    checking?.abort();
    if (unnamed()) return;
    checking = new AbortController();
    const { signal: own } = checking;
    const asked = made.textContent;
    try {
      const found = await post("/validate", { yaml: asked, overrides: lines(overrides) }, { signal: own });
      if (asked !== made.textContent) return;
      refuse(null);
      write(verdict, `This sweep can be launched: ${count(found.trials, "trial")} over ${count(found.space.length, "parameter")}.`);
      space.replaceChildren(...found.space.map((one) => h("li", {}, `${one.name}: ${one.distribution}${one.when === "always" ? "" : `, when ${one.when}`}`)));
    } catch (error) {
      if (error.name === "AbortError" || asked !== made.textContent) return;
      if (error.status === 429) {
        write(verdict, error.message);
        timer = setTimeout(check, 2000);
        return;
      }
      refuse(error.message);
    }
  }

  /** Show what the server refuses next to the field that it names, or above all. */
  function refuse(sentence) {
    const fields = [...element.querySelectorAll("[data-key]"), ...rows.map((row) => row.key)];
    for (const one of fields) mark(one, null);
    if (sentence === null) {
      verdict.className = "note";
      return;
    }
    space.replaceChildren();
    // Where a key stands in a file of the server's own making is of no use to anybody.
    const said = sentence.replace(/^[^\s:]*sweep\.yaml: /, "");
    const head = said.split(/ is not allowed|; allowed/)[0];
    const keyOf = (one) => one.dataset.key ?? one.value.trim();
    const named = fields.filter((one) => keyOf(one) && mentions(head, keyOf(one))).sort((a, b) => keyOf(b).length - keyOf(a).length)[0];
    if (named) mark(named, said);
    write(verdict, named ? "This sweep cannot be launched yet; the field says why." : said);
    verdict.className = "wrong";
  }

  function mentions(text, key) {
    const escaped = key.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    return new RegExp(`(^|[^\\w.]|sweep\\.space\\.|sweep\\.when\\.[^ ]*)${escaped}($|[^\\w.])`).test(text);
  }

  /** The command line takes the file's name where there is none, and here is no file. */
  function unnamed() {
    if (name.value.trim()) return false;
    refuse("sweep.name: it is missing; allowed: letters, digits, '.', '_' and '-', at most 100.");
    return true;
  }

  async function submit(event) {
    event.preventDefault();
    if (unnamed()) return;
    launch.disabled = true;
    // The launch checks it, too.
    clearTimeout(timer);
    checking?.abort();
    write(verdict, "Launching …");
    verdict.className = "note";
    try {
      const job = await post("/sweeps", { yaml: made.textContent, overrides: lines(overrides), priority: priority.valueAsNumber || 0 }, { headers: { "Idempotency-Key": idempotency } });
      say(`Sweep ${job.sweep} is launched.`);
      location.hash = `#/sweeps/${at(job.sweep)}`;
    } catch (error) {
      refuse(error.message);
      say(error.message);
    } finally {
      launch.disabled = false;
    }
  }

  from.value = catalog.sweeps.some((sweep) => sweep.name === query.get("from")) ? query.get("from") : catalog.sweeps.some((sweep) => sweep.name === "quickstart") ? "quickstart" : "";
  start(from.value);
}

/** Return the leaves of a config by their dotted keys. */
function flat(values, prefix = "") {
  return Object.entries(values).flatMap(([key, value]) => (value !== null && typeof value === "object" && !Array.isArray(value) && Object.keys(value).length ? flat(value, `${prefix}${key}.`) : [[`${prefix}${key}`, value]]));
}

function put(values, [key, ...more], value) {
  if (more.length === 0) values[key] = value;
  else {
    if (values[key] === null || typeof values[key] !== "object") values[key] = {};
    put(values[key], more, value);
  }
}
