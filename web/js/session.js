// The music of the live page: worker, clock, sound, MIDI output and timeline together.
import {encodeNotes, measureEvents} from "./midi.js";
import {Piano, STRING_PITCHES} from "./piano.js";
import {Timeline} from "./timeline.js";

const START_MS = 150;        // from the first notes of the network to their sound
const LATE_MS = 40;          // by which the music waits when the network is late
const MIDI_AHEAD_MS = 60;    // how early a note is sent to a MIDI port
// how far the network runs ahead: at first, more after each late note, and in a hidden tab, which
// browsers wake once a second
const LOOKAHEAD_MS = {first: 1000, more: 250, most: 2000, hidden: 2000};
const FIRST_NOTES_MS = 400;  // of music that the network has when the time starts
const PRIMER_MS = 20000, HEARD_MS = 6000;  // of a primer: for the network, and for the listener

export class Session {
  // data: what generate.py wrote; makeWorker: returns a new worker; onChange: called with the
  // name of what has changed: "ready", "state", "music", or "error" and a text.
  constructor(data, makeWorker, onChange) {
    Object.assign(this, {data, onChange});
    this.timeline = new Timeline();
    this.piano = null;         // made at the first click, because browsers allow no sound before
    this.strings = new Map();  // rendered before there is a piano
    this.voices = new Map();   // of the notes in the timeline that sound or will
    this.isReady = this.isPlaying = this.isAnswering = false;
    this.position = 0;         // music time in ms while the music does not play
    this.volume = 1;
    this.late = 0;             // notes that came too late
    this.lookahead = LOOKAHEAD_MS.first;
    this.speed = 0;
    this.clock = 0;            // music time that the network has reached
    this.output = null;        // a MIDI port
    this.outgoing = [];        // [time, bytes] for the port
    this.controls = {request: {}, temperature: 1, usesPlan: false};
    this.worker = makeWorker();
    this.worker.onmessage = ({data: message}) => this.receive(message);
    this.stringWorker = makeWorker();
    this.stringWorker.onmessage = ({data: message}) => this.receive(message);
    this.hasStrings = new Promise((resolve) => { this.endStrings = resolve; });
    this.stringWorker.onerror = this.endStrings;  // the piano then makes its strings itself
    STRING_PITCHES.forEach((pitch) => this.stringWorker.postMessage({type: "string", pitch}));
  }

  load(weights, kernel) {
    const {entries, network, model} = this.data;
    this.post({type: "load", weights, entries, network, model, kernel}, [weights]);
  }

  post(message, transfer = []) { this.worker.postMessage(message, transfer); }

  receive(message) {
    if (message.type === "string") this.addString(message);
    else if (message.type === "tick") this.advance();
    else if (message.type === "music") this.play(message);
    else if (message.type === "error") this.onChange("error", message.text);
    else if (message.type === "ready") {
      Object.assign(this, {isReady: true, isSimd: message.isSimd, speed: message.speed});
      this.reset(this.seed);
      this.setControls(this.controls);
      this.onChange("ready");
    }
  }

  addString({pitch, samples, rate}) {
    if (this.piano) this.piano.addString(pitch, {samples, rate});
    else this.strings.set(pitch, {samples, rate});
    this.renderedStrings = (this.renderedStrings ?? 0) + 1;
    if (this.renderedStrings < STRING_PITCHES.length) return;
    this.stringWorker.terminate();
    this.endStrings();
  }

  // ---------------------------------------------------------------------------------- time

  // Return the music time in ms.
  now() {
    if (!this.isPlaying || this.zero === null) return this.position;
    return Math.max((this.piano.context.currentTime - this.zero) * 1000, this.position);
  }

  toAudio(time) { return this.zero + time / 1000; }

  async openSound() {
    if (!this.piano) {
      this.piano = new Piano();
      this.piano.volume.gain.value = this.volume;
      for (const [pitch, string] of this.strings) this.piano.addString(pitch, string);
    }
    await Promise.all([this.piano.context.resume(), this.hasStrings]);
  }

  async start() {
    if (this.isPlaying || !this.isReady) return;
    await this.openSound();
    if (this.isPlaying) return;
    this.isPlaying = true;
    this.zero = null;  // the time starts when the network has the first notes
    this.started = new Promise((resolve) => { this.startTime = resolve; });
    this.post({type: "start"});
    this.advance();
    this.onChange("state");
  }

  stop() {
    if (!this.isPlaying) return;
    this.position = this.now();
    this.isPlaying = false;
    this.startTime();
    this.outgoing = [];
    this.cancel(this.position);
    for (const note of [...this.timeline.open.values()]) {
      this.release(note.source, note.pitch, this.position);
    }
    this.post({type: "stop", now: this.position});
    this.sendPanic();
    this.onChange("state");
  }

  // Start again from nothing with a seed.
  reset(seed) {
    this.stop();
    this.seed = seed;
    this.waiting = [];  // messages about notes before the time has started
    this.position = this.clock = 0;
    this.timeline.clear();
    this.post({type: "reset", seed});
    this.onChange("state");
  }

