/* A sweep's server-sent events, read with fetch: it says why it is refused, and can go on after any event. */

import { Refusal, at, pause, request } from "./api.js";

/** Follow a sweep from its first event on, until the signal; goes on by itself after whatever breaks in between.

`take(kind, data)` gets each event, `state(connected, sentence)` whether there is a connection. While the page cannot be
seen there is none: browsers give a server six at a time, for all its pages together.
*/
export async function follow(name, take, state, signal) {
  let last = "0";
  let wait = 500;
  while (!signal.aborted) {
    try {
      await visible(signal);
      const ends = new AbortController();
      const end = () => document.visibilityState === "hidden" && ends.abort();
      document.addEventListener("visibilitychange", end);
      try {
        const both = AbortSignal.any([signal, ends.signal]);
        const answer = await request("GET", `/sweeps/${at(name)}/events`, undefined, { headers: { "Last-Event-ID": last }, signal: both });
        state(true, "");
        wait = 500;
        await read(answer.body, (id, kind, data) => {
          if (id !== null) last = id;
          take(kind, data);
        });
      } finally {
        document.removeEventListener("visibilitychange", end);
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refusal && [401, 403, 404, 409].includes(error.status)) {
        state(false, error.message);
        return;
      }
      if (error.name !== "AbortError") state(false, error instanceof Refusal ? error.message : "The connection broke; it is made again.");
    }
    try {
      await pause(wait, signal);
    } catch {
      return;
    }
    wait = Math.min(10_000, wait * 2);
  }
}

async function visible(signal) {
  while (document.visibilityState === "hidden") {
    await Promise.race([pause(3_600_000, signal), new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }))]);
  }
}

/** Read server-sent events (WHATWG HTML, section 9.2) of a body; each is given its id, kind and data. */
async function read(body, take) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    const end = rest.lastIndexOf("\n\n");
    if (end < 0) continue;
    const blocks = rest.slice(0, end).split("\n\n");
    rest = rest.slice(end + 2);
    let until = performance.now() + 6;
    for (const block of blocks) {
      parse(block, take);
      if (performance.now() > until) {
        // A long history must not keep frames from being drawn.
        await new Promise((resolve) => setTimeout(resolve));
        until = performance.now() + 6;
      }
    }
  }
}

function parse(block, take) {
  let id = null;
  let kind = "message";
  let data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("id: ")) id = line.slice(4);
    else if (line.startsWith("event: ")) kind = line.slice(7);
    else if (line.startsWith("data: ")) data += line.slice(6);
  }
  if (data) take(id, kind, JSON.parse(data));
}
