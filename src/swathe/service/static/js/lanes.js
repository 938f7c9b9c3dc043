/* Which worker, and which lane of it, trained which trial from when to when. */

import { chosenColor, color } from "./colors.js";
import { h, write } from "./dom.js";
import { count, duration, number, share } from "./format.js";
import { everyFrame } from "./frames.js";
import { axis, clear, place, plot } from "./plot.js";
import { OVER } from "./model.js";

const EVERY = 500;
const ORDER = ["complete", "pruned", "failed", "running"];

/** Return the rows of a chart of lanes: {worker, lane, bars: [{trial, from, to}]}, in order. */
export function rowsOf(trials, now) {
  const placed = trials.filter((trial) => trial.worker !== null && trial.began !== null).sort((a, b) => a.began - b.began);
  const rows = new Map();
  for (const trial of placed) {
    const to = trial.ended ?? (OVER.has(trial.told) ? trial.began : now);
    const row = rowFor(rows, trial);
    row.bars.push({ trial, from: trial.began, to: Math.max(to, trial.began) });
    row.until = to;
  }
  const name = (row) => row.worker.replace(/\d+/g, (digits) => digits.padStart(6, "0"));
  return [...rows.values()].sort((a, b) => name(a).localeCompare(name(b)) || a.lane - b.lane);
}

/** A trial's row is its lane, or, on a worker that says nothing of lanes, the first that is free. */
function rowFor(rows, trial) {
  for (let lane = trial.lane ?? 0; ; lane += 1) {
    const key = `${trial.worker}/${lane}`;
    if (!rows.has(key)) rows.set(key, { worker: trial.worker, lane, bars: [], until: -Infinity });
    // Ends are told a moment after the lane was free.
    if (trial.lane !== null || rows.get(key).until <= trial.began + 0.05) return rows.get(key);
  }
}

