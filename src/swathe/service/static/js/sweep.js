/* The page of one sweep. */

import { actions, comparing } from "./actions.js";
import { at, get, poll } from "./api.js";
import { curves } from "./curves.js";
import { copy, fill, h, meter, pill, say, write } from "./dom.js";
import { driverOf, duration, eta, moment, number, over, param, share, stateOf, words } from "./format.js";
import { lanes } from "./lanes.js";
import { Model } from "./model.js";
import { parallel } from "./parallel.js";
import { follow } from "./stream.js";
import { table } from "./table.js";
import { tradeoffs } from "./tradeoffs.js";

const BAR = ["complete", "pruned", "failed", "running"];

/** Show a sweep. `view` is what the address says of it; `renamed` puts that there. */
export async function sweepPage(main, name, query, renamed, signal) {
  const title = h("h1", {}, name);
  const failed = h("p", { class: "error hidden", role: "alert" });
  main.append(h("div", { class: "head" }, h("a", { href: "#/sweeps" }, "Sweeps"), title), failed);
  let first;
  for (;;) {
    try {
      first = await get(`/sweeps/${at(name)}`, { signal });
      break;
    } catch (error) {
      if (error.name === "AbortError") return;
      failed.textContent = error.message;
      failed.classList.remove("hidden");
      if (error.status !== 0 && error.status !== 503 && error.status !== 429) return;
      await new Promise((resolve) => setTimeout(resolve, 2000));
      if (signal.aborted) return;
    }
  }
  failed.classList.add("hidden");
  const model = new Model(first);
  const own = new AbortController();
  signal.addEventListener("abort", () => own.abort(), { once: true });
  // A sweep that waits for its first start has no trials, no events and no space yet.
  const waits = first.last_event_id === null;
  const page = parts(name, first, model, query, renamed, own.signal);
  main.replaceChildren(...(waits ? [page.elements[0], h("p", { class: "card empty" }, "Its trials are shown here as soon as it runs.")] : page.elements), failed);
  page.show(first);

  const again = async () => {
    const sweep = await get(`/sweeps/${at(name)}`, { signal: own.signal });
    if (waits && sweep.last_event_id !== null) {
      own.abort();
      main.replaceChildren();
      sweepPage(main, name, query, renamed, signal);
    } else page.show(sweep);
  };
  page.again = again;
  const refused = (error) => {
    failed.classList.toggle("hidden", error === null);
    if (error) write(failed, error.message);
  };
  poll(2, again, own.signal, refused);
  if (waits) return;
  const take = (kind, data) => {
    model.take(kind, data);
    if (kind === "status") page.status(data);
  };
  follow(name, take, page.connected, own.signal);
}

function parts(name, first, model, query, renamed, signal) {
  const metric = first.metric || "value";
  const state = h("span", { role: "status" });
  const link = h("span", { class: "note" });
  const facts = h("dl", { class: "facts" });
  const bar = meter(BAR.map((one) => [one, 0]), "Progress");
  const page = { again: async () => {} };
  const buttons = actions(name, model, () => page.again(), signal);
  const compared = comparing(name, model, signal);
  const findings = h("div", { class: "row" });
  const best = bestCard(name, model, metric);
  const several = (first.metrics ?? []).length > 1;
  const front = several ? tradeoffs(name, model, first, signal) : null;
  const matters = importanceCard(name, model, signal);
  const view = { filter: query.get("filter"), state: query.get("state"), sort: query.get("sort"), changed: address };
  model.chooseOnly((query.get("trials") ?? "").split(",").filter(Boolean).map(Number).filter((one) => Number.isInteger(one) && one >= 0));

  function address() {
    const said = new URLSearchParams();
    for (const key of ["filter", "state", "sort"]) if (view[key] && !(key === "sort" && view[key] === "value")) said.set(key, view[key]);
    if (model.chosen.size) said.set("trials", [...model.chosen].join(","));
    renamed(said.toString().replaceAll("%2C", ","));
  }
  model.addEventListener("chosen", address);

  const summary = h(
    "section",
    { class: "card stack" },
    h("div", { class: "head" }, h("h1", {}, name), state, link, h("span", { class: "fill" }), buttons.element),
    bar,
    facts,
    findings,
    buttons.outcome,
    compared,
  );

  let shown = "";
  Object.assign(page, {
    elements: [
      summary,
      ...(front ? [front.element] : []),
      h("div", { class: "columns" }, curves(model, metric, signal), h("div", { class: "stack" }, best.element, matters)),
      parallel(model, metric, signal),
      lanes(model, signal),
      table(model, metric, view, signal),
    ],
    show(sweep) {
      const now = stateOf(sweep);
      if (shown && shown !== now) say(`Sweep ${name}: ${now}.`);
      if (shown !== now) state.replaceChildren(pill(now));
      shown = now;
      const counts = sweep.counts ?? {};
      fill(bar, BAR.map((one) => [one, (counts[one] ?? 0) / (sweep.trials || 1)]));
      bar.setAttribute("aria-label", `${over(counts)} of ${sweep.trials} trials are over`);
      factsOf(facts, sweep, metric);
      write(link, link.dataset.broken ?? "");
      findingsOf(findings, sweep, model, (text) => filterTo(text));
      buttons.show(sweep);
      best.show(sweep);
      front?.show(sweep);
    },
    status(said) {
      if (!said.alive && said.ended) page.again().catch(() => {});
    },
    connected(is, sentence) {
      link.dataset.broken = is ? "" : sentence;
      write(link, is ? "" : sentence);
    },
  });

  function filterTo(text) {
    const field = document.querySelector("input[aria-label='Filter trials']");
    field.value = text;
    field.dispatchEvent(new Event("input"));
    field.focus();
  }

  return page;
}

