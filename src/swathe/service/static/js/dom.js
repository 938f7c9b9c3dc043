/* Elements. Texts are always text: nothing here ever parses HTML. */

/** Make an element: attributes by name, `on...` as listeners, booleans as such; children are elements or texts. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) set(element, name, value);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

function set(element, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
  else if (name === "value") element.value = value;
  else element.setAttribute(name, value === true ? "" : value);
}

/** Set a text, if it is another one: what has not changed is not announced or laid out again. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function toggle(element, name, on) {
  if (element.classList.contains(name) !== on) element.classList.toggle(name, on);
}

/** Say what has happened, to eyes and to screen readers. */
export function say(text, seconds = 6) {
  const place = document.getElementById("said");
  place.textContent = text;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { place.textContent = ""; }, seconds * 1000);
}

let numbers = 0;

/** Make a labelled field; `element` gets an id, and a place for what is wrong with it. */
export function field(label, element, { className = "", hint = "" } = {}) {
  element.id ||= `field-${++numbers}`;
  const wrong = h("p", { class: "wrong", id: `${element.id}-wrong` });
  element.setAttribute("aria-describedby", wrong.id);
  const box = h("div", { class: `field ${className}` }, h("label", { for: element.id }, label), element);
  if (hint) box.append(h("p", { class: "note" }, hint));
  box.append(wrong);
  return box;
}

/** Say next to a field what is wrong with it; nothing is right. */
export function mark(element, sentence) {
  const place = document.getElementById(`${element.id}-wrong`);
  if (place) write(place, sentence ?? "");
  if (sentence) element.setAttribute("aria-invalid", "true");
  else element.removeAttribute("aria-invalid");
}

/** Copy a text, also where the page came without TLS and browsers have no clipboard for it. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const before = document.activeElement;
    const area = h("textarea", { class: "unseen", "aria-hidden": "true", value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    before?.focus();
  }
  say("Copied.");
}

export function pill(state, text = state) {
  return h("span", { class: `pill ${state}` }, text);
}

/** Return a bar of shares (0 to 1), each with a class. */
export function meter(parts, label) {
  const bar = h("div", { class: "meter", role: "img", "aria-label": label });
  fill(bar, parts);
  return bar;
}

export function fill(bar, parts) {
  parts.forEach(([name, share], at) => {
    const part = bar.children[at] ?? bar.appendChild(h("i"));
    part.className = name;
    part.style.width = `${(100 * Math.max(0, Math.min(1, share || 0))).toFixed(2)}%`;
  });
}
