/* The queue and what has gone through it; a job with its log, which follows. */

import { verdicts } from "./actions.js";
import { at, get, may, poll, post } from "./api.js";
import { h, pill, say, write } from "./dom.js";
import { duration, moment } from "./format.js";

const ACTIVE = ["queued", "starting", "running", "stopping"];
const STATES = ["queued", "starting", "running", "stopping", "done", "failed", "stopped"];
const KINDS = ["launch", "resume", "reproduce", "report", "train", "lr-find"];
// Of a log that is shown (characters); its beginning goes where it is longer.
const SHOWN = 400_000;

export async function jobsPage(main, query, renamed, signal) {
  const select = (label, options, key) => {
    const made = h("select", { "aria-label": label, onchange: changed }, h("option", { value: "" }, `all ${key}s`), options.map((one) => h("option", { value: one }, one)));
    made.value = query.get(key) ?? "";
    return made;
  };
  const state = select("State", STATES, "state");
  const kind = select("Kind", KINDS, "kind");
  const total = h("span", { class: "note", role: "status" });
  const refused = h("p", { class: "error hidden", role: "alert" });
  const body = h("tbody");
  const empty = h("p", { class: "empty hidden" }, "There is no such job.");
  const heads = ["Job", "State", "Place", "Of", "Owner", "Priority", "Began", "Took", "Says"];
  main.append(
    h("div", { class: "head" }, h("h1", {}, "Jobs"), total, h("span", { class: "fill" }), state, kind),
    refused,
    h("section", { class: "card" }, h("div", { class: "scroll" }, h("table", {}, h("caption", { class: "unseen" }, "Jobs"), h("thead", {}, h("tr", {}, heads.map((one) => h("th", { scope: "col" }, one)))), body)), empty),
  );
  let known = "";

  function changed() {
    const said = new URLSearchParams();
    if (state.value) said.set("state", state.value);
    if (kind.value) said.set("kind", kind.value);
    renamed(said.toString());
    look();
  }

  async function look() {
    const wanted = new URLSearchParams({ limit: "100" });
    if (state.value) wanted.set("state", state.value);
    if (kind.value) wanted.set("kind", kind.value);
    const found = await get(`/jobs?${wanted}`, { signal });
    const key = JSON.stringify(found) + (found.jobs.some((job) => job.state === "running") ? Math.floor(Date.now() / 5000) : "");
    if (key === known) return;
    known = key;
    const focused = document.activeElement?.getAttribute("href");
    body.replaceChildren(...found.jobs.map(row));
    if (focused) body.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
    write(total, String(found.total));
    empty.classList.toggle("hidden", found.jobs.length > 0);
  }

  poll(2, look, signal, (error) => {
    refused.classList.toggle("hidden", error === null);
    if (error) write(refused, error.message);
  });
}

function row(job) {
  return h(
    "tr",
    {},
    h("td", {}, h("a", { href: `#/jobs/${at(job.id)}`, "aria-label": `Job ${job.id}, ${job.kind}` }, job.kind)),
    h("td", {}, pill(job.state)),
    h("td", {}, job.position === null ? "–" : String(job.position)),
    h("td", {}, job.sweep ? h("a", { href: `#/sweeps/${at(job.sweep)}` }, job.sweep) : "–"),
    h("td", {}, job.owner),
    h("td", {}, String(job.priority)),
    h("td", {}, moment(job.started)),
    h("td", {}, job.started ? duration((job.ended ?? Date.now() / 1000) - job.started) : "–"),
    h("td", { class: "wide" }, job.detail ?? ""),
  );
}

export async function jobPage(main, id, signal) {
  const state = h("span", { role: "status" });
  const detail = h("p", { class: "note" });
  const facts = h("dl", { class: "facts" });
  const text = h("pre", { class: "log", tabindex: "0", "aria-label": "Log" });
  const answer = h("pre", { tabindex: "0", "aria-label": "Result" });
  const result = h("details", { class: "hidden" }, h("summary", {}, "Result"), answer);
  const refused = h("p", { class: "error hidden", role: "alert" });
  const stop = h("button", { type: "button", class: "danger hidden", onclick: stopIt }, "Stop");
  const title = h("h1", {}, "Job");
  main.append(
    h("section", { class: "card stack" }, h("div", { class: "head" }, h("a", { href: "#/jobs" }, "Jobs"), title, state, h("span", { class: "fill" }), stop), facts, detail, result),
    refused,
    h("section", { class: "card" }, h("header", {}, h("h2", {}, "Log")), text),
  );
  let offset = 0;
  let complete = false;
  let known = "";

  async function stopIt() {
    try {
      say((await post(`/jobs/${at(id)}/stop`)).detail);
    } catch (error) {
      say(error.message);
    }
  }

  async function look() {
    const job = await get(`/jobs/${at(id)}`, { signal });
    if (JSON.stringify(job) !== known) show(job);
    known = JSON.stringify(job);
    await readLog();
  }

  function show(job) {
    title.replaceChildren(`${job.kind}${job.sweep ? " of " : ""}`, job.sweep ? h("a", { href: `#/sweeps/${at(job.sweep)}` }, job.sweep) : "");
    state.replaceChildren(pill(job.state));
    stop.classList.toggle("hidden", !may("runner") || !ACTIVE.includes(job.state));
    write(detail, job.detail ?? verdicts(job).join(", "));
    const said = [["Owner", job.owner], ["Priority", String(job.priority)], ["Queued", moment(job.created)], ["Began", moment(job.started)], ["Ended", moment(job.ended)], ["Devices", String(job.devices ?? "–")]];
    if (job.position !== null) said.push(["Place in the queue", String(job.position)]);
    facts.replaceChildren(...said.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
    result.classList.toggle("hidden", job.result === null || job.result === undefined);
    if (job.result) answer.textContent = JSON.stringify(job.result, null, 2);
  }

  async function readLog() {
    while (!complete) {
      const part = await get(`/jobs/${at(id)}/log?offset=${offset}`, { signal });
      const atEnd = text.scrollTop + text.clientHeight >= text.scrollHeight - 30;
      if (part.text) {
        text.append(part.text);
        if (text.textContent.length > SHOWN) text.textContent = text.textContent.slice(-SHOWN / 2);
        if (atEnd) text.scrollTop = text.scrollHeight;
      }
      complete = part.complete;
      if (part.next === offset) return;
      offset = part.next;
    }
  }

  poll(1, look, signal, (error) => {
    refused.classList.toggle("hidden", error === null);
    if (error) write(refused, error.message);
  });
}
