/* One loop for all that is drawn: each frame has so much time for work that can wait, and no more. */

// Of the 16 ms of a frame (milliseconds); the rest is the browser's.
const BUDGET = 5;
const painters = new Set();
let asked = false;

/** Call `tick(now, left)` each frame from now on; `left()` are the milliseconds that are left of the frame's budget. */
export function everyFrame(tick, signal) {
  painters.add(tick);
  signal.addEventListener("abort", () => painters.delete(tick), { once: true });
  ask();
}

function ask() {
  if (asked || painters.size === 0) return;
  asked = true;
  requestAnimationFrame(frame);
}

function frame(now) {
  asked = false;
  const until = performance.now() + BUDGET;
  const left = () => until - performance.now();
  for (const tick of painters) tick(now, left);
  ask();
}

/** Return what runs a generator piece by piece, each frame as long as there is time; `start` begins anew. */
export function job() {
  let running = null;
  return {
    start: (generator) => { running = generator; },
    get active() { return running !== null; },
    go(left) {
      // At least one piece a frame, so that it ends.
      do {
        if (running !== null && running.next().done) running = null;
      } while (running !== null && left() > 0);
    },
  };
}
