/* Parallel coordinates over the space: a line a trial, coloured by its rank, and a brush on each axis. */

import { chosenColor, color, placing, scaled } from "./colors.js";
import { h, write } from "./dom.js";
import { number, param } from "./format.js";
import { everyFrame, job } from "./frames.js";
import { clear, place, resize, show, twin } from "./plot.js";
import { parse } from "./space.js";

const TOP = 34;
const BOTTOM = 14;
const SIDE = 34;
const PIECE = 25;
const REACH = 9;
// How often all is drawn anew while trials arrive (milliseconds).
const EVERY = 700;

/** Return the axes of a model: its parameters in the space's order, and the metric. */
function axesOf(model, metric) {
  const names = [...new Set([...Object.keys(model.space), ...model.trials.flatMap((trial) => Object.keys(trial.params))])];
  const axes = names.map((name) => axisOf(model, name)).filter(Boolean);
  const scores = model.trials.map((trial) => trial.score).filter((value) => value !== null).sort((a, b) => a - b);
  if (scores.length) axes.push(valueAxis(scores, metric, model.minimize));
  return axes;
}

function axisOf(model, name) {
  const values = model.trials.filter((trial) => name in trial.params).map((trial) => trial.params[name]);
  if (values.length === 0) return null;
  const search = parse(model.space[name]);
  const read = (trial) => trial.params[name];
  if (search.kind === "choice" || !values.every((value) => typeof value === "number")) {
    const order = (search.choices ?? []).map((one) => one.replace(/^['"]|['"]$/g, ""));
    const rank = (value) => (order.indexOf(value) < 0 ? order.length : order.indexOf(value));
    const numbers = values.every((value) => typeof value === "number");
    const options = [...new Set(values.map(String))].sort((a, b) => (numbers ? Number(a) - Number(b) : rank(a) - rank(b)));
    const at = new Map(options.map((option, place) => [option, options.length === 1 ? 0.5 : place / (options.length - 1)]));
    return { name, read, place: (value) => at.get(String(value)), ticks: options.map((option) => [at.get(option), numbers ? number(Number(option), 3) : option]) };
  }
  return numeric(name, read, Math.min(...values), Math.max(...values), search.kind === "log");
}

function valueAxis(scores, metric, minimize) {
  const at = (part) => scores[Math.min(scores.length - 1, Math.floor(part * scores.length))];
  const inner = at(0.9) - at(0.1) || Math.abs(at(0.5)) || 1;
  // What explodes must not press all others together.
  const high = minimize && scores.at(-1) > at(0.9) + 2 * inner ? at(0.95) : scores.at(-1);
  const low = !minimize && scores[0] < at(0.1) - 2 * inner ? at(0.05) : scores[0];
  return numeric(metric, (trial) => trial.score, low, high, false);
}

function numeric(name, read, low, high, isLog) {
  const to = isLog ? Math.log : (value) => value;
  const [from, until] = [to(low), to(high)];
  const ticks = low === high ? [[0.5, number(low, 3)]] : [[0, number(low, 3)], [1, number(high, 3)]];
  if (isLog && high / low > 50) {
    for (let power = Math.ceil(Math.log10(low)); power <= Math.floor(Math.log10(high)); power += 1) {
      const at = (Math.log(10 ** power) - from) / (until - from);
      if (at > 0.12 && at < 0.88) ticks.push([at, number(10 ** power, 3)]);
    }
  }
  return { name, read, ticks, place: (value) => (low === high ? 0.5 : Math.max(0, Math.min(1, (to(value) - from) / (until - from)))) };
}

export function parallel(model, metric, signal) {
  const front = h("canvas", {});
  const above = h("canvas", {});
  const tip = h("div", { class: "tip hidden" });
  const root = h("div", { class: "chart parallel", role: "img", "aria-label": "Parallel coordinates of the trials" }, front, above, tip);
  const all = h("button", { type: "button", class: "plain hidden", onclick: () => { brushes.clear(); brushed(); } }, "Clear brushes");
  const scale = h("canvas", { class: "scale", width: 110, height: 8, "aria-hidden": "true" });
  const kept = h("span", { class: "note" });
  const element = h(
    "section",
    { class: "card" },
    h("header", {}, h("h2", {}, "Parameters"), kept, h("span", { class: "fill" }), all, h("span", { class: "legend" }, "worst", scale, "best")),
    h("figure", { class: "wide" }, root),
    h("p", { class: "note" }, "Drag along an axis to keep the trials in that range; a click on the axis lets go of it. The table's filter does the same by keyboard."),
  );
  const brushes = new Map();
  const painting = job();
  let axes = [];
  let known = -1;
  let painted = -Infinity;
  let topVersion = -1;
  let cursor = null;
  let dragged = null;

  const [width, height] = [() => root.clientWidth, () => root.clientHeight];
  const xOf = (at) => SIDE + (axes.length < 2 ? 0.5 : at / (axes.length - 1)) * (width() - 2 * SIDE);
  const yOf = (share) => height() - BOTTOM - share * (height() - TOP - BOTTOM);
  const shareOf = (y) => Math.max(0, Math.min(1, (height() - BOTTOM - y) / (height() - TOP - BOTTOM)));

  function places(trial) {
    return axes.map((axis) => {
      const value = axis.read(trial);
      return value === undefined || value === null ? null : axis.place(value);
    });
  }

  function line(context, trial) {
    let pen = false;
    places(trial).forEach((share, at) => {
      if (share === null) pen = false;
      else if (pen) context.lineTo(xOf(at), yOf(share));
      else {
        context.moveTo(xOf(at), yOf(share));
        pen = true;
      }
    });
  }

  function* draw() {
    const back = twin(front.getContext("2d"));
    const rank = placing(model.trials, model.minimize);
    back.lineWidth = 1;
    const shown = model.trials.filter((trial) => trial.score !== null).sort((a, b) => model.isKept(a) - model.isKept(b) || rank(a.score) - rank(b.score));
    let piece = 0;
    for (const trial of shown) {
      back.strokeStyle = model.isKept(trial) ? scaled(rank(trial.score)) : color("trial-faint");
      back.globalAlpha = model.isKept(trial) ? 0.75 : 1;
      back.beginPath();
      line(back, trial);
      back.stroke();
      if (++piece % PIECE === 0) yield;
    }
    back.globalAlpha = 1;
    frame(back);
    show(back, front.getContext("2d"));
  }

  /** Draw the axes with their names and ticks. */
  function frame(context) {
    const gap = axes.length < 2 ? width() : (width() - 2 * SIDE) / (axes.length - 1);
    context.font = "12px system-ui, sans-serif";
    axes.forEach((axis, at) => {
      const x = xOf(at);
      const align = at === 0 ? "left" : at === axes.length - 1 ? "right" : "center";
      context.strokeStyle = color("edge");
      context.lineWidth = 1;
      context.beginPath();
      context.moveTo(x, yOf(0));
      context.lineTo(x, yOf(1));
      context.stroke();
      context.textAlign = align;
      context.fillStyle = color("text");
      const edge = at === 0 ? 2 : at === axes.length - 1 ? width() - 2 : x;
      context.fillText(fitted(context, axis.name, gap - 8), edge, 13);
      ticks(context, axis, x, at === axes.length - 1 ? "right" : "left");
    });
  }

  function ticks(context, axis, x, side) {
    context.font = "11px system-ui, sans-serif";
    context.textAlign = side;
    let last = null;
    for (const [share, text] of [...axis.ticks].sort((a, b) => a[0] - b[0])) {
      const y = yOf(share) + 4;
      if (last !== null && last - y < 11) continue;
      last = y;
      const at = x + (side === "left" ? 4 : -4);
      context.strokeStyle = color("surface");
      context.lineWidth = 4;
      context.lineJoin = "round";
      context.strokeText(text, at, y);
      context.fillStyle = color("text");
      context.fillText(text, at, y);
    }
    context.font = "12px system-ui, sans-serif";
  }

  function fitted(context, name, room) {
    for (const text of [name, name.split(".").at(-1)]) if (context.measureText(text).width <= room) return text;
    let text = name.split(".").at(-1);
    while (text.length > 2 && context.measureText(`${text}…`).width > room) text = text.slice(0, -1);
    return `${text}…`;
  }

  /** Draw brushes, chosen trials and the one under the cursor. */
  function drawAbove() {
    const context = above.getContext("2d");
    clear(context);
    for (const [name, [from, to]] of brushes) {
      const at = axes.findIndex((axis) => axis.name === name);
      if (at < 0) continue;
      context.fillStyle = color("accent");
      context.globalAlpha = 0.25;
      context.fillRect(xOf(at) - 7, yOf(to), 14, Math.max(2, yOf(from) - yOf(to)));
      context.globalAlpha = 1;
      context.strokeStyle = color("accent");
      context.lineWidth = 1.5;
      context.strokeRect(xOf(at) - 7, yOf(to), 14, Math.max(2, yOf(from) - yOf(to)));
    }
    const stroke = (trial, paint) => {
      context.strokeStyle = paint;
      context.lineWidth = 2.5;
      context.beginPath();
      line(context, trial);
      context.stroke();
    };
    [...model.chosen].forEach((chosen, at) => model.trials[chosen] && stroke(model.trials[chosen], chosenColor(at)));
    if (model.trials[model.hovered]) stroke(model.trials[model.hovered], color("text"));
  }

  function brushed() {
    all.classList.toggle("hidden", brushes.size === 0);
    refilter();
    painted = -Infinity;
    topVersion = -1;
  }

  function refilter() {
    if (brushes.size === 0) model.keep("brushes", null);
    else model.keep("brushes", new Set(model.trials.filter(passes).map((trial) => trial.number)));
    const left = model.trials.filter((trial) => model.isKept(trial)).length;
    write(kept, model.filters.size ? `${left} of ${model.trials.length} trials` : "");
  }

  function passes(trial) {
    return axes.every((axis) => {
      const brush = brushes.get(axis.name);
      if (!brush) return true;
      const value = axis.read(trial);
      if (value === undefined || value === null) return false;
      const share = axis.place(value);
      return share >= brush[0] - 1e-9 && share <= brush[1] + 1e-9;
    });
  }

  function axisAt(x) {
    const near = axes.map((_, at) => [Math.abs(xOf(at) - x), at]).sort((a, b) => a[0] - b[0])[0];
    return near && near[0] < 22 ? near[1] : null;
  }

  function at(event) {
    const box = root.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  root.addEventListener("pointerdown", (event) => {
    const [x, y] = at(event);
    const axis = axisAt(x);
    if (axis === null) return;
    dragged = { name: axes[axis].name, from: y };
    root.setPointerCapture(event.pointerId);
  });
  root.addEventListener("pointermove", (event) => {
    cursor = at(event);
    if (!dragged || Math.abs(cursor[1] - dragged.from) < 4) return;
    const ends = [shareOf(dragged.from), shareOf(cursor[1])].sort((a, b) => a - b);
    // A place on an axis of options means all of that option.
    brushes.set(dragged.name, [ends[0] - 0.015, ends[1] + 0.015]);
    brushed();
  });
  root.addEventListener("pointerup", (event) => {
    const [x, y] = at(event);
    if (dragged && Math.abs(y - dragged.from) < 4 && brushes.delete(dragged.name)) brushed();
    else if (!dragged || Math.abs(y - dragged.from) < 4) {
      const trial = nearest([x, y]);
      if (trial) model.choose(trial.number);
    }
    dragged = null;
  });
  root.addEventListener("pointerleave", () => { cursor = null; });
  // A finger that scrolls the page.
  root.addEventListener("pointercancel", () => { dragged = null; });

  function nearest([x, y]) {
    let least = REACH;
    let found = null;
    for (const trial of model.trials) {
      if (trial.score === null || !model.isKept(trial)) continue;
      const shares = places(trial);
      for (let left = 0; left + 1 < axes.length; left += 1) {
        if (x < xOf(left) || x > xOf(left + 1) || shares[left] === null || shares[left + 1] === null) continue;
        const part = (x - xOf(left)) / (xOf(left + 1) - xOf(left));
        const distance = Math.abs(yOf(shares[left] + part * (shares[left + 1] - shares[left])) - y);
        if (distance < least) [least, found] = [distance, trial];
      }
    }
    return found;
  }

  let pointing = false;
  let pointed = "";

  function point() {
    const key = `${cursor}`;
    if (key === pointed) return;
    pointed = key;
    const trial = cursor === null || dragged ? null : nearest(cursor);
    pointing = cursor !== null;
    model.hover(trial?.number ?? null);
    tip.classList.toggle("hidden", trial === null);
    if (trial === null) return;
    const params = Object.entries(trial.params).map(([name, value]) => `${name}=${param(value)}`);
    write(tip, `Trial ${trial.number}: ${number(trial.score)}, ${params.join(", ")}`);
    place(tip, root, cursor[0], cursor[1]);
  }

  function repaint() {
    painted = known = -Infinity;
  }

  function fit() {
    for (const canvas of [front, above]) resize(canvas, width(), height());
    paintScale();
    repaint();
    topVersion = -1;
  }

  function paintScale() {
    const context = scale.getContext("2d");
    for (let x = 0; x < 110; x += 1) {
      context.fillStyle = scaled(x / 109);
      context.fillRect(x, 0, 1, 8);
    }
  }

  function tick(now, left) {
    if (!element.isConnected || width() === 0) return;
    if (now - painted > EVERY && known !== model.version && !painting.active) {
      [painted, known] = [now, model.version];
      axes = axesOf(model, metric);
      root.style.minWidth = `${axes.length * 84}px`;
      refilter();
      root.setAttribute("aria-label", `Parallel coordinates of ${model.trials.length} trials over ${axes.map((axis) => axis.name).join(", ")}. The table of trials has the numbers.`);
      painting.start(draw());
      topVersion = -1;
    }
    painting.go(left);
    if (cursor !== null || pointing) point();
    if (topVersion !== `${model.version} ${model.marks}`) {
      topVersion = `${model.version} ${model.marks}`;
      drawAbove();
    }
  }

  const watcher = new ResizeObserver(fit);
  watcher.observe(root);
  signal.addEventListener("abort", () => watcher.disconnect(), { once: true });
  model.addEventListener("kept", repaint);
  document.addEventListener("theme", () => { paintScale(); repaint(); topVersion = -1; }, { signal });
  everyFrame(tick, signal);
  return element;
}
