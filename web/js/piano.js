// The piano: strings from strings.js, filters for velocity, and a little room.
import {renderString} from "./strings.js";

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const LEVEL = 0.55, LONGEST = 60;  // of the gain; seconds

// Every third pitch has a string; the other pitches change its playback rate.
export const STRING_PITCHES = Array.from({length: 30}, (_, i) => 21 + 3 * i);

export class Piano {
  constructor(context = new AudioContext({latencyHint: "playback"})) {
    this.context = context;
    this.output = context.createDynamicsCompressor();
    this.output.threshold.value = -14;
    this.output.ratio.value = 5;
    this.output.release.value = 0.3;
    this.volume = context.createGain();
    const reverb = context.createConvolver(), wet = context.createGain();
    reverb.buffer = this.makeImpulseResponse();
    wet.gain.value = 0.16;
    this.output.connect(this.volume);
    this.output.connect(reverb).connect(wet).connect(this.volume);
    this.volume.connect(context.destination);
    this.strings = new Map();
  }

  makeImpulseResponse() {
    const rate = this.context.sampleRate, size = Math.round(1.4 * rate);
    const buffer = this.context.createBuffer(2, size, rate);
    for (let channel = 0; channel < 2; channel++) {
      const data = buffer.getChannelData(channel);
      let noise = 0;
      for (let i = 0; i < size; i++) {
        noise += 0.35 * ((Math.random() * 2 - 1) - noise);
        data[i] = noise * Math.exp(-4.2 * i / size) * Math.min(1, i / (0.012 * rate)) * 0.09;
      }
    }
    return buffer;
  }

  addString(pitch, {samples, rate}) {
    const buffer = this.context.createBuffer(1, samples.length, rate);
    buffer.copyToChannel(samples, 0);
    this.strings.set(pitch, buffer);
  }

  // Return the pitch of the string that plays a pitch.
  prepare(pitch) {
    const string = STRING_PITCHES[clamp(Math.round((pitch - 21) / 3), 0, STRING_PITCHES.length - 1)];
    if (!this.strings.has(string)) this.addString(string, renderString(string));
    return string;
  }

  // Strike a key at the time `time` of the audio context, from `offset` seconds into the sound.
  strike(pitch, velocity, time, {bus = this.output, offset = 0} = {}) {
    return new Voice(this, pitch, velocity, time, {bus, offset});
  }
}

// A sounding note.
class Voice {
  constructor(piano, pitch, velocity, time, {bus, offset}) {
    const {context} = piano, string = piano.prepare(pitch);
    const source = context.createBufferSource(), filter = context.createBiquadFilter();
    const gain = context.createGain(), panner = context.createStereoPanner();
    const force = velocity / 127, rate = 2 ** ((pitch - string) / 12);
    source.buffer = piano.strings.get(string);
    source.playbackRate.value = rate;
    filter.type = "lowpass";
    filter.Q.value = 0.3;
    const frequency = 440 * 2 ** ((pitch - 69) / 12);
    filter.frequency.value = clamp(frequency * (1.5 + 9 * force ** 1.6) + 300, 300, 16000);
    panner.pan.value = clamp((pitch - 64) / 70, -0.6, 0.6);
    gain.gain.setValueAtTime(LEVEL * force ** 1.5, time);
    source.connect(filter).connect(gain).connect(panner).connect(bus);
    source.start(time, offset * rate);
    source.onended = () => { this.hasEnded = true; panner.disconnect(); };
    // the top strings have no dampers
    const damping = pitch > 88 ? 0.5 : 0.055 + (88 - pitch) / 900;
    Object.assign(this, {source, gain: gain.gain, damping, start: time, hasEnded: false});
  }

  // Release the key at a time; a later call replaces an earlier one. Infinity: hold it.
  release(time) {
    if (this.hasEnded) return;
    this.gain.cancelScheduledValues(this.start + 1e-4);
    if (time === Infinity) return this.source.stop(this.start + LONGEST);
    this.gain.setTargetAtTime(0, Math.max(time, this.start + 2e-4), this.damping);
    this.source.stop(time + 7 * this.damping);
  }

  // Take back a note that has not started.
  cancel() {
    if (!this.hasEnded) this.source.stop(0);
  }
}
