/* Writing a sweep's YAML: mappings and the defaults in block style, everything else in one line. */

const PLAIN = /^[A-Za-z_][A-Za-z0-9_./-]*$/;
const WORDS = new Set(["true", "false", "null", "yes", "no", "on", "off", "y", "n"]);

export function write(values, indent = "") {
  return Object.entries(values)
    .map(([name, value]) => {
      if (name === "defaults") return `${indent}defaults:\n${value.map((item) => `${indent}  - ${isMapping(item) ? flow(item).slice(1, -1) : flow(item)}\n`).join("")}`;
      if (isMapping(value) && Object.keys(value).length > 0) return `${indent}${key(name)}:\n${write(value, `${indent}  `)}`;
      return `${indent}${key(name)}: ${flow(value)}\n`;
    })
    .join("");
}

function isMapping(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

function key(name) {
  return /^[A-Za-z_/][A-Za-z0-9_./-]*$/.test(name) && !WORDS.has(name.toLowerCase()) ? name : JSON.stringify(name);
}

function flow(value) {
  if (Array.isArray(value)) return `[${value.map(flow).join(", ")}]`;
  if (isMapping(value)) return `{${Object.entries(value).map(([name, item]) => `${key(name)}: ${flow(item)}`).join(", ")}}`;
  if (typeof value === "string") return PLAIN.test(value) && !WORDS.has(value.toLowerCase()) ? value : JSON.stringify(value);
  if (typeof value === "number") return numeral(value);
  return String(value);
}

/** YAML 1.1 takes 1e-7 for a text. */
function numeral(value) {
  const text = String(value);
  return /^-?\d+e/.test(text) ? text.replace("e", ".0e") : text;
}

/** Return what a person has typed as a value: a number, true, null, a list such as [16, 32], or a text. */
export function typed(text) {
  const trimmed = text.trim();
  try {
    return JSON.parse(trimmed);
  } catch {
    // No JSON: lists of bare words, and texts.
  }
  if (/^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(trimmed)) return Number(trimmed);
  const list = /^\[(.*)\]$/s.exec(trimmed);
  if (list && !/[[\]{}]/.test(list[1])) return list[1].split(",").map((one) => typed(one));
  return trimmed;
}
