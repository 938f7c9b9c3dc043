/* The searches of a space in Hydra's grammar, as far as the page reads and writes them. */

const SEARCH = /^\s*(?:tag\(\s*(log)\s*,\s*)?(interval|range)\(\s*([^,()]+)\s*,\s*([^,()]+)\s*(?:,\s*(?:step\s*=\s*)?([^,()]+)\s*)?\)\s*\)?\s*$/;
const CHOICE = /^\s*choice\((.*)\)\s*$/s;

/** Return a search in parts: kind (interval, log, range, choice or other) with low, high and step, choices or text. */
export function parse(text) {
  const written = String(text ?? "");
  const choice = CHOICE.exec(written);
  if (choice) return { kind: "choice", choices: split(choice[1]) };
  const found = SEARCH.exec(written);
  if (!found) return { kind: "other", text: written };
  const [, log, kind, low, high, step] = found;
  if (log && kind === "range") return { kind: "other", text: written };
  return { kind: log ? "log" : kind, low: low.trim(), high: high.trim(), step: step?.trim() ?? "" };
}

export function format(search) {
  switch (search.kind) {
    case "choice": return `choice(${search.choices.join(", ")})`;
    case "log": return `tag(log, interval(${search.low}, ${search.high}))`;
    case "interval": return `interval(${search.low}, ${search.high})`;
    case "range": return `range(${[search.low, search.high, search.step].filter(Boolean).join(", ")})`;
    default: return search.text;
  }
}

/** Split at commas that are in no brackets and no quotes. */
export function split(text) {
  const parts = [""];
  let depth = 0;
  let quote = "";
  for (const one of text) {
    if (quote) quote = one === quote ? "" : quote;
    else if (one === "'" || one === '"') quote = one;
    else if ("([{".includes(one)) depth += 1;
    else if (")]}".includes(one)) depth -= 1;
    if (one === "," && depth === 0 && !quote) parts.push("");
    else parts[parts.length - 1] += one;
  }
  return parts.map((part) => part.trim()).filter(Boolean);
}
