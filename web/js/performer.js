// The music of a session over time: what the network generates, and what a player adds.
//
// Times are milliseconds of music. The network runs ahead of the sound. When a player strikes a
// key, the performer goes back to that moment, gives the network the note, and goes on from there.
import {ControlEncoder, DensityController, measureControl, normalize} from "./control.js";
import {findShifts} from "./midi.js";
import {NoteMemory} from "./recall.js";
import {
  EventMask, EVENTS, KEYS, LOWEST_PITCH, NOTE_OFF, NOTE_ON, Random, sampleEvent, TIME_SHIFT,
  VELOCITY,
} from "./sampling.js";

const KEPT_MS = 6000;       // how far back the performer can go
const REACTION_MS = 90;     // music until then is already on its way to the listener
const PAUSE_MS = 1000;      // mode "echo" answers after a pause of this length
const FOLLOWED_MS = 8000;   // mode "together" follows the pitch classes of these last seconds
const LONG_WAIT_MS = 400;   // a changed control interrupts music that is further ahead
const MAX_PROJECTIONS = 16;  // that are kept: each may have 1.5 MB of gates
const MAX_EVENTS = 3000;    // in one call of `advance`, so that a call ends

export class Performer {
  // model: what generate.py wrote about the session: {durations, velocities, velocity_edges, limits,
  // layout, feedback, plan, hold_back, max_note_ms}.
  constructor(network, model) {
    Object.assign(this, {network, model});
    this.encoder = new ControlEncoder(model.layout);
    this.controller = new DensityController(model.feedback, model.durations);
    this.projections = new Map();
    this.uniform = new Float64Array(EVENTS);
    this.request = {};
    this.temperature = 1;
    this.mode = "solo";
    this.count = 0;  // generated events
    this.reset(0);
  }

  // Forget everything and start again at time 0, from a random state that the seed defines.
  reset(seed) {
    this.random = new Random(seed);
    const init = Array.from({length: this.network.sizes.init}, () => this.random.normal());
    this.hidden = this.network.makeState(init);
    const {recall} = this.network;
    this.memory = recall && new NoteMemory(recall);
    this.notes = 0;  // in the memory
    this.recallGates = recall && this.network.projectRecall(new Array(2 * (1 + recall.next)).fill(0));
    this.event = EVENTS - 1;  // the input before the first event
    this.clock = 0;
    this.error = this.controller.zero;
    this.isFirst = true;
    this.mask = new EventMask(this.model.durations, this.model.limits);
    this.velocity = -1;  // velocity bin in force
    this.onsets = new Float64Array(KEYS).fill(-1);  // of the keys that the session holds
    this.records = [];   // the last events, with what is needed to go back before them
    this.played = [];    // [time, pitch] of the last note ons of all
    this.phrase = [];    // [time, pitch] of the player's note ons
    this.lastKeyTime = -Infinity;
    this.isAnswering = false;
    this.messages = [];  // what has changed for the listener since the last `takeMessages`
  }

  takeMessages() {
    const messages = this.messages;
    this.messages = [];
    return messages;
  }

  // -------------------------------------------------------------------------- the network

  // Return what the network is asked for at the current time.
  findRequest() {
    const plan = this.model.plan;
    let request = this.request;
    if (this.usesPlan && plan) {
      let row = plan.times.length - 1, time = this.clock;
      if (plan.loop && time >= plan.loop[0]) {
        time = plan.loop[0] + (time - plan.loop[0]) % plan.loop[1];
      }
      while (row > 0 && plan.times[row] > time) row--;
      request = {...request, ...plan.rows[row]};
    }
    if (this.mode === "together") {
      const recent = this.phrase.filter(([time]) => time > this.clock - FOLLOWED_MS);
      if (recent.length) {
        const histogram = new Array(12).fill(0);
        for (const [time, pitch] of recent) {
          histogram[pitch % 12] += 1 - (this.clock - time) / FOLLOWED_MS;
        }
        request = {...request, histogram: normalize(histogram), early: []};
      }
    }
    return request;
  }

