/* The API, with the session's cookie and its CSRF value; every refusal is an error with the server's sentence. */

const PREFIX = "/api/v1";
const RANKS = ["viewer", "runner", "admin"];
let session = null;

export class Refusal extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

export function current() {
  return session;
}

/** Whether who is signed in may do what takes this role. */
export function may(role) {
  return session !== null && RANKS.indexOf(session.role) >= RANKS.indexOf(role);
}

/** Ask the API; returns what it answered. `options`: headers and signal. */
export async function call(method, path, body, options = {}) {
  const answer = await request(method, path, body, options);
  const text = await answer.text();
  const isJson = (answer.headers.get("content-type") ?? "").includes("json");
  return isJson && text ? JSON.parse(text) : text;
}

export const get = (path, options) => call("GET", path, undefined, options);
export const post = (path, body = {}, options) => call("POST", path, body, options);

/** The same, for what is read piece by piece. */
export async function request(method, path, body, { headers = {}, signal } = {}) {
  const all = { ...headers };
  if (body !== undefined) all["Content-Type"] = "application/json";
  if (method !== "GET" && session) all["X-CSRF-Token"] = session.csrf;
  let answer;
  try {
    answer = await fetch(PREFIX + path, { method, headers: all, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "The server does not answer.");
  }
  if (answer.ok) return answer;
  const sentence = await sentenceOf(answer);
  if (answer.status === 401 && session) ended();
  throw new Refusal(answer.status, sentence);
}

async function sentenceOf(answer) {
  try {
    return (await answer.json()).detail || answer.statusText;
  } catch {
    return `The server answers ${answer.status} ${answer.statusText}.`;
  }
}

function ended() {
  session = null;
  document.dispatchEvent(new Event("session"));
}

/** Find out who is signed in; null where nobody is. */
export async function resume() {
  try {
    session = await get("/session");
  } catch (error) {
    if (error.status === 0) throw error;
    session = null;
  }
  return session;
}

export async function signIn(token) {
  session = await post("/session", { token });
  document.dispatchEvent(new Event("session"));
}

export async function signOut() {
  try {
    await call("DELETE", "/session");
  } finally {
    ended();
  }
}

export const at = encodeURIComponent;

/** Make up a key that makes a creation happen once, however often it is asked for. */
export function idempotencyKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Follow a job to its end; `seen` is called with each state of it. */
export async function follow(job, seen, signal) {
  let now = job;
  seen(now);
  while (["queued", "starting", "running", "stopping"].includes(now.state)) {
    await pause(1000, signal);
    now = await get(`/jobs/${at(now.id)}`, { signal });
    seen(now);
  }
  return now;
}

export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("ended", "AbortError"));
    }, { once: true });
  });
}

/** Call `step` now and every so often while the page is visible, until the signal; what it refuses goes to `refused`. */
export async function poll(seconds, step, signal, refused = () => {}) {
  while (!signal.aborted) {
    if (document.visibilityState === "visible") {
      try {
        await step();
        refused(null);
      } catch (error) {
        if (error.name === "AbortError") return;
        refused(error);
        if (error.status === 401) return;
      }
    }
    try {
      await pause(seconds * 1000, signal);
    } catch {
      return;
    }
  }
}
