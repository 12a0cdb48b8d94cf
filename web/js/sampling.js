// Choosing the next event: random numbers, the event mask, and sampling from logits.

const FULL = 1 - 1e-4;  // share of the longest silence that counts as used up, as in sampling.py

// The index of the first note on, note off, velocity and time shift among the 240 events.
export const NOTE_ON = 0, NOTE_OFF = 88, VELOCITY = 176, TIME_SHIFT = 208, EVENTS = 240;
export const KEYS = 88, LOWEST_PITCH = 21;

// A generator of random numbers that a seed defines: "sfc32" of Chris Doty-Humphrey's PractRand.
export class Random {
  constructor(seed) {
    this.words = Uint32Array.of(seed / 2 ** 32, seed, 0x9e3779b9, 1);
    for (let i = 0; i < 20; i++) this.next();
  }

  next() {
    const words = this.words, [a, b, c, d] = words;
    const sum = (a + b + d) | 0;
    words[0] = b ^ (b >>> 9);
    words[1] = c + (c << 3);
    words[2] = ((c << 21) | (c >>> 11)) + sum;
    words[3] = d + 1;
    return sum >>> 0;
  }

  // Return a number above 0 and below 1.
  uniform() { return (this.next() + 0.5) / 2 ** 32; }

  // Return a number with the normal distribution (Box and Muller 1958).
  normal() {
    return Math.sqrt(-2 * Math.log(this.uniform())) * Math.cos(2 * Math.PI * this.uniform());
  }

  fill(values) {
    for (let i = 0; i < values.length; i++) values[i] = this.uniform();
    return values;
  }
}

// Which events may come next. limits: {repeats, silence in ms}, 0 for none, and {releaseAfter in ms,
// releaseRate in nats/ms} for the ends of notes that sound for long; see EventConstraints in sampling.py. The keys that a player holds belong to the player: the network may not use them.
export class EventMask {
  constructor(durations, {repeats, silence, releaseAfter, releaseRate}) {
    Object.assign(this, {durations, maxRepeats: repeats, maxSilence: silence, releaseAfter, releaseRate});
    this.ages = new Float64Array(KEYS);  // ms for which each key has sounded
    this.sounding = new Uint8Array(KEYS);
    this.held = new Uint8Array(KEYS);
    this.lastKey = -1;
    this.repeats = 0;
    this.silence = 0;
  }

  copy() {
    const result = Object.assign(Object.create(EventMask.prototype), this);
    result.sounding = this.sounding.slice();
    result.ages = this.ages.slice();
    return result;
  }

  isAllowed(event) {
    if (event < NOTE_OFF) {
      const isRepeated = event === this.lastKey && this.repeats >= this.maxRepeats;
      return !this.held[event] && !(this.maxRepeats && isRepeated);
    }
    if (event < VELOCITY) return this.sounding[event - NOTE_OFF] && !this.held[event - NOTE_OFF];
    const duration = this.durations[event];
    return !(this.maxSilence && duration && (this.silence + duration) / this.maxSilence > FULL);
  }

  // Return what is added to the logit of an event.
  findBonus(event) {
    if (event < NOTE_OFF || event >= VELOCITY) return 0;
    return Math.max(0, this.ages[event - NOTE_OFF] - this.releaseAfter) * this.releaseRate;
  }

  update(event) {
    if (event < NOTE_OFF) {
      this.ages[event] = 0;
      this.repeats = event === this.lastKey ? this.repeats + 1 : 1;
      this.lastKey = event;
      this.silence = 0;
      this.sounding[event] = 1;
    } else if (event < VELOCITY) {
      this.sounding[event - NOTE_OFF] = 0;
    } else {
      this.silence += this.durations[event];
      for (let key = 0; key < KEYS; key++) this.ages[key] += this.durations[event];
    }
  }
}

// Return an event sampled with Gumbel noise (Gumbel 1954) from uniform random numbers [events].
// Without numbers the event is the most likely one.
export function sampleEvent(logits, mask, temperature, uniform) {
  let best = -1, highest = -Infinity;
  for (let event = 0; event < logits.length; event++) {
    if (!mask.isAllowed(event)) continue;
    const noise = uniform ? -Math.log(-Math.log(uniform[event])) : 0;
    const value = logits[event] + mask.findBonus(event) + temperature * noise;
    if (value > highest) [best, highest] = [event, value];
  }
  return best;
}
