/* The table of trials: sorted, filtered, in pages; a row is chosen with its box, Enter or a click. */

import { chosenColor } from "./colors.js";
import { h, toggle, write } from "./dom.js";
import { duration, number, param, words } from "./format.js";
import { everyFrame } from "./frames.js";

const PAGE = 25;
const EVERY = 600;
const STATES = ["complete", "running", "pruned", "failed", "waiting"];
const CONDITION = /^([^<>=!]+)(<=|>=|!=|=|<|>)(.*)$/;

/** Return whether a trial holds a condition such as optim.lr<=0.01, or has a text in its reason or findings. */
export function holds(trial, text) {
  const found = CONDITION.exec(text);
  if (!found) return `${trial.number} ${trial.reason ?? ""} ${trial.symptoms.join(" ")} ${trial.worker ?? ""}`.toLowerCase().includes(text.toLowerCase());
  const [key, sign, wanted] = [found[1].trim(), found[2], found[3].trim()];
  const value = key === "value" ? trial.score : trial.params[key];
  if (value === undefined || value === null) return false;
  const same = String(value) === wanted || (wanted !== "" && Number(value) === Number(wanted));
  switch (sign) {
    case "=": return same;
    case "!=": return !same;
    case "<=": return Number(value) <= Number(wanted);
    case ">=": return Number(value) >= Number(wanted);
    case "<": return Number(value) < Number(wanted);
    default: return Number(value) > Number(wanted);
  }
}