  // Return the projected control of a request with the density corrected by feedback.
  project(request) {
    const level = request.density ?? null;
    const corrected = {...request, density: this.controller.correct(level, this.error)};
    const {layout} = this.model, needsMeasure = layout.controls.some(
      ({name, flag}) => flag === null && (request[name] ?? null) === null);
    const measured = needsMeasure && measureControl(this.played, this.clock, layout.levels);
    const control = this.encoder.encode(corrected, measured), key = String(control);
    if (this.projections.size > MAX_PROJECTIONS) this.projections.clear();
    if (!this.projections.has(key)) this.projections.set(key, this.network.projectControl(control));
    return this.projections.get(key);
  }

  // Run the network with the last event. Return the logits of the next one.
  step(withLogits, context = null) {
    const request = context ?? this.findRequest();
    if (!this.isFirst && !context) {
      const level = request.density ?? null, isNote = Number(this.event < NOTE_OFF);
      this.error = this.controller.update(this.error, level, this.event, isNote);
    }
    this.isFirst = false;
    const logits = this.network.step(
      this.hidden, this.event, this.project(request), this.recallGates, withLogits);
    if (withLogits && request.early?.length) {
      for (let key = 0; key < KEYS; key++) {
        const isEarly = request.early.includes((key + LOWEST_PITCH) % 12);
        if (isEarly) logits[NOTE_ON + key] += this.model.hold_back;
      }
    }
    return logits;
  }

  // Let the network choose the next event.
  generateEvent() {
    const snapshot = this.save();
    this.step(true);
    this.count++;
    this.addEvent(this.sampleEvent(this.random.fill(this.uniform)), "session", snapshot);
  }

  // Return an event from the logits of the last step; see `sampleEvent` in sampling.js.
  sampleEvent(uniform) {
    return sampleEvent(this.network.logits, this.mask, this.temperature, uniform);
  }

  // Give the network an event that it did not choose. context: the control of this event, if not
  // the requested one; isHeard: whether it sounds.
  feed(event, source, {context = null, isHeard = true} = {}) {
    const snapshot = this.save();
    this.step(false, context);
    this.addEvent(event, source, snapshot, isHeard);
  }

  save() {
    const {event, clock, error, isFirst, velocity, notes, recallGates} = this;
    const copies = {hidden: this.hidden.slice(), mask: this.mask.copy(), onsets: this.onsets.slice()};
    return {event, clock, error, isFirst, velocity, notes, recallGates, ...copies};
  }

  addEvent(event, source, snapshot, isHeard = true) {
    const start = this.clock;
    this.event = event;
    this.mask.update(event);
    this.clock += this.model.durations[event];
    if (event >= VELOCITY && event < TIME_SHIFT) this.velocity = event - VELOCITY;
    if (event < NOTE_OFF) this.addNoteOn(event - NOTE_ON, source, isHeard);
    else if (event < VELOCITY) this.endNote(event - NOTE_OFF, start, isHeard);
    this.records.push({event, source, start, end: this.clock, snapshot});
  }

  addNoteOn(key, source, isHeard) {
    const pitch = key + LOWEST_PITCH;
    this.endNote(key, this.clock, isHeard);
    this.played.push([this.clock, pitch]);
    if (this.memory) {
      this.recallGates = this.network.projectRecall(this.memory.add(key));
      this.notes = this.memory.count;
    }
    if (source === "player") return;
    this.onsets[key] = this.clock;
    const velocity = this.velocity < 0 ? 64 : this.model.velocities[this.velocity];
    if (isHeard) this.messages.push({type: "on", time: this.clock, pitch, velocity});
  }

  endNote(key, time, isHeard = true) {
    if (this.onsets[key] < 0) return;
    this.onsets[key] = -1;
    if (isHeard) this.messages.push({type: "off", time, pitch: key + LOWEST_PITCH});
  }

  // ----------------------------------------------------------------------------- the time

  // Generate music until it reaches the time `until`, or `mayGoOn` returns false. now: the time
  // that sounds.
  advance(now, until, mayGoOn = () => true) {
    if (this.mode === "echo" && !this.answerAfterPause(now)) return;
    for (let i = 0; i < MAX_EVENTS && this.clock < until; i++) {
      this.generateEvent();
      this.endLongNotes();
      if (!mayGoOn()) break;
    }
    this.forgetBefore(now - KEPT_MS);
  }

