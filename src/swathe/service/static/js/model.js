/* What the page knows of a sweep's trials: built from its events alone, and asked by everything that draws. */

export const OVER = new Set(["complete", "pruned", "failed"]);

export class Trial {
  constructor(number) {
    this.number = number;
    this.told = "running";
    this.params = {};
    this.steps = [];
    this.values = [];
    this.value = null;
    this.reason = null;
    this.symptoms = [];
    // Of several objectives, and of what constraints name, the last values by their names.
    this.objectives = null;
    this.worker = null;
    this.lane = null;
    this.began = null;
    this.ended = null;
  }

  get last() {
    return this.values.length ? this.values[this.values.length - 1] : null;
  }

  /** What it is compared by: its objective, or what it reported last. */
  get score() {
    return this.value ?? this.last;
  }

  /** Return its value at a step, or at the last one before; null before its first report. */
  at(step) {
    let low = 0;
    let high = this.steps.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.steps[middle] <= step) low = middle + 1;
      else high = middle;
    }
    return low === 0 ? null : this.values[low - 1];
  }
}

export class Model extends EventTarget {
  constructor({ direction, space, metrics, constraints }) {
    super();
    // What is kept of a trial's last metrics, where there are several objectives.
    this.named = (metrics ?? []).length > 1 ? [...metrics, ...Object.keys(constraints ?? {})] : [];
    this.minimize = direction !== "maximize";
    this.space = space ?? {};
    this.trials = [];
    this.alive = false;
    // Counts what has changed, so that whoever draws can see whether that is anything.
    this.version = 0;
    // The same for what is chosen, kept and under the cursor.
    this.marks = 0;
    this.reports = 0;
    // Trials with reports that have not been drawn, and those of which more than that has changed.
    this.fresh = new Set();
    this.restated = new Set();
    this.counts = { waiting: 0, running: 0, complete: 0, pruned: 0, failed: 0 };
    this.best = null;
    this.chosen = new Set();
    // Which trials are left by each of those that filter (the coordinates' brushes, the table): none filters, or sets.
    this.filters = new Map();
    this.hovered = null;
  }

  /** Take one event of the sweep in. */
  take(kind, data) {
    this.version += 1;
    if (kind === "status") {
      this.setAlive(data.alive);
      return;
    }
    const trial = this.trial(data.trial);
    if (kind === "report") this.report(trial, data);
    else if (kind === "trial") this.create(trial, data);
    else if (kind === "param") trial.params[data.name] = data.value;
    else if (kind === "state") this.end(trial, data);
    else if (kind === "attribute") this.attribute(trial, data);
  }

  trial(number) {
    while (this.trials.length <= number) {
      this.trials.push(new Trial(this.trials.length));
      this.counts.waiting += 1;
    }
    return this.trials[number];
  }

  /** The state that a trial is in: one that nobody runs waits, whatever it was last told. */
  stateOf(trial) {
    if (OVER.has(trial.told)) return trial.told;
    return this.alive && trial.told === "running" && (trial.steps.length > 0 || trial.began !== null) ? "running" : "waiting";
  }

  choose(number, on = !this.chosen.has(number)) {
    if (on) this.chosen.add(number);
    else this.chosen.delete(number);
    this.announce("chosen");
  }

  chooseOnly(numbers) {
    this.chosen = new Set(numbers);
    this.announce("chosen");
  }

  /** Let one that filters leave these trials alone (a set of numbers), or all (null). */
  keep(who, numbers) {
    const before = this.filters.get(who);
    if (numbers === null && before === undefined) return;
    if (numbers !== null && before !== undefined && before.size === numbers.size && [...numbers].every((one) => before.has(one))) return;
    if (numbers === null) this.filters.delete(who);
    else this.filters.set(who, numbers);
    this.announce("kept");
  }

  hover(number) {
    if (this.hovered === number) return;
    this.hovered = number;
    this.announce("hovered");
  }

  announce(what) {
    this.marks += 1;
    this.dispatchEvent(new Event(what));
  }

  isKept(trial) {
    for (const kept of this.filters.values()) if (!kept.has(trial.number)) return false;
    return true;
  }

  better(left, right) {
    return this.minimize ? left < right : left > right;
  }

  /** Return trials by their score, the best first, complete ones before others, those without one last. */
  ranked(trials = this.trials) {
    const sign = this.minimize ? 1 : -1;
    const key = (trial) => (trial.score === null ? Infinity : sign * trial.score);
    return [...trials].sort((a, b) => (a.told !== "complete") - (b.told !== "complete") || key(a) - key(b) || a.number - b.number);
  }

  setAlive(alive) {
    if (alive === this.alive) return;
    this.alive = alive;
    for (const trial of this.trials) this.restated.add(trial);
    this.counts = { waiting: 0, running: 0, complete: 0, pruned: 0, failed: 0 };
    for (const trial of this.trials) this.counts[this.stateOf(trial)] += 1;
  }

  create(trial, data) {
    const before = this.stateOf(trial);
    trial.told = data.state;
    Object.assign(trial.params, data.params);
    this.recount(trial, before);
  }

  report(trial, { step, value }) {
    const before = this.stateOf(trial);
    this.reports += 1;
    const end = trial.steps.length;
    if (end === 0 || step > trial.steps[end - 1]) {
      trial.steps.push(step);
      trial.values.push(value);
      this.fresh.add(trial);
    } else {
      // A trial that was begun anew reports its steps again.
      const place = trial.steps.findIndex((one) => one >= step);
      if (trial.steps[place] === step) trial.values[place] = value;
      else {
        trial.steps.splice(place, 0, step);
        trial.values.splice(place, 0, value);
      }
      this.restated.add(trial);
    }
    this.recount(trial, before);
  }

  end(trial, { state, value, ended }) {
    const before = this.stateOf(trial);
    trial.told = state;
    trial.value = OVER.has(state) ? (value ?? null) : null;
    trial.ended = ended ?? null;
    this.recount(trial, before);
    if (state === "complete" && trial.value !== null && (this.best === null || this.better(trial.value, this.best.value))) this.best = trial;
  }

  attribute(trial, { reason, diagnosis, worker, place, metrics }) {
    const before = this.stateOf(trial);
    if (reason !== undefined) trial.reason = reason;
    if (diagnosis !== undefined) trial.symptoms = String(diagnosis).split(/[,\s]+/).filter(Boolean);
    if (worker !== undefined) trial.worker = worker;
    if (metrics !== undefined && this.named.length) trial.objectives = this.picked(metrics);
    if (place !== undefined) Object.assign(trial, JSON.parse(place));
    this.recount(trial, before);
  }

  /** Return the numbers that objectives and constraints name; Python writes NaN and infinities, which JSON has not. */
  picked(metrics) {
    const all = JSON.parse(metrics.replaceAll(/-?\bInfinity\b|\bNaN\b/g, "null"));
    return Object.fromEntries(this.named.map((name) => [name, all[name] ?? null]));
  }

  recount(trial, before) {
    const now = this.stateOf(trial);
    if (now === before) return;
    this.counts[before] -= 1;
    this.counts[now] += 1;
    this.restated.add(trial);
  }
}
