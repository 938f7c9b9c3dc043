/* All sweeps, the devices they share, and who uses them. */

import { get, may, poll } from "./api.js";
import { fill, h, meter, pill, write } from "./dom.js";
import { driverOf, duration, eta, number, over, share, stateOf } from "./format.js";

const BAR = ["complete", "pruned", "failed", "running"];
const STATES = ["running", "queued", "finished", "stopped", "failed"];
const MAX_PAGES = 10;

export async function sweepsPage(main, query, renamed, signal) {
  const filter = h("input", { type: "search", placeholder: "name, owner", "aria-label": "Filter sweeps", value: query.get("filter") ?? "", oninput: changed });
  const state = h("select", { "aria-label": "State", onchange: changed }, h("option", { value: "" }, "all states"), STATES.map((one) => h("option", { value: one }, one)));
  state.value = query.get("state") ?? "";
  const total = h("span", { class: "note", role: "status" });
  const refused = h("p", { class: "error hidden", role: "alert" });
  const body = h("tbody");
  const empty = h("p", { class: "empty hidden" });
  const cluster = h("section", { class: "card hidden" });
  const heads = ["Sweep", "State", "Progress", "Best", "Left", "Owner", "Queue"];
  const card = h(
    "section",
    { class: "card" },
    h("div", { class: "scroll" }, h("table", {}, h("caption", { class: "unseen" }, "Sweeps"), h("thead", {}, h("tr", {}, heads.map((one) => h("th", { scope: "col", class: one === "Best" ? "number" : null }, one)))), body)),
    empty,
  );
  main.append(
    h("div", { class: "head" }, h("h1", {}, "Sweeps"), total, h("span", { class: "fill" }), filter, state, may("runner") ? h("a", { class: "button", href: "#/new" }, "New sweep") : null),
    refused,
    cluster,
    card,
  );
  let sweeps = [];
  const rows = new Map();

  function changed() {
    const said = new URLSearchParams();
    if (filter.value) said.set("filter", filter.value);
    if (state.value) said.set("state", state.value);
    renamed(said.toString());
    show();
  }

  async function look() {
    [sweeps] = await Promise.all([all(signal), devices(cluster, signal)]);
    show();
  }

  function show() {
    const wanted = filter.value.trim().toLowerCase();
    const found = sweeps.filter((sweep) => (!state.value || stateOf(sweep) === state.value) && `${sweep.name} ${sweep.owner ?? ""}`.toLowerCase().includes(wanted));
    const order = (sweep) => [["running", "starting", "stopping", "queued"].indexOf(stateOf(sweep)) < 0, -(sweep.created ?? 0)];
    found.sort((a, b) => order(a)[0] - order(b)[0] || order(a)[1] - order(b)[1]);
    const shown = found.map((sweep) => {
      if (!rows.has(sweep.name)) rows.set(sweep.name, newRow(sweep.name));
      const row = rows.get(sweep.name);
      row.fill(sweep);
      return row.element;
    });
    // In place, so that the focus stays where it is.
    shown.forEach((element, at) => { if (body.children[at] !== element) body.insertBefore(element, body.children[at] ?? null); });
    while (body.children.length > shown.length) body.lastChild.remove();
    write(total, found.length === sweeps.length ? `${sweeps.length}` : `${found.length} of ${sweeps.length}`);
    empty.classList.toggle("hidden", found.length > 0);
    write(empty, sweeps.length ? "No sweep is like that." : "There is no sweep yet.");
  }

  poll(2, look, signal, (error) => {
    refused.classList.toggle("hidden", error === null);
    if (error) write(refused, error.message);
  });
}

async function all(signal) {
  const found = [];
  let cursor = null;
  for (let page = 0; page < MAX_PAGES; page += 1) {
    const answer = await get(`/sweeps?limit=200${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`, { signal });
    found.push(...answer.sweeps);
    cursor = answer.next;
    if (cursor === null) break;
  }
  return found;
}

function newRow(name) {
  const link = h("a", { href: `#/sweeps/${encodeURIComponent(name)}` }, name);
  const cells = Array.from({ length: 6 }, () => h("td"));
  const bar = meter(BAR.map((one) => [one, 0]), "Progress");
  const done = h("span", { class: "note" });
  cells[1].append(bar, done);
  cells[2].className = "number";
  let known = "";
  return {
    element: h("tr", {}, h("td", {}, link), cells),
    fill(sweep) {
      const state = stateOf(sweep);
      if (known !== state) cells[0].replaceChildren(pill(state));
      known = state;
      cells[0].title = driverOf(sweep)?.detail ?? sweep.status ?? "";
      const counts = sweep.counts ?? {};
      fill(bar, BAR.map((one) => [one, (counts[one] ?? 0) / (sweep.trials || 1)]));
      bar.setAttribute("aria-label", `${over(counts)} of ${sweep.trials ?? 0} trials are over`);
      write(done, sweep.trials ? `${over(counts)} of ${sweep.trials}` : "");
      write(cells[2], sweep.best ? `${number(sweep.best.value, 5)}` : "–");
      cells[2].title = sweep.best ? `${sweep.metric}, trial ${sweep.best.trial}` : "";
      write(cells[3], duration(eta(sweep)));
      write(cells[4], sweep.owner ?? sweep.job?.owner ?? "–");
      const job = state === "queued" ? driverOf(sweep) : null;
      write(cells[5], job ? `${job.position ?? "–"}${job.priority ? ` (priority ${job.priority})` : ""}` : "–");
    },
  };
}

/** Show how much of the devices is in use, and by whom. */
async function devices(card, signal) {
  let found;
  try {
    found = await get("/cluster", { signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    card.classList.add("hidden");
    return;
  }
  const alive = found.nodes.filter((node) => node.alive);
  const sum = (key) => alive.reduce((total, node) => total + (node[key] ?? 0), 0);
  const kinds = [["CPUs", sum("cpus_used"), sum("cpus")], ["GPUs", sum("gpus_used"), sum("gpus")]].filter(([, , all]) => all > 0);
  const facts = kinds.map(([name, used, all]) => h("div", {}, h("dt", {}, `${name} in use`), h("dd", {}, `${number(used)} of ${number(all)} `, meter([["", used / all]], `${share(used / all)} of the ${name}`))));
  facts.push(fact("Nodes", `${alive.length}`), fact("Running", String(found.running.length)), fact("Waiting", String(found.queued.length)));
  for (const user of found.users.filter((one) => one.devices > 0 || one.device_seconds > 0).slice(0, 6)) facts.push(fact(user.name, `${number(user.devices)} `, `now, ${duration(user.device_seconds)} of devices`));
  const key = facts.map((one) => one.textContent).join("|");
  card.classList.toggle("hidden", kinds.length === 0 && found.running.length + found.queued.length === 0);
  if (card.dataset.key === key) return;
  card.dataset.key = key;
  card.replaceChildren(h("h2", { class: "unseen" }, "Devices"), h("dl", { class: "facts" }, facts));
}

function fact(name, value, more = "") {
  return h("div", {}, h("dt", {}, name), h("dd", {}, value, more ? h("small", {}, more) : null));
}