export function table(model, metric, view, signal) {
  const filter = h("input", { type: "search", placeholder: "optim.lr<=0.01 optim=adam", "aria-label": "Filter trials", size: 26, value: view.filter ?? "", oninput: () => changed(true) });
  const state = h("select", { "aria-label": "State", onchange: () => changed(true) }, h("option", { value: "" }, "all states"), STATES.map((one) => h("option", { value: one }, one)));
  state.value = view.state ?? "";
  const total = h("span", { class: "note", role: "status" });
  const head = h("tr", {});
  const body = h("tbody", {});
  const pages = h("span", { class: "note" });
  const before = h("button", { type: "button", onclick: () => { page -= 1; dirty = true; } }, "Previous");
  const after = h("button", { type: "button", onclick: () => { page += 1; dirty = true; } }, "Next");
  const element = h(
    "section",
    { class: "card" },
    h("header", {}, h("h2", {}, "Trials"), total, h("span", { class: "fill" }), filter, state),
    h("div", { class: "scroll" }, h("table", {}, h("caption", { class: "unseen" }, "Trials"), h("thead", {}, head), body)),
    h("div", { class: "row" }, before, after, pages),
  );
  let sort = view.sort ?? "value";
  let page = 0;
  let dirty = true;
  let known = -1;
  let looked = -Infinity;
  let columns = [];
  const rows = [];

  function changed(filters = false) {
    dirty = true;
    if (filters) page = 0;
    Object.assign(view, { filter: filter.value.trim(), state: state.value, sort });
    view.changed();
  }

  function columnsOf() {
    const names = [...new Set([...Object.keys(model.space), ...model.trials.flatMap((trial) => Object.keys(trial.params))])];
    return [
      { key: "number", title: "Trial", number: true, read: (trial) => trial.number },
      { key: "state", title: "State", read: (trial) => model.stateOf(trial) },
      { key: "value", title: metric, number: true, read: (trial) => trial.score, show: (trial) => number(trial.score, 5) },
      { key: "step", title: "Step", number: true, read: (trial) => trial.steps.at(-1) ?? null, show: (trial) => String(trial.steps.at(-1) ?? "–") },
      ...names.map((name) => ({ key: name, title: name, number: model.trials.some((trial) => typeof trial.params[name] === "number"), read: (trial) => trial.params[name] ?? null, show: (trial) => (name in trial.params ? param(trial.params[name]) : "–") })),
      { key: "seconds", title: "Time", number: true, read: (trial) => (trial.ended && trial.began ? trial.ended - trial.began : null), show: (trial) => (trial.ended && trial.began ? duration(trial.ended - trial.began) : "–") },
      { key: "worker", title: "Worker", read: (trial) => trial.worker, show: (trial) => (trial.worker ? `${trial.worker}${trial.lane === null ? "" : `/${trial.lane}`}` : "–") },
      { key: "diagnosis", title: "Diagnosis and reason", wide: true, read: (trial) => trial.symptoms.join(" ") || trial.reason, show: said },
    ];
  }

  function said(trial) {
    return [trial.symptoms.map(words).join(", "), trial.reason].filter(Boolean).join("; ");
  }

  function heads() {
    const now = columnsOf();
    if (now.map((one) => one.key + one.number).join() === columns.map((one) => one.key + one.number).join() && head.children.length) {
      columns = now;
    } else {
      columns = now;
      rows.length = 0;
      body.replaceChildren();
      head.replaceChildren(h("th", { scope: "col" }, h("span", { class: "unseen" }, "Chosen")), ...columns.map((column) => h("th", { scope: "col", class: column.number ? "number" : null }, h("button", { type: "button", onclick: () => by(column.key) }))));
    }
    columns.forEach((column, at) => {
      const cell = head.children[at + 1];
      const on = sort.replace(/^-/, "") === column.key;
      const down = sort.startsWith("-");
      if (on) cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
      // A long key may be broken after each point.
      const title = column.title.replaceAll(".", ".\u200b");
      write(cell.firstChild, on ? `${title}\u00a0${down ? "↓" : "↑"}` : title);
    });
  }

  function by(key) {
    sort = sort === key ? `-${key}` : key;
    page = 0;
    changed();
  }

  function sorted() {
    const column = columns.find((one) => one.key === sort.replace(/^-/, "")) ?? columns[0];
    const sign = (sort.startsWith("-") ? -1 : 1) * (column.key === "value" && !model.minimize ? -1 : 1);
    const compare = (a, b) => {
      const [left, right] = [column.read(a), column.read(b)];
      if (left === right) return a.number - b.number;
      if (left === null || left === "") return 1;
      if (right === null || right === "") return -1;
      return sign * (typeof left === "number" && typeof right === "number" ? left - right : String(left).localeCompare(String(right)));
    };
    return model.trials.filter((trial) => model.isKept(trial) && (!state.value || model.stateOf(trial) === state.value)).sort(compare);
  }

  function refilter() {
    const conditions = filter.value.trim().split(/\s+/).filter(Boolean);
    model.keep("table", conditions.length ? new Set(model.trials.filter((trial) => conditions.every((text) => holds(trial, text))).map((trial) => trial.number)) : null);
  }

  function show() {
    refilter();
    heads();
    const found = sorted();
    const many = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.max(0, Math.min(page, many - 1));
    const shown = found.slice(page * PAGE, (page + 1) * PAGE);
    shown.forEach((trial, at) => fillRow((rows[at] ??= newRow()), trial));
    while (rows.length > shown.length) rows.pop().row.remove();
    write(total, found.length === model.trials.length ? `${found.length}` : `${found.length} of ${model.trials.length}`);
    write(pages, many > 1 ? `Page ${page + 1} of ${many}` : "");
    before.disabled = page === 0;
    after.disabled = page >= many - 1;
    before.classList.toggle("hidden", many === 1);
    after.classList.toggle("hidden", many === 1);
  }

  function newRow() {
    const made = { trial: null };
    made.box = h("input", { type: "checkbox", onchange: () => model.choose(made.trial.number, made.box.checked) });
    made.swatch = h("span", { class: "swatch" });
    made.pill = h("span", { class: "pill" });
    made.cells = columns.map((column) => h("td", { class: [column.number ? "number" : "", column.wide ? "wide" : ""].join(" ").trim() || null }));
    made.cells[1].append(made.pill);
    made.row = h(
      "tr",
      {
        onclick: (event) => { if (!["INPUT", "A", "BUTTON"].includes(event.target.tagName)) model.choose(made.trial.number); },
        onpointerenter: () => model.hover(made.trial.number),
        onpointerleave: () => model.hover(null),
      },
      h("td", {}, h("span", { class: "row" }, made.box, made.swatch)),
      made.cells,
    );
    made.box.addEventListener("focus", () => model.hover(made.trial.number));
    body.append(made.row);
    return made;
  }

  function fillRow(made, trial) {
    made.trial = trial;
    const chosen = [...model.chosen].indexOf(trial.number);
    made.box.checked = chosen >= 0;
    made.box.setAttribute("aria-label", `Choose trial ${trial.number}`);
    made.swatch.style.background = chosen >= 0 ? chosenColor(chosen) : "transparent";
    toggle(made.row, "chosen", chosen >= 0);
    columns.forEach((column, at) => {
      if (column.key === "state") {
        const now = model.stateOf(trial);
        made.pill.className = `pill ${now}`;
        write(made.pill, now);
      } else write(made.cells[at], String((column.show ?? column.read)(trial) ?? "–"));
    });
  }

  function tick(now) {
    if (!element.isConnected) return;
    if (!dirty && (known === model.version || now - looked < EVERY)) return;
    dirty = false;
    [known, looked] = [model.version, now];
    show();
  }

  for (const what of ["chosen", "kept"]) model.addEventListener(what, () => { dirty = true; });
  document.addEventListener("theme", () => { dirty = true; }, { signal });
  everyFrame(tick, signal);
  return element;
}
