/* uPlot with canvases of our own on it: uPlot has the axes, the scales, the cursor and the zoom, and what is on these
is drawn bit by bit. A thousand curves as series of uPlot's own would all be drawn again whenever one of them grows. */

import uPlot from "../vendor/uplot/uPlot.esm.js";
import { color } from "./colors.js";

const FONT = "12px system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";

export function axis(options = {}) {
  return {
    stroke: () => color("muted"),
    font: FONT,
    labelFont: FONT,
    labelSize: 18,
    grid: { stroke: () => color("grid"), width: 1 },
    ticks: { stroke: () => color("grid"), width: 1, size: 4 },
    ...options,
  };
}

/** Make an empty plot in an element. `changed` is called when sizes or scales are other ones than they were. */
export function plot(root, { scales, axes, cursor = {}, changed, reset, layers = 1 }) {
  const own = Array.from({ length: layers }, () => document.createElement("canvas"));
  const size = () => ({ width: Math.max(120, root.clientWidth), height: Math.max(80, root.clientHeight) });
  const made = new uPlot(
    {
      ...size(),
      scales: Object.fromEntries(Object.entries(scales).map(([name, scale]) => [name, { auto: false, range: (_, low, high) => [low, high], ...scale }])),
      axes,
      legend: { show: false },
      series: [{}, { show: true, paths: () => null, points: { show: false } }],
      cursor: { points: { show: false }, drag: { x: true, y: false, setScale: true }, bind: { dblclick: () => () => reset() }, ...cursor },
      hooks: {
        setScale: [() => changed()],
        setSize: [() => fit()],
      },
    },
    [[0, 1], [null, null]],
    root,
  );

  function fit() {
    // uPlot lays its parts out in a task of its own.
    queueMicrotask(() => {
      for (const canvas of own) resize(canvas, made.under.clientWidth, made.under.clientHeight);
      changed();
    });
  }

  // Above the grid, and below the cursor.
  made.over.prepend(...own);
  const watcher = new ResizeObserver(() => made.setSize(size()));
  watcher.observe(root);
  fit();
  return {
    uplot: made,
    layers: own.map((canvas) => canvas.getContext("2d")),
    destroy() {
      watcher.disconnect();
      made.destroy();
    },
  };
}

/** Give a canvas so many CSS pixels, and as many of its own as the screen has there. */
export function resize(canvas, width, height) {
  const scale = devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  canvas.getContext("2d").setTransform(scale, 0, 0, scale, 0, 0);
}

/** Make a canvas that is not shown, as large as another. */
export function twin(context) {
  const canvas = document.createElement("canvas");
  canvas.width = context.canvas.width;
  canvas.height = context.canvas.height;
  const made = canvas.getContext("2d");
  made.setTransform(context.getTransform());
  return made;
}

export function clear(context) {
  context.save();
  context.resetTransform();
  context.clearRect(0, 0, context.canvas.width, context.canvas.height);
  context.restore();
}

export function show(from, to) {
  to.save();
  to.resetTransform();
  to.clearRect(0, 0, to.canvas.width, to.canvas.height);
  to.drawImage(from.canvas, 0, 0);
  to.restore();
}

/** Put a text beside a place in an element, inside of it. */
export function place(tip, box, left, top) {
  tip.style.transform = "";
  const width = tip.offsetWidth;
  const x = left + 14 + width > box.clientWidth ? left - width - 14 : left + 14;
  const y = Math.max(0, Math.min(box.clientHeight - tip.offsetHeight, top - 12));
  tip.style.transform = `translate(${Math.max(0, x)}px, ${y}px)`;
}
