// Colors and helpers of all pages.

export const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
export const BLACK_KEYS = new Set([1, 3, 6, 8, 10]);  // as pitch classes
export const formatTime = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;

const NAMES = ["sheet", "ink", "soft", "row", "line", "octave", "white-key", "black-key", "edge",
  "active", "player", "requested", "requested-ground", "generated"];
const darkMode = matchMedia("(prefers-color-scheme: dark)");

// Return the colors of the style sheet by name; `velocity` and `given` have a color for each MIDI
// velocity, of notes and of given notes. palette: see web/page.py.
export function loadColors(palette) {
  const style = getComputedStyle(document.documentElement), colors = {};
  for (const name of NAMES) colors[name] = style.getPropertyValue("--" + name).trim();
  colors.velocity = makeRamp(palette.colors, palette.velocities);
  colors.given = makeRamp(palette.given, palette.velocities);
  return colors;
}

// Return the color of each velocity, blended from colors for soft to loud.
function makeRamp(hexColors, [soft, loud]) {
  const stops = hexColors.map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  return Array.from({length: 128}, (_, velocity) => {
    const position = clamp((velocity - soft) / (loud - soft), 0, 1) * (stops.length - 1);
    const low = Math.min(Math.floor(position), stops.length - 2), share = position - low;
    const rgb = stops[low].map((c, i) => c + (stops[low + 1][i] - c) * share);
    // on a dark background, soft notes are darker than loud ones
    const lift = darkMode.matches ? 0.3 : 0;
    const dim = darkMode.matches ? 0.78 + 0.22 * position / (stops.length - 1) : 1;
    return `rgb(${rgb.map((c) => Math.round((c + (255 - c) * lift) * dim)).join(" ")})`;
  });
}

export const onThemeChange = (action) => darkMode.addEventListener("change", action);
