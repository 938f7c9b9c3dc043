/* What can be done to a sweep: stop, resume, its priority, a report, a reproduction; each for those who may. */

import { at, call, current, follow, get, may, post, request } from "./api.js";
import { h, say, write } from "./dom.js";
import { driverOf, stateOf } from "./format.js";

/** Return the buttons of a sweep's page; `show` is called with what is known of it, `again` asks for that at once. */
export function actions(name, model, again, signal) {
  const outcome = h("p", { class: "note", role: "status" });
  const stop = h("button", { type: "button", class: "danger", onclick: () => act(stop, stopIt) }, "Stop");
  const resume = h("button", { type: "button", onclick: () => act(resume, resumeIt) }, "Resume");
  const report = h("button", { type: "button", onclick: () => act(report, reportIt) }, "Make report");
  const reproduce = h("button", { type: "button", onclick: () => act(reproduce, reproduceIt) }, "Reproduce best");
  const priority = h("button", { type: "button", onclick: () => askPriority() }, "Priority");
  const link = h("a", { class: "button hidden", href: `/api/v1/sweeps/${at(name)}/report`, target: "_blank", rel: "noopener" }, "Report");
  const optuna = h("a", { class: "button", href: `/optuna/${at(name)}/`, target: "_blank", rel: "noopener" }, "Optuna");
  const buttons = [stop, resume, priority, report, reproduce];
  const busy = new Set();
  let sweep = null;

  async function act(button, does) {
    busy.add(button);
    show(sweep);
    try {
      await does();
    } catch (error) {
      if (error.name !== "AbortError") tell(error.message);
    } finally {
      busy.delete(button);
      if (!signal.aborted) show(sweep);
    }
  }

  function tell(sentence, job = null) {
    outcome.replaceChildren(sentence, job ? " " : "", job ? h("a", { href: `#/jobs/${at(job.id)}` }, "Its log") : "");
  }

  async function stopIt() {
    say((await post(`/sweeps/${at(name)}/stop`)).detail);
    await again();
  }

  async function resumeIt() {
    await post(`/sweeps/${at(name)}/resume`, { overrides: [], priority: 0 });
    say(`Sweep ${name} goes on as soon as there is room.`);
    await again();
  }

  async function reportIt() {
    await finished(await post(`/sweeps/${at(name)}/report`, {}));
  }

  async function reproduceIt() {
    const trials = [...model.chosen];
    await finished(await post(`/sweeps/${at(name)}/reproduce`, { trials, priority: 0 }));
  }

  /** Say how a report or a reproduction goes on, and what came of it. */
  async function finished(job) {
    const what = job.kind === "report" ? "The report" : "The reproduction";
    const end = await follow(job, (now) => tell(`${what}: ${now.state}${now.detail ? `. ${now.detail}` : "."}`, now), signal);
    if (end.state === "done" && end.kind === "report") link.classList.remove("hidden");
    const said = end.state === "done" ? verdicts(end).join(", ") || "done" : end.detail || end.state;
    tell(`${what}: ${said.replace(/\.$/, "")}.`, end);
    if (job.state !== end.state) say(`${what}: ${said}.`);
  }

  function askPriority() {
    const most = current().role === "admin" ? 100 : 0;
    const input = h("input", { type: "number", min: -100, max: most, step: 1, value: String(sweep?.job?.priority ?? 0), id: "priority" });
    const wrong = h("p", { class: "wrong", role: "alert" });
    const dialog = h(
      "dialog",
      { "aria-labelledby": "priority-title" },
      h(
        "form",
        {
          onsubmit: async (event) => {
            event.preventDefault();
            try {
              await call("PUT", `/sweeps/${at(name)}/priority`, { priority: input.valueAsNumber });
              dialog.close();
              await again();
            } catch (error) {
              write(wrong, error.message);
            }
          },
        },
        h("h2", { id: "priority-title" }, `Priority of ${name}`),
        h("div", { class: "field" }, h("label", { for: "priority" }, `From -100 to ${most}; higher ones start first`), input, wrong),
        h("div", { class: "row" }, h("button", { type: "submit", class: "main" }, "Set"), h("button", { type: "button", onclick: () => dialog.close() }, "Cancel")),
      ),
    );
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
  }

  function show(known) {
    if (known === null) return;
    // What was begun from another page, or before this one was loaded.
    if (sweep === null && ["report", "reproduce"].includes(known.job?.kind)) takeUp(known.job);
    sweep = known;
    const state = stateOf(known);
    const queued = state === "queued";
    const active = queued || known.alive || ["starting", "running", "stopping"].includes(driverOf(known)?.state);
    // What a role may not do is not offered.
    const offered = new Map([
      [stop, active && state !== "stopping"],
      [resume, !active],
      [priority, queued],
      [report, !queued && over(known)],
      [reproduce, !queued && (model.best !== null || model.chosen.size > 0)],
    ]);
    for (const button of buttons) {
      button.classList.toggle("hidden", !may("runner") || !(offered.get(button) || busy.has(button)));
      button.disabled = busy.has(button);
    }
    write(reproduce, model.chosen.size ? `Reproduce ${model.chosen.size} chosen` : "Reproduce best");
  }

  function takeUp(job) {
    const button = job.kind === "report" ? report : reproduce;
    act(button, async () => finished(await get(`/jobs/${at(job.id)}`, { signal })));
  }

  function over(known) {
    return (known.counts?.complete ?? 0) + (known.counts?.pruned ?? 0) > 0;
  }

  /** Look whether there is a report already; its text is not read. */
  async function look() {
    const ends = new AbortController();
    try {
      await request("GET", `/sweeps/${at(name)}/report`, undefined, { signal: ends.signal });
      link.classList.remove("hidden");
    } catch {
      // There is none yet.
    } finally {
      ends.abort();
    }
  }

  look();
  model.addEventListener("chosen", () => show(sweep));
  return { element: h("div", { class: "row" }, link, optuna, buttons), outcome, show };
}

