/* Colours: those of the style sheet, and a scale from the worst value to the best. */

// Viridis at nine places (Smith & van der Walt 2015), dark to light: even for eyes, also those that see few colours.
const VIRIDIS = [[68, 1, 84], [71, 45, 123], [59, 82, 139], [44, 114, 142], [33, 145, 140], [40, 174, 128], [94, 201, 98], [173, 220, 48], [253, 231, 37]];
// For trials that are chosen, in this order; none is the accent, which the best trial has.
const CHOSEN = {
  light: ["#c2410c", "#a3327f", "#00757d", "#7a5b00", "#6b3fb5", "#8c1d18", "#3d6b1f", "#4a4f57"],
  dark: ["#ffa15c", "#f08fca", "#4fd5dd", "#ecd04a", "#c3a5ff", "#ff8f86", "#a6d97a", "#c8cdd4"],
};

let read = {};

export function isDark() {
  return document.documentElement.dataset.theme === "dark";
}

/** Return a colour of the style sheet by its name. */
export function color(name) {
  const key = `${isDark()}${name}`;
  read[key] ??= getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  return read[key];
}

export function chosenColor(place) {
  const all = CHOSEN[isDark() ? "dark" : "light"];
  return all[place % all.length];
}

/** Return the colour of a share between the worst (0) and the best (1): the best stands out of the ground most. */
export function scaled(share) {
  const clear = Math.max(0, Math.min(1, share));
  // The last tenth of the scale is hard to see: in the light its yellow, in the dark its violet.
  const place = (isDark() ? 0.14 + 0.86 * clear : 0.9 * (1 - clear)) * (VIRIDIS.length - 1);
  const low = Math.min(VIRIDIS.length - 2, Math.floor(place));
  const part = place - low;
  const mixed = VIRIDIS[low].map((value, at) => Math.round(value + (VIRIDIS[low + 1][at] - value) * part));
  return `rgb(${mixed.join(" ")})`;
}

/** Return what places values between the worst (0) and the best (1) of them, by their ranks; null is null. */
export function placing(trials, minimize) {
  const values = trials.map((trial) => trial.score).filter((value) => value !== null).sort((a, b) => (minimize ? b - a : a - b));
  return (value) => {
    if (value === null || values.length === 0) return null;
    let low = 0;
    let high = values.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (minimize ? values[middle] > value : values[middle] < value) low = middle + 1;
      else high = middle;
    }
    return values.length === 1 ? 1 : low / (values.length - 1);
  };
}