export function lanes(model, signal) {
  const tip = h("div", { class: "tip hidden" });
  const root = h("div", { class: "chart", role: "img", "aria-label": "Lanes over time" });
  const figure = h("figure", { class: "hidden" }, root, tip);
  const note = h("p", { class: "note" }, "No trial has been placed yet.");
  const element = h("section", { class: "card" }, h("header", {}, h("h2", {}, "Lanes over time"), h("span", { class: "fill" }), note), figure);
  let made = null;
  let rows = [];
  let span = [0, 1];
  let zoom = null;
  let drawn = -Infinity;
  let known = -1;
  let heights = 0;
  let cursor = null;

  function build() {
    made?.destroy();
    made = plot(root, {
      scales: { x: { time: true, min: span[0], max: span[1] }, y: { min: -rows.length, max: 0 } },
      axes: [axis({ size: 34, space: 70, values: (_, ticks) => ticks.map(clock) }), axis({ size: 78, grid: { show: false }, ticks: { show: false }, splits: centres, values: (_, ticks) => ticks.map(nameAt) })],
      cursor: { drag: { x: true, y: false, setScale: false }, y: false },
      changed: draw,
      reset: () => { zoom = null; setScales(); },
    });
    const u = made.uplot;
    u.hooks.setCursor = [() => { cursor = u.cursor.left >= 0 ? [u.cursor.left, u.cursor.top] : null; point(); }];
    u.hooks.setSelect = [() => {
      if (u.select.width < 6) return;
      zoom = [u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")];
      u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
      setScales();
    }];
    u.over.addEventListener("click", () => { const bar = under(); if (bar) model.choose(bar.trial.number); });
  }

  const pad = (value) => String(value).padStart(2, "0");
  const clock = (seconds) => {
    const at = new Date(seconds * 1000);
    return `${pad(at.getHours())}:${pad(at.getMinutes())}${span[1] - span[0] < 1800 ? `:${pad(at.getSeconds())}` : ""}`;
  };

  function workers() {
    const found = new Map();
    rows.forEach((row, at) => found.set(row.worker, [...(found.get(row.worker) ?? []), at]));
    return found;
  }

  function centres() {
    return [...workers().values()].map((all) => -(all[0] + all.at(-1) + 1) / 2).reverse();
  }

  function nameAt(value) {
    for (const [worker, all] of workers()) if (Math.abs(-(all[0] + all.at(-1) + 1) / 2 - value) < 0.01) return worker.slice(0, 12);
    return "";
  }

  function setScales() {
    const [min, max] = zoom ?? span;
    made.uplot.batch(() => {
      made.uplot.setScale("x", { min, max });
      made.uplot.setScale("y", { min: -rows.length, max: 0 });
    });
  }

  function geometry() {
    const [width, height] = [made.uplot.under.clientWidth, made.uplot.under.clientHeight];
    const [from, to] = zoom ?? span;
    return { xOf: (time) => ((time - from) / (to - from)) * width, tall: height / rows.length, width };
  }

  function draw() {
    if (!made || rows.length === 0) return;
    const [context] = made.layers;
    const { xOf, tall, width } = geometry();
    clear(context);
    const inset = tall > 6 ? 1.5 : tall > 3 ? 0.5 : 0;
    const chosen = [...model.chosen];
    for (const state of ORDER) {
      context.fillStyle = color(`trial-${state}`);
      rows.forEach((row, at) => {
        for (const bar of row.bars) {
          if (model.stateOf(bar.trial) !== state) continue;
          const [left, right] = [Math.max(0, xOf(bar.from)), Math.min(width, xOf(bar.to))];
          if (right < 0 || left > width) continue;
          context.globalAlpha = model.isKept(bar.trial) ? 1 : 0.25;
          // A gap of a pixel shows where one ends and the next begins.
          context.fillRect(left, at * tall + inset, Math.max(1, right - left - 1), tall - 2 * inset);
        }
      });
    }
    context.globalAlpha = 1;
    rows.forEach((row, at) => {
      for (const { trial, from, to } of row.bars) {
        const place = chosen.indexOf(trial.number);
        if (place < 0 && trial !== model.best) continue;
        context.strokeStyle = place < 0 ? color("accent") : chosenColor(place);
        context.lineWidth = 2;
        context.strokeRect(xOf(from) + 1, at * tall + inset + 1, Math.max(2, xOf(to) - xOf(from) - 3), Math.max(1, tall - 2 * inset - 2));
      }
    });
    context.strokeStyle = color("edge");
    context.lineWidth = 1;
    for (const all of workers().values()) {
      if (all[0] === 0) continue;
      context.beginPath();
      context.moveTo(0, all[0] * tall);
      context.lineTo(width, all[0] * tall);
      context.stroke();
    }
  }

  function under() {
    if (cursor === null || !made || rows.length === 0) return null;
    const { xOf, tall } = geometry();
    const row = rows[Math.floor(cursor[1] / tall)];
    return row?.bars.findLast(({ from, to }) => xOf(from) <= cursor[0] + 1 && cursor[0] <= xOf(to) + 1) ?? null;
  }

  function point() {
    const bar = under();
    tip.classList.toggle("hidden", !bar);
    if (cursor !== null) model.hover(bar?.trial.number ?? null);
    if (!bar) return;
    const { trial } = bar;
    const lane = trial.lane === null ? "" : `, lane ${trial.lane}`;
    write(tip, `Trial ${trial.number}, ${model.stateOf(trial)}, ${number(trial.score)}: ${trial.worker}${lane}, ${duration(bar.to - bar.from)}`);
    place(tip, root, cursor[0] + made.uplot.over.offsetLeft, cursor[1]);
  }

  function describe() {
    const all = workers();
    const busy = rows.reduce((sum, row) => sum + row.bars.reduce((own, bar) => own + bar.to - bar.from, 0), 0);
    const full = busy / (rows.length * (span[1] - span[0]) || 1);
    const text = `${count(all.size, "worker")}, ${count(rows.length, "lane")}, busy ${share(Math.min(1, full))} of ${duration(span[1] - span[0])}`;
    write(note, text);
    root.setAttribute("aria-label", `Lanes over time: ${text}. The table of trials says where each trial ran.`);
  }

  function tick(now) {
    if (!element.isConnected || now - drawn < EVERY || (known === model.version && !model.alive)) return;
    [drawn, known] = [now, model.version];
    const time = Date.now() / 1000;
    rows = rowsOf(model.trials, time);
    if (rows.length === 0) {
      if (model.trials.some((trial) => OVER.has(trial.told))) write(note, "This sweep was run by a version that noted no places.");
      return;
    }
    figure.classList.remove("hidden");
    const bars = rows.flatMap((row) => row.bars);
    const [first, last] = [Math.min(...bars.map((bar) => bar.from)), Math.max(...bars.map((bar) => bar.to))];
    span = [first, Math.max(last, first + 1)];
    const tall = Math.min(420, Math.max(90, rows.length * (rows.length <= 8 ? 24 : rows.length <= 24 ? 14 : 6) + 40));
    if (tall !== heights) {
      heights = tall;
      root.style.height = `${tall}px`;
    }
    if (!made) build();
    setScales();
    draw();
    describe();
  }

  model.addEventListener("chosen", draw);
  model.addEventListener("kept", draw);
  document.addEventListener("theme", () => made && (made.uplot.redraw(false), draw()), { signal });
  signal.addEventListener("abort", () => made?.destroy(), { once: true });
  everyFrame(tick, signal);
  return element;
}