  // Return whether to generate in mode "echo": after the player has played and then paused.
  answerAfterPause(now) {
    if (this.isAnswering) return true;
    const isHolding = this.mask.held.some(Boolean);
    if (!this.phrase.length || isHolding || now - this.lastKeyTime < PAUSE_MS) return false;
    this.isAnswering = true;
    this.goBack(now + REACTION_MS);
    this.wait(now + REACTION_MS);
    return true;
  }

  // End the notes that the network has held for too long, as generate.py does.
  endLongNotes() {
    const longest = this.model.max_note_ms;
    for (let key = 0; key < KEYS; key++) {
      const onset = this.onsets[key];
      if (onset >= 0 && this.clock >= onset + longest) this.endNote(key, onset + longest);
    }
  }

  forgetBefore(time) {
    const isOld = (record) => record.end < time;
    let count = 0;
    while (count < this.records.length - 1 && isOld(this.records[count])) count++;
    if (count > 100) this.records.splice(0, count);
    if (this.played.length > 2000) this.played.splice(0, 1000);
    if (this.phrase.length > 1000) this.phrase.splice(0, 500);
  }

  // Undo all events from a time on, and return them. The listener keeps what is before `kept`.
  goBack(time, kept = time) {
    const first = this.records.findIndex((record) => record.start >= time || record.end > time);
    if (first < 0) return [];
    const undone = this.records.splice(first);
    Object.assign(this, undone[0].snapshot);
    this.memory?.truncate(this.notes);
    while (this.played.length && this.played.at(-1)[0] >= time) this.played.pop();
    this.messages.push({type: "cancel", time: kept});
    return undone;
  }

  // Let time pass until `time`, to within 8 ms.
  wait(time) {
    const shifts = findShifts(time - this.clock, this.model.durations);
    for (const event of shifts) this.feed(event, "wait");
  }

  // Go back to `now`, add events there, and repeat what is already on its way to the listener.
  interrupt(now, add = () => {}) {
    const kept = now + REACTION_MS, undone = this.goBack(now, kept);
    this.wait(now);
    add();
    for (const {event, source, start} of undone) {
      if (event >= TIME_SHIFT || (source !== "player" && start >= kept)) continue;
      this.wait(start);
      this.feed(event, source, {isHeard: false});
    }
    this.wait(kept);
  }

  // Go back to `now`, and release all keys there.
  stop(now) {
    this.goBack(now);
    this.wait(now);
    for (let key = 0; key < KEYS; key++) {
      if (this.onsets[key] >= 0) this.feed(NOTE_OFF + key, "session");
    }
  }

  // --------------------------------------------------------------------------- the player

  // A player presses or releases a key at the time `now`.
  playKey(now, pitch, velocity) {
    const key = pitch - LOWEST_PITCH, isOn = velocity > 0;
    if (key < 0 || key >= KEYS) return;
    if (this.mode === "echo" && this.isAnswering && isOn) {
      this.isAnswering = false;
      this.stop(now);
    }
    this.lastKeyTime = now;
    this.mask.held[key] = Number(isOn);
    if (isOn) this.phrase.push([now, pitch]);
    this.interrupt(now, () => {
      if (isOn) {
        const bin = this.model.velocity_edges.filter((edge) => edge < velocity).length;
        if (bin !== this.velocity) this.feed(VELOCITY + bin, "player");
      }
      this.feed((isOn ? NOTE_ON : NOTE_OFF) + key, "player");
    });
  }

  setMode(now, mode) {
    if (mode === this.mode) return;
    this.mode = mode;
    this.isAnswering = false;
    this.phrase.length = 0;
    if (mode === "echo") this.stop(now + REACTION_MS);
    else this.interrupt(now);
  }

  // request: see ControlEncoder; usesPlan: the plan of the page replaces the request.
  setControls(now, {request, temperature, usesPlan}) {
    Object.assign(this, {request, temperature, usesPlan});
    if (this.clock > now + LONG_WAIT_MS) this.interrupt(now);
  }

  // Start with the events of a primer; `controls` has a request for each of them. Only what comes
  // after `heardFrom` ms sounds, and that moment becomes time 0.
  prime(seed, events, controls, heardFrom) {
    this.reset(seed);
    this.clock = -heardFrom;
    events.forEach((event, i) => {
      const isHeard = this.clock >= 0;
      this.feed(event, "session", {context: controls[i], isHeard});
    });
    this.messages = this.messages.filter(({time}) => time >= 0);
  }
}
