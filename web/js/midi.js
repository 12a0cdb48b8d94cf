// MIDI files: reading and writing, and notes as events of the network.
import {normalize} from "./control.js";
import {KEYS, LOWEST_PITCH, NOTE_OFF, NOTE_ON, TIME_SHIFT, VELOCITY} from "./sampling.js";

const TEMPO = 500000;        // microseconds per quarter note of written files
const TICKS_PER_QUARTER = 500;  // so a tick is a millisecond
const DRUMS = 9, SUSTAIN = 64;
const WINDOW_MS = 2000;      // that a control describes

// ------------------------------------------------------------------------------ writing

// Return a MIDI file with notes {start, end, pitch, velocity} (ms) and text events.
export function writeMidi(notes, texts) {
  const events = [];  // [time, order, bytes]
  for (const text of texts) events.push([0, 0, [0xff, 0x01, ...prefixLength(encodeText(text))]]);
  events.push([0, 1, [0xc0, 0]]);  // a piano
  for (const {start, end, pitch, velocity, source} of notes) {
    const channel = source === "player" ? 1 : 0;  // both may hold one key
    events.push([Math.round(start), 2, [0x90 | channel, pitch, velocity]]);
    events.push([Math.max(Math.round(end), Math.round(start) + 1), 1, [0x80 | channel, pitch, 0]]);
  }
  events.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const tempo = [0, 0xff, 0x51, 3, TEMPO >> 16, (TEMPO >> 8) & 255, TEMPO & 255];
  const track = [...tempo];
  let time = 0;
  for (const [next, , bytes] of events) {
    for (const byte of encodeLength(next - time)) track.push(byte);
    for (const byte of bytes) track.push(byte);
    time = next;
  }
  track.push(0, 0xff, 0x2f, 0);
  const header = [...encodeText("MThd"), 0, 0, 0, 6, 0, 0, 0, 1,
    TICKS_PER_QUARTER >> 8, TICKS_PER_QUARTER & 255];
  const size = [24, 16, 8, 0].map((shift) => (track.length >> shift) & 255);
  return Uint8Array.from([...header, ...encodeText("MTrk"), ...size].concat(track));
}

const encodeText = (text) => [...new TextEncoder().encode(text)];
const prefixLength = (bytes) => [...encodeLength(bytes.length), ...bytes];

// Return a number as a variable-length quantity.
function encodeLength(value) {
  const bytes = [value & 127];
  for (let rest = value >> 7; rest; rest >>= 7) bytes.unshift(128 | (rest & 127));
  return bytes;
}

// ------------------------------------------------------------------------------ reading

// Return the notes {start, end, pitch, velocity} (ms) of a MIDI file, with the sustain pedal in
// their ends and without drums. Throws an Error that a user can read.
export function readMidi(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 14 || readName(bytes, 0) !== "MThd") throw new Error("not a MIDI file");
  const division = view.getInt16(12), events = [];
  let offset = 8 + view.getUint32(4);
  while (offset + 8 <= bytes.length) {
    const end = Math.min(offset + 8 + view.getUint32(offset + 4), bytes.length);
    if (readName(bytes, offset) === "MTrk") readTrack(bytes, offset + 8, end, events);
    offset = end;
  }
  events.sort((a, b) => a.tick - b.tick);
  return pairNotes(convertTicks(events, division));
}

const readName = (bytes, offset) => String.fromCharCode(...bytes.subarray(offset, offset + 4));

// Add the channel messages and tempo changes of a track to `events`.
function readTrack(bytes, offset, end, events) {
  let tick = 0, status = 0;
  const readLength = () => {
    for (let value = 0; offset < end;) {
      const byte = bytes[offset++];
      value = (value << 7) | (byte & 127);
      if (byte < 128) return value;
    }
    return 0;
  };
  while (offset < end) {
    tick += readLength();
    if (offset >= end) return;
    if (bytes[offset] & 128) status = bytes[offset++];
    if (status === 0xff || status === 0xf0 || status === 0xf7) {
      const kind = status === 0xff ? bytes[offset++] : -1, size = readLength();
      if (kind === 0x51 && offset + 3 <= end) {
        events.push({tick, tempo: (bytes[offset] << 16) | (bytes[offset + 1] << 8) | bytes[offset + 2]});
      }
      offset += size;
      continue;
    }
    const size = status >= 0xc0 && status < 0xe0 ? 1 : 2, channel = status & 15;
    if (status < 128 || offset + size > end) return;
    const [first, second] = [bytes[offset] & 127, (bytes[offset + 1] ?? 0) & 127];
    if (channel !== DRUMS) events.push({tick, kind: status >> 4, channel, first, second});
    offset += size;
  }
}

