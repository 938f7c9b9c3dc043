/* Numbers, times and names as people read them. */

/** Return a number in five digits at most, as the command line prints it. */
export function number(value, digits = 4) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(digits - 2).replace(/\.?0+e/, "e").replace("e+", "e");
  return String(Number(value.toPrecision(digits)));
}

export function param(value) {
  return typeof value === "number" ? number(value, 3) : String(value ?? "–");
}

export function share(value) {
  return `${(100 * value).toFixed(value < 0.1 ? 1 : 0)} %`;
}

/** Return seconds as 5 s, 3 min 20 s, 2 h 5 min, 3 d 4 h. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return whole < 600 ? `${Math.floor(whole / 60)} min ${whole % 60} s` : `${Math.round(whole / 60)} min`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

/** Return a moment (unix seconds) as a time, with its day where that is not today. */
export function moment(seconds) {
  if (!seconds) return "–";
  const at = new Date(seconds * 1000);
  const clock = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
  if (at.toDateString() === new Date().toDateString()) return clock;
  const pad = (value) => String(value).padStart(2, "0");
  return `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())} ${clock}`;
}

export function words(symptom) {
  return symptom.replaceAll("_", " ");
}

export function count(many, word) {
  return `${many} ${word}${many === 1 ? "" : "s"}`;
}

/** Return the job that drives a sweep or waits to; its latest may be a report or a reproduction of it. */
export function driverOf(sweep) {
  return ["launch", "resume"].includes(sweep.job?.kind) ? sweep.job : null;
}

/** Return what happens at a status of a sweep, in one of the words that pills have. */
export function stateOf(sweep) {
  const job = driverOf(sweep);
  if (job && ["queued", "starting", "stopping"].includes(job.state)) return job.state;
  const status = sweep.status ?? "";
  if (sweep.alive) return "running";
  for (const word of ["finished", "failed", "stopped", "queued", "running"]) if (status.startsWith(word)) return word;
  return status.startsWith("cannot") ? "unreadable" : "stopped";
}

export function over(counts) {
  return (counts?.complete ?? 0) + (counts?.pruned ?? 0) + (counts?.failed ?? 0);
}

/** Return after how many seconds a running sweep is done, if it goes on as since its start; null where unknown. */
export function eta(sweep, now = Date.now() / 1000) {
  const done = over(sweep.counts);
  if (!sweep.alive || done === 0 || !sweep.trials) return null;
  const since = driverOf(sweep)?.started ?? sweep.created;
  return ((now - since) / done) * Math.max(0, sweep.trials - done);
}