/** Return what a reproduction has found, trial by trial; nothing for other jobs. */
export function verdicts(job) {
  if (job.kind !== "reproduce" || !Array.isArray(job.result)) return [];
  return job.result.map(({ trial, identical, good }) => `trial ${trial} ${identical ? "identical, bit for bit" : good ? "the same up to rounding" : "different"}`);
}

/** Return the link that compares trials in MLflow, which grows with what is chosen. */
export function comparing(name, model, signal) {
  const list = h("span", { class: "chosen-list" });
  const link = h("a", { class: "button hidden", target: "_blank", rel: "noopener" }, "Compare in MLflow");
  const none = h("button", { type: "button", class: "plain", onclick: () => model.chooseOnly([]) }, "Choose none");
  const note = h("span", { class: "note", role: "status" });
  const element = h("div", { class: "row hidden" }, h("span", { class: "note" }, "Chosen trials:"), list, link, none, note);
  const runs = new Map();
  let timer = null;

  function changed() {
    const chosen = [...model.chosen];
    element.classList.toggle("hidden", chosen.length === 0);
    list.replaceChildren(...chosen.slice(0, 20).map((number) => h("button", { type: "button", title: "Choose it no more", "aria-label": `Trial ${number}: choose it no more`, onclick: () => model.choose(number, false) }, `${number} ×`)), chosen.length > 20 ? `and ${chosen.length - 20} more` : "");
    clearTimeout(timer);
    timer = setTimeout(connect, 150);
  }

  async function connect() {
    const chosen = [...model.chosen].slice(0, 50);
    try {
      for (const number of chosen) {
        if (!runs.has(number)) {
          const trial = await get(`/sweeps/${at(name)}/trials/${number}`, { signal });
          if (trial.run_id === null) {
            write(note, trial.record ?? `Trial ${number} is not in MLflow yet.`);
            continue;
          }
          runs.set(number, [trial.run_id, trial.experiment_id]);
        }
      }
    } catch (error) {
      if (error.name !== "AbortError") write(note, error.message);
      return;
    }
    const found = chosen.filter((number) => runs.has(number) && model.chosen.has(number)).map((number) => runs.get(number));
    link.classList.toggle("hidden", found.length === 0);
    if (found.length === 0) return;
    if (found.length === chosen.length) write(note, "");
    const parts = [found.map(([run]) => run), [...new Set(found.map(([, experiment]) => experiment))]];
    const [ids, experiments] = parts.map((part) => encodeURIComponent(JSON.stringify(part)));
    link.href = found.length === 1 ? `/mlflow/#/experiments/${found[0][1]}/runs/${found[0][0]}` : `/mlflow/#/compare-runs?runs=${ids}&experiments=${experiments}`;
    write(link, found.length === 1 ? "Open in MLflow" : "Compare in MLflow");
  }

  model.addEventListener("chosen", changed);
  return element;
}
