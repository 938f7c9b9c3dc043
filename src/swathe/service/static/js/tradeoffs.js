/* Several objectives: complete trials by two of them, and the front, whose trials can be reached by keyboard. */

import { h, write } from "./dom.js";
import { number, param } from "./format.js";
import { everyFrame } from "./frames.js";
import { place } from "./plot.js";

const SVG = "http://www.w3.org/2000/svg";
const [LEFT, RIGHT, TOP, BOTTOM, HEIGHT] = [58, 14, 10, 38, 320];
// More dominated trials than that, the newest, are a grey surface.
const SHOWN = 1500;
// From so large a ratio of the largest to the smallest value on, an axis is logarithmic.
const WIDE = 8;
const EVERY = 700;

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Return what is called true of a value by a bound such as "<= 50000". */
function keeps(bound) {
  const [, sign, end] = /^\s*(<=|>=|<|>)\s*(\S+)\s*$/.exec(bound) ?? [];
  const limit = Number(end);
  return { "<=": (value) => value <= limit, "<": (value) => value < limit, ">=": (value) => value >= limit, ">": (value) => value > limit }[sign] ?? (() => true);
}

/** Return an axis over values: where each lies (0 to 1), and ticks as pairs of a place and a text. */
function scaleOf(values) {
  let [low, high] = [Math.min(...values), Math.max(...values)];
  const isLog = low > 0 && high / low > WIDE;
  const [to, back] = isLog ? [Math.log10, (value) => 10 ** value] : [(value) => value, (value) => value];
  [low, high] = [to(low), to(high)];
  const room = 0.06 * (high - low) || Math.abs(high) * 0.1 || 1;
  [low, high] = [low - room, high + room];
  const at = (value) => (to(value) - low) / (high - low);
  const steps = isLog ? logSteps(back(low), back(high)) : evenSteps(low, high);
  return { at, ticks: steps.map((value) => [at(value), number(value, 3)]) };
}

function logSteps(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) for (const part of [1, 2, 5]) found.push(part * 10 ** power);
  const inside = found.filter((value) => value >= low && value <= high);
  const tens = inside.filter((value) => Number.isInteger(Math.log10(value)));
  return inside.length > 6 && tens.length > 1 ? tens : inside;
}

function evenSteps(low, high) {
  const rough = (high - low) / 5;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((part) => part * size).find((one) => one >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high; value += step) found.push(Number(value.toPrecision(12)));
  return found;
}

