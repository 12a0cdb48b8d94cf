// The controls of the network: their encoding as a vector, and the feedback of the density.

const round = Math.fround;
const MEASURED_MS = {density: 4000, histogram: 12000};  // windows of what a plain session follows

// A control request is {name: value}: density is a level from 0 to 11, histogram has 12 weights that sum to 1,
// any other control is a number; null leaves a control open.
export class ControlEncoder {
  // layout: {width, controls: [{name, start, count, low, high, isLog, flag}], canBeNone}. flag: the
  // column that says "open", or null in sessions without these columns. canBeNone: such a session
  // was also trained without control.
  constructor(layout) { this.layout = layout; }

  // Return the control vector, or null for no control. measured: {density, histogram} of what was
  // just played, for controls that are open in a session that cannot leave one of them open.
  encode(request, measured) {
    const {width, controls, canBeNone} = this.layout;
    const isOpen = ({name}) => request[name] === null || request[name] === undefined;
    if (canBeNone && controls.every(isOpen)) return null;
    const vector = new Float32Array(width);
    for (const control of controls) {
      let value = request[control.name];
      if (isOpen(control)) {
        if (control.flag !== null) { vector[control.flag] = 1; continue; }
        value = measured[control.name];
      }
      if (control.name === "histogram") vector.set(value, control.start);
      else encodeValue(vector, control, value);
    }
    return vector;
  }
}

// Write a value between two of evenly spaced centers as weights that sum to 1.
function encodeValue(vector, {start, count, low, high, isLog}, value) {
  const scale = isLog ? Math.log : (x) => x;
  const share = (scale(value) - scale(low)) / (scale(high) - scale(low));
  const position = Math.min(Math.max(share, 0), 1) * (count - 1);
  const first = Math.min(Math.floor(position), count - 2);
  vector[start + first] = 1 - (position - first);
  vector[start + first + 1] = position - first;
}

// Return weights divided by their sum; all zero becomes uniform.
export function normalize(weights) {
  const total = weights.reduce((a, b) => a + b, 0);
  return Array.from(weights, (weight) => (total ? weight / total : 1 / weights.length));
}

// What was played in the last seconds, as a control. onsets: [[time in ms, pitch]], in order.
export function measureControl(onsets, now, levels) {
  const recent = (ms) => onsets.filter(([time]) => time > now - ms && time <= now);
  const count = recent(MEASURED_MS.density).length / 2;  // in two seconds
  const histogram = new Array(12).fill(0);
  for (const [, pitch] of recent(MEASURED_MS.histogram)) histogram[pitch % 12]++;
  const density = onsets.length ? Math.min(Math.floor(Math.max(count - 1, 0) / 3), levels - 1) : 3;
  return {density, histogram: normalize(histogram)};
}

// Feedback of the density, as in generation/density.py: the error in notes is summed, decays, and
// corrects the level. An error is stored as levels of correction plus `zero`.
export class DensityController {
  // settings: {gain, timeConstant, maxCorrection, rates: notes/s of each level, null without a
  // maximum}; durations: of each event in ms.
  constructor({gain, timeConstant, maxCorrection, rates}, durations) {
    Object.assign(this, {gain, maxCorrection, rates});
    this.zero = maxCorrection + 0.5;
    this.seconds = Float32Array.from(durations, (ms) => ms / 1000);
    this.decay = this.seconds.map((seconds) => Math.exp(-seconds / timeConstant));
  }

  // Return the error after an event. level: the requested one, or null; isNote: of the event.
  update(error, level, event, isNote) {
    const rate = this.findRate(level), decay = this.decay[event];
    const missing = rate === null ? 0 : round(rate * this.seconds[event]) - isNote;
    const change = round(this.gain * missing * decay + this.zero * (1 - decay));
    const result = round(change + error * decay);
    return Math.min(Math.max(result, this.zero - this.maxCorrection), this.zero + this.maxCorrection);
  }

  // Return the rate of a level, which may lie between two; null if it is not controlled.
  findRate(level) {
    if (level === null) return null;
    const low = this.rates[Math.floor(level)], high = this.rates[Math.ceil(level)];
    return low === null || high === null ? null : low + (high - low) * (level % 1);
  }

  // Return the level for the network.
  correct(level, error) {
    if (this.findRate(level) === null) return level;
    const corrected = level + Math.floor(error) - this.maxCorrection;
    return Math.min(Math.max(corrected, 0), this.rates.length - 1);
  }
}
