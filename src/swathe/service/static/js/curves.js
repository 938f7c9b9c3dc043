/* The learning curves of all trials. What arrives is drawn onto what is there; all of it is drawn anew only when scales,
colours or sizes change, and then in pieces, behind what is shown. */

import { chosenColor, color } from "./colors.js";
import { h, write } from "./dom.js";
import { number } from "./format.js";
import { everyFrame, job } from "./frames.js";
import { axis, clear, place, plot, show, twin } from "./plot.js";

// Trials in a piece of a repaint; points of a curve beyond which it is thinned out (two for each pixel are enough).
const PIECE = 20;
const THIN = 1200;
// How far from a curve the cursor may be to mean it (pixels).
const REACH = 24;
const ORDER = ["waiting", "pruned", "failed", "running", "complete"];

export function curves(model, metric, signal) {
  const tip = h("div", { class: "tip hidden" });
  const root = h("div", { class: "chart curves", role: "img", "aria-label": `Learning curves: ${metric} by step` });
  const log = h("button", { type: "button", "aria-pressed": "false", onclick: () => setLog(!isLog) }, "Log scale");
  const whole = h("button", { type: "button", class: "plain hidden", onclick: () => zoomTo(null) }, "Whole range");
  const legend = h("div", { class: "legend" }, ORDER.slice().reverse().map((state) => h("span", {}, h("i", { class: `swatch ${state}` }), state)));
  const element = h(
    "section",
    { class: "card" },
    h("header", {}, h("h2", {}, "Learning curves"), h("span", { class: "fill" }), whole, log),
    h("figure", {}, root, tip),
    legend,
  );

  let isLog = false;
  let zoom = null;
  let view = { x: [0, 1], y: [0, 1] };
  let drawn = new Map();
  let made = null;
  let back = null;
  let looked = 0;
  let topVersion = -1;
  let seen = -1;
  let labelled = 0;
  let cursor = null;
  let pointed = "";
  let pointing = false;
  // Trials whose state changed while all are drawn anew.
  const late = new Set();
  const painting = job();

  function build() {
    made?.destroy();
    made = plot(root, {
      layers: 2,
      scales: { x: { time: false, min: 0, max: 1 }, y: { distr: isLog ? 3 : 1, min: 0.1, max: 1 } },
      axes: [axis({ label: "step", size: 34 }), axis({ label: metric, size: 56, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : number(tick, 3))) })],
      cursor: { drag: { x: true, y: true, uni: 20, setScale: false }, y: true },
      changed: () => repaint(),
      reset: () => zoomTo(null),
    });
    const u = made.uplot;
    u.hooks.setCursor = [() => { cursor = u.cursor.left >= 0 ? [u.cursor.left, u.cursor.top] : null; }];
    u.hooks.setSelect = [() => select(u)];
    u.over.addEventListener("click", (event) => pick(event));
    setScales();
  }

  function select(u) {
    const { left, top, width, height } = u.select;
    if (width < 6 && height < 6) return;
    const over = u.over;
    zoomTo({
      x: width >= 6 ? [u.posToVal(left, "x"), u.posToVal(left + width, "x")] : view.x,
      y: height >= 6 && height < over.clientHeight ? [u.posToVal(top + height, "y"), u.posToVal(top, "y")] : view.y,
    });
    u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  }

  function setLog(on) {
    isLog = on;
    zoom = null;
    log.setAttribute("aria-pressed", String(on));
    build();
    fitView(true);
  }

  function zoomTo(range) {
    zoom = range;
    whole.classList.toggle("hidden", range === null);
    if (range === null) fitView(true);
    else setScales();
  }

  function setScales() {
    const { x, y } = zoom ?? view;
    made.uplot.batch(() => {
      made.uplot.setScale("x", { min: x[0], max: x[1] });
      made.uplot.setScale("y", { min: y[0], max: y[1] });
    });
  }

  /** Choose scales in which most values can be seen: trials that explode may leave them. */
  function fitView(force = false) {
    const values = sample();
    if (values.length === 0) return;
    const steps = model.trials.reduce((most, trial) => Math.max(most, trial.steps.at(-1) ?? 0), 1);
    const first = model.trials.reduce((least, trial) => Math.min(least, trial.steps[0] ?? least), steps);
    const [low, high] = spread(values);
    const pad = isLog ? 1.12 : (high - low || Math.abs(high) || 1) * 0.06;
    const wanted = isLog ? [low / pad, high * pad] : [low - pad, high + pad];
    const span = ([from, to]) => (isLog ? Math.log(to / from) : to - from);
    const outside = wanted[0] < view.y[0] - 0.02 * span(view.y) || wanted[1] > view.y[1] + 0.02 * span(view.y);
    const loose = span(wanted) < 0.6 * span(view.y) || !(view.y[0] > 0 || !isLog);
    // A complete trial says how many steps there are; before that, there is room for some more.
    const known = !model.alive || model.trials.some((trial) => trial.told === "complete" && trial.steps.at(-1) === steps);
    const room = known ? steps : Math.ceil(steps * 1.15);
    const x = steps > view.x[1] || steps < 0.7 * view.x[1] || known ? [Math.min(first, room - 1), room] : [Math.min(view.x[0], first), view.x[1]];
    const y = force || outside || loose ? wanted : view.y;
    if (!force && x[0] === view.x[0] && x[1] === view.x[1] && y === view.y) return;
    view = { x, y };
    if (zoom === null) setScales();
  }

  function sample() {
    const every = Math.max(1, Math.floor(model.reports / 4000));
    const values = [];
    let at = 0;
    for (const trial of model.trials) {
      for (const value of trial.values) if (at++ % every === 0 && value !== null && (!isLog || value > 0)) values.push(value);
    }
    return values.sort((a, b) => a - b);
  }

  function spread(values) {
    const at = (part) => values[Math.min(values.length - 1, Math.floor(part * values.length))];
    let [low, high] = [values[0], values.at(-1)];
    const inner = at(0.95) - at(0.05) || Math.abs(at(0.5)) || 1;
    if (isLog) return low === high ? [low / 2, high * 2] : [low, Math.min(high, at(0.98) * 10)];
    if (model.minimize && high > at(0.95) + inner) high = at(0.95);
    if (!model.minimize && low < at(0.05) - inner) low = at(0.05);
    return [low, high];
  }

  // Drawing.

  function mapping() {
    const { x, y } = zoom ?? view;
    const [width, height] = [made.uplot.under.clientWidth, made.uplot.under.clientHeight];
    const [low, high] = isLog ? y.map(Math.log) : y;
    const toX = (step) => ((step - x[0]) / (x[1] - x[0])) * width;
    // Far outside is as good as infinitely far, and keeps the numbers small.
    const clip = (place) => Math.max(-height, Math.min(2 * height, place));
    const toY = (value) => (isLog && value <= 0 ? 2 * height : clip((1 - ((isLog ? Math.log(value) : value) - low) / (high - low)) * height));
    return { toX, toY };
  }

  function look(trial) {
    return model.isKept(trial) ? model.stateOf(trial) : "faint";
  }

  function line(context, trial, from, map) {
    const { steps, values } = trial;
    const start = Math.max(0, from - 1);
    const every = steps.length - start > THIN ? Math.ceil((steps.length - start) / THIN) : 1;
    let pen = false;
    for (let at = start; at < steps.length; at += at + every < steps.length || at === steps.length - 1 ? every : steps.length - 1 - at) {
      const value = values[at];
      if (value === null) {
        pen = false;
        continue;
      }
      const [x, y] = [map.toX(steps[at]), map.toY(value)];
      if (pen) context.lineTo(x, y);
      else {
        context.moveTo(x, y);
        // So that a curve of one point is seen, too.
        context.lineTo(x + 0.6, y);
        pen = true;
      }
    }
  }

  /** Draw all trials anew, behind what is shown. */
  function* all() {
    const map = mapping();
    late.clear();
    back = twin(made.layers[0]);
    back.lineWidth = 1;
    back.lineJoin = "round";
    const known = new Map();
    for (const wanted of ["faint", ...ORDER]) {
      back.strokeStyle = color(`trial-${wanted}`);
      let piece = 0;
      for (const trial of model.trials) {
        if (trial.steps.length === 0 || known.has(trial) || look(trial) !== wanted) continue;
        if (piece++ % PIECE === 0) {
          if (piece > 1) {
            back.stroke();
            yield;
          }
          back.beginPath();
        }
        line(back, trial, 0, map);
        known.set(trial, trial.steps.length);
      }
      if (piece > 0) back.stroke();
    }
    show(back, made.layers[0]);
    drawn = known;
    // What has come meanwhile.
    for (const trial of late) model.restated.add(trial);
    for (const trial of model.trials) if ((known.get(trial) ?? 0) < trial.steps.length) model.fresh.add(trial);
  }

  function repaint() {
    if (made) painting.start(all());
    topVersion = -1;
  }

  /** Draw what is new of trials onto what is there. */
  function add() {
    if (model.fresh.size === 0 && model.restated.size === 0) return;
    const [context] = made.layers;
    const map = mapping();
    const by = new Map();
    for (const trial of model.restated) {
      drawn.delete(trial);
      if (painting.active) late.add(trial);
      model.fresh.add(trial);
    }
    for (const trial of model.fresh) {
      const state = look(trial);
      if (!by.has(state)) by.set(state, []);
      by.get(state).push(trial);
    }
    context.lineWidth = 1;
    for (const [state, trials] of by) {
      context.strokeStyle = color(`trial-${state}`);
      context.beginPath();
      for (const trial of trials) {
        line(context, trial, drawn.get(trial) ?? 0, map);
        drawn.set(trial, trial.steps.length);
      }
      context.stroke();
    }
    model.fresh.clear();
    model.restated.clear();
  }

  /** Draw the best trial, the chosen ones and the one under the cursor above all others. */
  function top() {
    const context = made.layers[1];
    clear(context);
    const map = mapping();
    const stroke = (trial, paint, width) => {
      context.strokeStyle = paint;
      context.lineWidth = width;
      context.beginPath();
      line(context, trial, 0, map);
      context.stroke();
    };
    if (model.best) stroke(model.best, color("accent"), 2);
    [...model.chosen].forEach((chosen, at) => model.trials[chosen] && stroke(model.trials[chosen], chosenColor(at), 2));
    const hovered = model.trials[model.hovered];
    if (hovered) stroke(hovered, color("text"), 2);
  }

  // The cursor.

  function nearest([left, top]) {
    const map = mapping();
    const { x } = zoom ?? view;
    const step = x[0] + (left / made.uplot.under.clientWidth) * (x[1] - x[0]);
    let found = null;
    let least = REACH;
    for (const trial of model.trials) {
      if (!model.isKept(trial) || trial.steps.length === 0 || step > trial.steps.at(-1) + (x[1] - x[0]) * 0.03) continue;
      const value = between(trial, step);
      if (value === null) continue;
      const distance = Math.abs(map.toY(value) - top);
      if (distance < least) [least, found] = [distance, trial];
    }
    return found;
  }

  /** Return a curve's height at a place between two of its steps. */
  function between(trial, step) {
    const { steps, values } = trial;
    const next = steps.findIndex((one) => one >= step);
    if (next <= 0) return next === 0 ? values[0] : values.at(-1);
    if (values[next] === null || values[next - 1] === null) return values[next] ?? values[next - 1];
    const part = (step - steps[next - 1]) / (steps[next] - steps[next - 1]);
    return values[next - 1] + part * (values[next] - values[next - 1]);
  }

  function point() {
    const now = `${cursor} ${model.version}`;
    if (now === pointed) return;
    const trial = cursor === null ? null : nearest(cursor);
    model.hover(trial?.number ?? null);
    pointed = `${cursor} ${model.version}`;
    pointing = cursor !== null;
    tip.classList.toggle("hidden", trial === null);
    if (trial === null) return;
    const { x } = zoom ?? view;
    const step = Math.round(x[0] + (cursor[0] / made.uplot.under.clientWidth) * (x[1] - x[0]));
    const shown = trial.at(Math.max(trial.steps[0], step));
    const where = trial.steps.filter((one) => one <= Math.max(trial.steps[0], step)).at(-1);
    write(tip, `Trial ${trial.number}, ${model.stateOf(trial)}: ${metric} ${number(shown)} at step ${where}`);
    place(tip, root, cursor[0] + made.uplot.over.offsetLeft, cursor[1]);
  }

  let pressed = null;
  root.addEventListener("pointerdown", (event) => { pressed = [event.clientX, event.clientY]; });

  function pick(event) {
    // The end of a drag is no click.
    if (pressed && Math.hypot(event.clientX - pressed[0], event.clientY - pressed[1]) > 5) return;
    const box = made.uplot.over.getBoundingClientRect();
    const trial = nearest([event.clientX - box.left, event.clientY - box.top]);
    if (trial) model.choose(trial.number);
  }

  function describe() {
    const states = ORDER.filter((state) => model.counts[state]).map((state) => `${model.counts[state]} ${state}`);
    const best = model.best ? `; the best is trial ${model.best.number} with ${number(model.best.value)}` : "";
    root.setAttribute("aria-label", `Learning curves of ${model.trials.length} trials, ${metric} by step: ${states.join(", ") || "none yet"}${best}. The table of trials has the numbers.`);
  }

  function tick(now, left) {
    if (!element.isConnected) return;
    if (made === null) build();
    if (now - looked > 400 && seen !== model.reports) {
      [looked, seen] = [now, model.reports];
      fitView();
    }
    add();
    painting.go(left);
    if (cursor !== null || pointing) point();
    if (topVersion !== `${model.version} ${model.marks}`) {
      topVersion = `${model.version} ${model.marks}`;
      top();
    }
    if (now - labelled > 2000) {
      labelled = now;
      describe();
    }
  }

  model.addEventListener("kept", repaint);
  document.addEventListener("theme", () => made && (made.uplot.redraw(false), repaint()), { signal });
  signal.addEventListener("abort", () => made?.destroy(), { once: true });
  everyFrame(tick, signal);
  return element;
}