/** Show the trade-offs of a sweep's `metrics`; `show` takes how the sweep stands. */
export function tradeoffs(name, model, sweep, signal) {
  const metrics = sweep.metrics;
  const bounds = Object.entries(sweep.constraints ?? {}).map(([metric, bound]) => [metric, keeps(bound)]);
  const note = h("p", { class: "note" });
  const tip = h("div", { class: "tip hidden" });
  const picture = svg("svg", { class: "tradeoffs", role: "group", "aria-label": `Complete trials by ${metrics.join(" and ")}` });
  const root = h("div", { class: "chart" }, picture, tip);
  const rows = h("tbody");
  const axis = (label, chosen) => h("select", { "aria-label": label, onchange: () => { drawn = ""; } }, metrics.map((metric, at) => h("option", { value: String(at), selected: at === chosen }, metric)));
  const [across, up] = [axis("Objective across", 0), axis("Objective upwards", 1)];
  const choices = metrics.length > 2 ? [h("span", { class: "note" }, "across"), across, h("span", { class: "note" }, "upwards"), up] : [];
  const element = h(
    "section",
    { class: "card", id: "tradeoffs" },
    h("header", {}, h("h2", {}, "Trade-offs"), ...choices, h("span", { class: "fill" }), h("span", { class: "legend" }, legend("front", "on the front"), legend("beaten", "dominated"), bounds.length ? legend("broken", "breaks a constraint") : null)),
    root,
    h("div", { class: "scroll" }, h("table", {}, h("caption", { class: "unseen" }, "Trials on the front"), h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Trial"), metrics.map((metric, at) => h("th", { scope: "col", class: "number" }, `${metric}, ${sweep.directions[at]}d`)), h("th", { scope: "col" }, "Searched"))), rows)),
    note,
  );
  let front = [];
  let drawn = "";
  let looked = -Infinity;

  function legend(kind, text) {
    return h("span", {}, svg("svg", { class: "tradeoffs key", width: 12, height: 12, "aria-hidden": "true" }, mark(kind, 6, 6)), text);
  }

  function mark(kind, x, y, more = {}) {
    const size = kind === "front" ? 5 : 3.5;
    if (kind === "front") return svg("path", { class: kind, d: `M${x} ${y - size}L${x + size} ${y}L${x} ${y + size}L${x - size} ${y}Z`, ...more });
    if (kind === "broken") return svg("path", { class: kind, d: `M${x - 3} ${y - 3}L${x + 3} ${y + 3}M${x - 3} ${y + 3}L${x + 3} ${y - 3}`, ...more });
    return svg("circle", { class: kind, cx: x, cy: y, r: size, ...more });
  }

  function words(trial) {
    return `Trial ${trial.number}: ${metrics.map((metric) => `${metric} ${number(trial.objectives[metric], 5)}`).join(", ")}`;
  }

  function point(kind, trial, x, y) {
    const tell = () => {
      model.hover(trial.number);
      write(tip, words(trial));
      tip.classList.remove("hidden");
      place(tip, root, x, y);
    };
    const hush = () => {
      model.hover(null);
      tip.classList.add("hidden");
    };
    const choose = () => model.choose(trial.number);
    const reach = { tabindex: "0", role: "button", "aria-label": words(trial), "aria-pressed": String(model.chosen.has(trial.number)), onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(); } }, onfocus: tell, onblur: hush };
    const chosen = model.chosen.has(trial.number) ? " chosen" : "";
    const made = mark(kind, x, y, { onclick: choose, onpointerenter: tell, onpointerleave: hush, "data-trial": trial.number, ...(kind === "front" ? reach : {}) });
    made.setAttribute("class", kind + chosen);
    return made;
  }

  function draw() {
    const focused = picture.contains(document.activeElement) ? document.activeElement.dataset.trial : null;
    const known = model.trials.filter((trial) => trial.told === "complete" && trial.objectives);
    const isFront = new Set(front.map((one) => one.trial));
    const broken = (trial) => bounds.some(([metric, holds]) => !holds(trial.objectives[metric]));
    const others = known.filter((trial) => !isFront.has(trial.number)).slice(-SHOWN);
    const best = known.filter((trial) => isFront.has(trial.number));
    picture.replaceChildren();
    const [width, one, other] = [root.clientWidth, metrics[Number(across.value)], metrics[Number(up.value)]];
    picture.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    if (known.length === 0) return;
    const counted = known.filter((trial) => !broken(trial));
    const scales = [one, other].map((metric) => scaleOf((counted.length ? counted : known).map((trial) => trial.objectives[metric])));
    const inside = (share) => Math.max(-0.02, Math.min(1.02, share));
    const x = (trial) => LEFT + inside(scales[0].at(trial.objectives[one])) * (width - LEFT - RIGHT);
    const y = (trial) => HEIGHT - BOTTOM - inside(scales[1].at(trial.objectives[other])) * (HEIGHT - TOP - BOTTOM);
    frame(scales, width, one, other);
    if (metrics.length === 2) picture.append(svg("path", { class: "edge", d: corners(best, x, y, one) }));
    picture.append(...others.map((trial) => point(broken(trial) ? "broken" : "beaten", trial, x(trial), y(trial))));
    picture.append(...best.sort((a, b) => a.objectives[one] - b.objectives[one]).map((trial) => point("front", trial, x(trial), y(trial))));
    if (focused !== null) picture.querySelector(`[data-trial="${focused}"][tabindex]`)?.focus();
  }

  /** Return the line below or above which nothing was found, as a path. */
  function corners(best, x, y, metric) {
    const ordered = [...best].sort((a, b) => a.objectives[metric] - b.objectives[metric]);
    const first = sweep.directions[metrics.indexOf(metric)] === "minimize";
    return ordered.map((trial, at) => (at === 0 ? `M${x(trial)} ${y(trial)}` : first ? `H${x(trial)}V${y(trial)}` : `V${y(trial)}H${x(trial)}`)).join("");
  }

  function frame([horizontal, vertical], width, one, other) {
    const [right, floor] = [width - RIGHT, HEIGHT - BOTTOM];
    for (const [share, text] of horizontal.ticks) {
      const at = LEFT + share * (right - LEFT);
      picture.append(svg("line", { class: "grid", x1: at, x2: at, y1: TOP, y2: floor }), svg("text", { x: at, y: floor + 15, "text-anchor": "middle" }, text));
    }
    for (const [share, text] of vertical.ticks) {
      const at = floor - share * (floor - TOP);
      picture.append(svg("line", { class: "grid", x1: LEFT, x2: right, y1: at, y2: at }), svg("text", { x: LEFT - 6, y: at + 4, "text-anchor": "end" }, text));
    }
    const middle = TOP + (floor - TOP) / 2;
    picture.append(
      svg("text", { class: "title", x: (LEFT + right) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, one),
      svg("text", { class: "title", x: 12, y: middle, "text-anchor": "middle", transform: `rotate(-90 12 ${middle})` }, other),
    );
  }

  function list() {
    rows.replaceChildren(
      ...front.map((one) => {
        const chosen = model.chosen.has(one.trial);
        const params = Object.entries(one.params).map(([key, value]) => `${key}=${param(value)}`).join(", ");
        const button = h("button", { type: "button", class: "plain", "aria-pressed": String(chosen), onclick: () => model.choose(one.trial) }, String(one.trial));
        return h("tr", { class: chosen ? "chosen" : null, onpointerenter: () => model.hover(one.trial), onpointerleave: () => model.hover(null) }, h("td", {}, button), one.values.map((value) => h("td", { class: "number" }, number(value, 5))), h("td", { class: "wide" }, params));
      }),
    );
    write(note, front.length ? `${front.length} trial${front.length === 1 ? " is" : "s are"} on the front: no other is as good in all objectives and better in one. A trial's config: swathe best ${name} --trial ${front[0].trial}` : "No complete trial is on the front yet.");
  }

  function tick(now) {
    if (!element.isConnected || root.clientWidth === 0 || now - looked < EVERY) return;
    const key = `${model.counts.complete} ${[...model.chosen]} ${root.clientWidth} ${across.value} ${up.value} ${front.map((one) => one.trial)}`;
    if (key === drawn) return;
    [looked, drawn] = [now, key];
    draw();
    list();
  }

  everyFrame(tick, signal);
  return {
    element,
    show(said) {
      front = said.front ?? [];
    },
  };
}