  advance() {
    if (!this.isPlaying) return;
    const now = this.now(), lookahead = document.hidden ? LOOKAHEAD_MS.hidden : this.lookahead;
    this.post({type: "advance", now, until: now + lookahead});
    this.sendDue(now);
    this.timeline.forgetOld(now);
  }

  // --------------------------------------------------------------------------------- notes

  play({reply, messages, clock, speed, isAnswering}) {
    if (reply === "prime" || (this.isPlaying && this.zero === null)) {
      this.waiting.push(...messages);
      const hasNotes = clock > this.position + FIRST_NOTES_MS || this.mode === "echo";
      if (reply !== "advance" || !hasNotes) return;
      const delay = this.mode === "echo" ? 0 : START_MS;
      this.zero = this.piano.context.currentTime + (delay - this.position) / 1000;
      messages = this.waiting;
      this.waiting = [];
      this.startTime();
    }
    this.speed = speed;
    this.clock = clock;
    if (isAnswering !== this.isAnswering) {
      this.isAnswering = isAnswering;
      this.onChange("state");
    }
    for (const {type, time, pitch, velocity} of messages) {
      if (type === "cancel") this.cancel(time);
      else if (!this.isPlaying) continue;
      else if (type === "on") this.strike("session", pitch, velocity, time);
      else this.release("session", pitch, time);
    }
    if (messages.length) this.onChange("music");
  }

  strike(source, pitch, velocity, time) {
    const now = this.now();
    if (source === "session" && time < now) {  // the music waits for the network
      this.late++;
      this.lookahead = Math.min(this.lookahead + LOOKAHEAD_MS.more, LOOKAHEAD_MS.most);
      this.zero += (now + LATE_MS - time) / 1000;
      this.position = 0;
    }
    const old = this.timeline.release(source, pitch, time);
    if (old) this.voices.get(old)?.release(this.toAudio(time));
    const note = this.timeline.strike(source, pitch, velocity, time);
    this.voices.set(note, this.piano.strike(pitch, velocity, this.toAudio(time)));
    this.send(time, [0x90, pitch, velocity]);
    return note;
  }

  release(source, pitch, time) {
    const note = this.timeline.release(source, pitch, time);
    if (!note) return;
    const voice = this.voices.get(note);
    voice?.release(this.piano ? Math.max(this.toAudio(time), this.piano.context.currentTime) : 0);
    this.send(note.end, [0x80, pitch, 0]);
    for (const [key, {hasEnded}] of this.voices) if (hasEnded) this.voices.delete(key);
  }

  cancel(time) {
    const {removed, reopened} = this.timeline.cancel(time);
    for (const note of removed) {
      this.voices.get(note)?.cancel();
      this.voices.delete(note);
    }
    for (const note of reopened) this.voices.get(note)?.release(Infinity);
    this.outgoing = this.outgoing.filter(([due]) => due < time);
  }

  // A player presses (velocity above 0) or releases a key. The first key starts the music.
  async playKey(pitch, velocity) {
    if (velocity && !this.isPlaying) await this.start();
    await this.started;
    if (!this.isPlaying) return;
    const now = this.now();
    if (velocity) this.strike("player", pitch, velocity, now);
    else this.release("player", pitch, now);
    this.post({type: "key", now, pitch, velocity});
    this.onChange("music");
  }

  setControls(controls) {
    this.controls = controls;
    if (this.isReady) this.post({type: "controls", now: this.now(), controls});
  }

  setMode(mode) {
    this.mode = mode;
    this.post({type: "mode", now: this.now(), mode});
  }

  setVolume(volume) {
    this.volume = volume;
    if (this.piano) this.piano.volume.gain.value = volume;
  }

  // Continue the notes of a MIDI file. Return whether it has notes on the piano.
  continueNotes(notes) {
    if (!this.isReady) throw new Error("the session is still loading");
    const {model} = this.data, events = encodeNotes(notes, model, PRIMER_MS);
    if (!events.length) return false;
    const length = events.reduce((sum, event) => sum + model.durations[event], 0);
    const controls = measureEvents(events, model.durations, model.layout.levels);
    this.reset(this.seed);
    const heardFrom = Math.max(length - HEARD_MS, 0);
    this.post({type: "prime", seed: this.seed, events, controls, heardFrom});
    return true;
  }

  // ----------------------------------------------------------------------------- MIDI port

  setOutput(port) {
    this.sendPanic();
    this.output = port;
  }

  send(time, bytes) {
    if (!this.output) return;
    this.outgoing.push([time, bytes]);
    if (time < this.now() + MIDI_AHEAD_MS) this.sendDue(this.now());
  }

  sendDue(now) {
    if (!this.output || !this.outgoing.length) return;
    const isDue = ([time]) => time < now + MIDI_AHEAD_MS;
    for (const [time, bytes] of this.outgoing.filter(isDue).sort((a, b) => a[0] - b[0])) {
      this.output.send(bytes, performance.now() + Math.max(time - now, 0));
    }
    this.outgoing = this.outgoing.filter((item) => !isDue(item));
  }

  // End all notes at the port.
  sendPanic() { this.output?.send([0xb0, 123, 0]); }
}