function factsOf(list, sweep, metric) {
  const counts = sweep.counts ?? {};
  const done = over(counts);
  const job = driverOf(sweep);
  const said = [
    ["Trials over", `${done} of ${sweep.trials}`, ["complete", "pruned", "failed"].filter((one) => counts[one]).map((one) => `${counts[one]} ${one}`).join(", ")],
    [`Best ${metric}`, number(sweep.best?.value, 5), sweep.best ? `trial ${sweep.best.trial}` : ""],
    ...((sweep.metrics ?? []).length > 1 ? [["On the front", String(sweep.front?.length ?? 0), ""]] : []),
    ...(sweep.feasible !== null && sweep.feasible !== undefined ? [["Keep the constraints", String(sweep.feasible), `of ${counts.complete ?? 0} complete`]] : []),
    ["Left", duration(eta(sweep)), ""],
    ["Owner", sweep.owner ?? sweep.job?.owner ?? "–", ""],
    ["Devices", (sweep.alive ? job?.devices : null) ?? "–", ""],
    ["Launched", moment(sweep.created), ""],
  ];
  if (job?.state === "queued") said.splice(2, 1, ["In the queue", job.position ?? "–", `priority ${job.priority}`]);
  while (list.children.length > said.length) list.lastChild.remove();
  said.forEach(([name, value, more], at) => {
    const item = list.children[at] ?? list.appendChild(h("div", {}, h("dt"), h("dd", {}, h("span"), " ", h("small"))));
    write(item.firstChild, name);
    write(item.lastChild.firstChild, String(value));
    write(item.lastChild.lastChild, more);
  });
}

/** Show what is wrong: the symptoms of trials and why trials failed; each shows its trials in the table. */
function findingsOf(box, sweep, model, filter) {
  const symptoms = Object.entries(sweep.diagnosis ?? {}).map(([symptom, count]) => [words(symptom), count, symptom]);
  const key = JSON.stringify([symptoms, sweep.failures, sweep.status, driverOf(sweep)?.detail]);
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  const chips = symptoms.map(([text, count, symptom]) => h("button", { type: "button", class: "plain", onclick: () => filter(symptom) }, h("span", { class: "tag" }, `${text}: ${count}`)));
  const failures = (sweep.failures ?? []).slice(0, 3).map(({ reason, trials }) => h("span", { class: "note" }, `${trials} failed: ${reason}`));
  const detail = driverOf(sweep)?.detail ?? (sweep.alive ? "" : sweep.status);
  box.replaceChildren(...(detail ? [h("span", { class: "note" }, detail)] : []), ...chips, ...failures);
  box.classList.toggle("hidden", box.children.length === 0);
}

function bestCard(name, model, metric) {
  const body = h("div", {}, h("p", { class: "note" }, "No trial is complete yet."));
  let known = null;

  async function show(sweep) {
    // With constraints or several objectives the server says which trial it is.
    const said = Object.keys(sweep.constraints ?? {}).length || (sweep.metrics ?? []).length > 1;
    const best = said ? model.trials[sweep.best?.trial] ?? null : model.best;
    if (best === null || best === known) return;
    known = best;
    const command = `swathe reproduce ${name} --trial ${best.number}`;
    const config = h("pre", {}, "…");
    const whole = h("details", { ontoggle: () => whole.open && load(config) }, h("summary", {}, "The whole config"), config);
    body.replaceChildren(
      h("dl", { class: "facts" }, h("div", {}, h("dt", {}, `Trial ${best.number}, ${metric}`), h("dd", {}, number(best.value, 6)))),
      h("div", { class: "copy" }, h("code", {}, command), h("button", { type: "button", "aria-label": `Copy: ${command}`, onclick: () => copy(command) }, "Copy")),
      h("dl", { class: "keys" }, Object.entries(best.params).flatMap(([key, value]) => [h("dt", {}, key), h("dd", { class: "mono" }, param(value))])),
      whole,
    );
  }

  async function load(place) {
    try {
      const found = await get(`/sweeps/${at(name)}/best`);
      place.textContent = JSON.stringify(found.config, null, 2);
    } catch (error) {
      place.textContent = error.message;
    }
  }

  return { element: h("section", { class: "card", id: "best" }, h("header", {}, h("h2", {}, "Best config")), body), show };
}

function importanceCard(name, model, signal) {
  const rows = h("tbody");
  const note = h("p", { class: "note" }, "Known once four trials are complete.");
  let asked = -1;
  let next = 0;
  let shown = "";

  async function look() {
    if (model.counts.complete < 4 || asked === model.counts.complete || performance.now() < next) return;
    asked = model.counts.complete;
    next = performance.now() + 5000;
    const found = await get(`/sweeps/${at(name)}/importance`, { signal });
    const shares = Object.entries(found.importance);
    if (shares.length === 0 || JSON.stringify(shares) === shown) return;
    shown = JSON.stringify(shares);
    const most = Math.max(...shares.map(([, part]) => part)) || 1;
    rows.replaceChildren(...shares.map(([key, part]) => h("tr", {}, h("td", {}, key), h("td", {}, meter([["", part / most]], share(part))), h("td", { class: "number" }, share(part)))));
    write(note, "Of the metric's spread among complete trials, by PED-ANOVA.");
  }

  poll(1, look, signal);
  return h("section", { class: "card" }, h("header", {}, h("h2", {}, "What matters")), h("table", { class: "bars" }, h("caption", { class: "unseen" }, "Importance of each parameter"), h("thead", { class: "unseen" }, h("tr", {}, h("th", { scope: "col" }, "Parameter"), h("th", { scope: "col" }, "Bar"), h("th", { scope: "col" }, "Share"))), rows), note);
}