// Add the time in milliseconds to events in the order of their ticks.
function convertTicks(events, division) {
  let tempo = TEMPO, time = 0, tick = 0;
  // a negative division: frames per second and ticks per frame
  const fixed = division < 0 ? 1000 / (-(division >> 8) * (division & 255)) : 0;
  for (const event of events) {
    time += (event.tick - tick) * (fixed || tempo / 1000 / division);
    tick = event.tick;
    event.time = time;
    if (event.tempo) tempo = event.tempo;
  }
  return events;
}

function pairNotes(events) {
  const notes = [], open = new Map(), pedals = new Map(), waiting = new Map();
  const endNote = (id, time) => {
    const note = open.get(id);
    if (note) note.end = time;
    open.delete(id);
  };
  for (const {time, kind, channel, first, second} of events) {
    const id = channel * 128 + first;
    if (kind === 9 && second) {
      endNote(id, time);
      waiting.delete(id);
      const note = {start: time, end: time, pitch: first, velocity: second};
      open.set(id, note);
      notes.push(note);
    } else if (kind === 8 || kind === 9) {
      if (pedals.get(channel)) waiting.set(id, channel);
      else endNote(id, time);
    } else if (kind === 11 && first === SUSTAIN) {
      pedals.set(channel, second >= 64);
      if (second >= 64) continue;
      for (const [key, owner] of waiting) if (owner === channel) { endNote(key, time); waiting.delete(key); }
    }
  }
  const last = events.length ? events.at(-1).time : 0;
  for (const note of open.values()) note.end = last;
  return notes;
}

// ------------------------------------------------------------------------------- events

// Return the events of the last `length` ms of the notes, up to their last note on.
export function encodeNotes(notes, {durations, velocity_edges: edges}, length) {
  const onPiano = notes.filter(({pitch}) => pitch >= LOWEST_PITCH && pitch < LOWEST_PITCH + KEYS);
  const last = Math.max(...onPiano.map(({start}) => start));
  const chosen = onPiano.filter(({start}) => start >= last - length);
  if (!chosen.length) return [];
  const zero = Math.min(...chosen.map(({start}) => start)), shortest = durations[TIME_SHIFT];
  const points = chosen.flatMap(({start, end, pitch, velocity}) => [
    {time: start - zero, isOn: 1, key: pitch - LOWEST_PITCH, velocity},
    {time: Math.max(end - zero, start - zero + shortest), isOn: 0, key: pitch - LOWEST_PITCH},
  ]);
  points.sort((a, b) => a.time - b.time || a.isOn - b.isOn || a.key - b.key);
  const events = [];
  let clock = 0, velocityBin = -1;
  for (const {time, isOn, key, velocity} of points) {
    if (time > last - zero) break;
    for (const shift of findShifts(time - clock, durations)) {
      events.push(shift);
      clock += durations[shift];
    }
    const bin = isOn ? edges.filter((edge) => edge < velocity).length : velocityBin;
    if (bin !== velocityBin) events.push(VELOCITY + bin);
    velocityBin = bin;
    events.push((isOn ? NOTE_ON : NOTE_OFF) + key);
  }
  return events;
}

// Return time shifts whose sum is within half the shortest one of a time in ms.
export function findShifts(time, durations) {
  const shifts = [], half = durations[TIME_SHIFT] / 2;
  for (let left = time; left > half;) {
    let event = durations.length - 1;
    while (event > TIME_SHIFT && durations[event] > left + half) event--;
    shifts.push(event);
    left -= durations[event];
  }
  return shifts;
}

// Return the density and the pitch classes in the two seconds from each event on, as sequence.py.
export function measureEvents(events, durations, levels) {
  const times = [];
  let time = 0;
  for (const event of events) {
    times.push(time);
    time += durations[event];
  }
  const lastFull = time - WINDOW_MS, last = Math.max(times.findIndex((t) => t >= lastFull), 0);
  return times.map((start, index) => {
    const first = start <= lastFull ? index : last, histogram = new Array(12).fill(0);
    let count = 0;
    for (let i = first; i < events.length && times[i] <= times[first] + WINDOW_MS; i++) {
      if (events[i] >= NOTE_OFF) continue;
      histogram[(events[i] + LOWEST_PITCH) % 12]++;
      count++;
    }
    const density = Math.min(Math.floor(Math.max(count - 1, 0) / 3), levels - 1);
    return {density, histogram: normalize(histogram)};
  });
}
