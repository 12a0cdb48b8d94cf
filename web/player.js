// The player page: draws the notes of each sample and plays them on a synthesized piano.
"use strict";
(() => {
const DATA = JSON.parse(document.getElementById("data").textContent);
const BLACK_KEYS = new Set(DATA.black_keys);  // as pitch classes
const MIN_SCALE = 15;   // pixels per second
const LOOKAHEAD = 1.3;  // seconds scheduled in advance: browsers wake a hidden tab once a second
const MIN_SECONDS = 5;  // length of the time axis
// heights of the parts of the picture, in pixels
const MARGIN = 3, CLASS_ROW = 8, DENSITY = 44, GAP = 8, AXIS = 20;
const DENSITY_BASE = MARGIN + 12 * CLASS_ROW + GAP + DENSITY;

const formatTime = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const maximum = (values, start) => values.reduce((a, b) => Math.max(a, b), start);

// ------------------------------------------------------------------------------ colors

const darkMode = matchMedia("(prefers-color-scheme: dark)");
let colors = {};

function loadColors() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["sheet", "ink", "soft", "row", "line", "octave", "white-key", "black-key",
    "edge", "active", "requested", "requested-ground", "generated"]) {
    colors[name] = style.getPropertyValue("--" + name).trim();
  }
  colors.velocity = makeRamp(DATA.colors);
  colors.given = makeRamp(DATA.given_colors);
}

// Return the color of each velocity, blended from colors for soft to loud.
function makeRamp(hexColors) {
  const [soft, loud] = DATA.velocities;
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

// ------------------------------------------------------------------------------ piano sound
// Additive synthesis of a struck string: slightly inharmonic partials, each with a fast and a
// slow decay. Every third pitch has a buffer; the other pitches change its playback rate.

class Piano {
  constructor() {
    this.context = new AudioContext({latencyHint: "playback"});
    this.output = this.context.createDynamicsCompressor();
    this.output.threshold.value = -14;
    this.output.ratio.value = 5;
    this.output.release.value = 0.3;
    const reverb = this.context.createConvolver(), wet = this.context.createGain();
    reverb.buffer = this.makeImpulseResponse();
    wet.gain.value = 0.16;
    this.output.connect(this.context.destination);
    this.output.connect(reverb).connect(wet).connect(this.context.destination);
    this.buffers = new Map();
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

  // Return the audio buffer to use for a pitch, and the pitch that it was made for.
  getBuffer(pitch) {
    const root = clamp(Math.round((pitch - 21) / 3), 0, 36) * 3 + 21;
    if (!this.buffers.has(root)) this.buffers.set(root, this.makeBuffer(root));
    return [this.buffers.get(root), root];
  }

  makeBuffer(pitch) {
    const rate = pitch < 57 ? 22050 : 44100, base = 440 * 2 ** ((pitch - 69) / 12);
    const decay = 7.5 * 2 ** (-(pitch - 24) / 17);  // seconds
    const size = Math.round(rate * clamp(1.6 * decay, 0.9, 7));
    const buffer = this.context.createBuffer(1, size, rate), data = buffer.getChannelData(0);
    const inharmonicity = 6e-5 * 2 ** ((pitch - 33) / 11);
    for (let n = 1; n <= 28; n++) {
      const frequency = n * base * Math.sqrt(1 + inharmonicity * n * n);
      if (frequency > 0.45 * rate || frequency > 11000) break;
      const hammer = Math.abs(Math.sin(Math.PI * n / 7.6)) + 0.05;
      const level = hammer * Math.exp(-0.5 * frequency / 1500) / n ** 0.75;
      const partial = decay / (1 + 0.16 * (n - 1));
      for (const [share, tau, detune] of [[0.72, 0.3 * partial, 1], [0.28, 1.15 * partial, 1.0004]]) {
        // a decaying sine as a two-term recurrence
        const angle = 2 * Math.PI * frequency * detune / rate, fade = Math.exp(-1 / (tau * rate));
        const a = 2 * fade * Math.cos(angle), b = fade * fade;
        let previous = 0, current = level * share * Math.sin(angle);
        for (let i = 1; i < size; i++) {
          data[i] += current;
          [previous, current] = [current, a * current - b * previous];
        }
      }
    }
    this.shapeBuffer(data, rate);
    return buffer;
  }

  // Add the noise of the hammer, fade both ends, and scale the peak to 1.
  shapeBuffer(data, rate) {
    const size = data.length, attack = 0.0025 * rate, release = 0.25 * size;
    let noise = 0, peak = 1e-9;
    for (let i = 0; i < 0.05 * rate; i++) {
      noise += 0.12 * ((Math.random() * 2 - 1) - noise);
      data[i] += 0.35 * noise * Math.exp(-i / (0.009 * rate));
    }
    for (let i = 0; i < size; i++) {
      data[i] *= Math.min(1, i / attack) * Math.min(1, (size - i) / release);
      peak = Math.max(peak, Math.abs(data[i]));
    }
    for (let i = 0; i < size; i++) data[i] /= peak;
  }

  // Play a note into `bus` at `time` for `length` seconds, starting `offset` seconds into it.
  playNote(bus, pitch, velocity, {time, length, offset}) {
    const [buffer, root] = this.getBuffer(pitch), context = this.context;
    const source = context.createBufferSource(), filter = context.createBiquadFilter();
    const gain = context.createGain(), panner = context.createStereoPanner();
    const force = velocity / 127, rate = 2 ** ((pitch - root) / 12);
    source.buffer = buffer;
    source.playbackRate.value = rate;
    filter.type = "lowpass";
    filter.Q.value = 0.3;
    const frequency = 440 * 2 ** ((pitch - 69) / 12);
    filter.frequency.value = clamp(frequency * (1.5 + 9 * force ** 1.6) + 300, 300, 16000);
    panner.pan.value = clamp((pitch - 64) / 70, -0.6, 0.6);
    const end = time + length;
    const damping = pitch > 88 ? 0.5 : 0.055 + (88 - pitch) / 900;  // the top strings have no dampers
    gain.gain.setValueAtTime(0.55 * force ** 1.5, time);
    gain.gain.setTargetAtTime(0, end, damping);
    source.connect(filter).connect(gain).connect(panner).connect(bus);
    source.start(time, offset * rate);
    source.stop(end + 7 * damping);
    source.onended = () => panner.disconnect();
  }
}

let piano = null;  // made at the first click, because browsers allow no sound before

// ------------------------------------------------------------------------------ one sample

class Sample {
  constructor(article, data) {
    this.article = article;
    this.requested = data.requested;
    this.roll = article.querySelector(".roll");
    this.canvas = article.querySelector("canvas");
    this.playButton = article.querySelector(".play");
    this.stopButton = article.querySelector(".stop");
    this.clock = article.querySelector(".clock");
    const [starts, ends, pitches, velocities] = data.notes;
    this.notes = starts.map((start, i) => ({start: start / 1000, end: ends[i] / 1000,
      pitch: pitches[i], velocity: velocities[i], given: data.given?.[i]})).sort((a, b) => a.start - b.start);
    this.seconds = maximum(ends, 0) / 1000;
    this.low = pitches.reduce((a, b) => Math.min(a, b), 50) - 3;
    this.high = maximum(pitches, 70) + 3;
    this.generated = data.generated;  // notes per 2 s, each quarter of a second
    this.densityTop = data.density_top;
    this.densityStep = data.density_step;
    this.position = 0;     // seconds, where playback starts
    this.playback = null;  // {bus, zero: context time of second 0, next: index of the next note}
    this.visible = false;
    this.spacer = this.roll.appendChild(document.createElement("i"));
    this.playButton.onclick = () => this.playback ? this.pause() : this.start();
    this.stopButton.onclick = () => this.seek(0);
    this.roll.onscroll = () => this.draw();
    this.roll.onclick = (event) => {
      const x = event.clientX - this.roll.getBoundingClientRect().left;
      if (x >= this.keys) this.seek((x - this.keys + this.roll.scrollLeft) / this.scale, true);
    };
    this.roll.onkeydown = (event) => this.handleKey(event);
    this.updateButtons();
  }

  // ------------------------------------------------------------------------ playback

  handleKey(event) {
    const moves = {ArrowLeft: -5, ArrowRight: 5, PageDown: -20, PageUp: 20, Home: -1e9, End: 1e9};
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === " " || event.key === "Enter") this.playButton.click();
    else if (event.key === "Escape") this.seek(0);
    else if (event.key in moves) this.seek(this.now() + moves[event.key], !!this.playback);
    else return;
    event.preventDefault();
  }

  now() {
    if (!this.playback) return this.position;
    return clamp(piano.context.currentTime - this.playback.zero, this.position, this.seconds);
  }

  async start() {
    if (!this.notes.length) return;
    if (Sample.current && Sample.current !== this) Sample.current.pause();
    piano ??= new Piano();
    Sample.current = this;
    if (this.position >= this.seconds - 0.05) this.position = 0;
    await piano.context.resume();
    if (Sample.current !== this || this.playback) return;
    const next = this.notes.filter((note) => note.start < this.position - 1e-6).length;
    for (const note of this.notes.slice(next, next + 12)) piano.getBuffer(note.pitch);
    const bus = piano.context.createGain();
    bus.connect(piano.output);
    this.playback = {bus, zero: piano.context.currentTime + 0.12 - this.position, next};
    for (const note of this.notes.slice(0, next)) {  // already sounding
      if (note.end > this.position + 0.05) this.playNote(note, this.position - note.start);
    }
    this.schedule();
    this.timer = setInterval(() => this.schedule(), 60);
    this.updateButtons();
    requestAnimationFrame(() => this.animate());
  }

  playNote(note, offset) {
    const time = Math.max(this.playback.zero + note.start + offset, piano.context.currentTime);
    const length = note.end - note.start - offset;
    piano.playNote(this.playback.bus, note.pitch, note.velocity, {time, length, offset});
  }

  schedule() {
    const played = piano.context.currentTime - this.playback.zero;
    while (this.playback.next < this.notes.length
      && this.notes[this.playback.next].start < played + LOOKAHEAD) {
      this.playNote(this.notes[this.playback.next++], 0);
    }
    if (played > this.seconds + 0.3) this.seek(0);
  }

  silence() {
    if (!this.playback) return;
    const {bus} = this.playback;
    clearInterval(this.timer);
    bus.gain.setTargetAtTime(0, piano.context.currentTime, 0.03);
    setTimeout(() => bus.disconnect(), 400);
    this.playback = null;
    Sample.current = null;
  }

  pause() { this.seek(this.now()); }

  seek(second, play = false) {
    this.silence();
    this.position = clamp(second, 0, this.seconds);
    this.updateButtons();
    this.scrollToPosition();
    this.draw();
    if (play) this.start();
  }

  updateButtons() {
    const label = this.playback ? "Pause" : "Play";
    this.playButton.textContent = label;
    this.playButton.setAttribute("aria-label", `${label} ${this.article.getAttribute("aria-label")}`);
    this.stopButton.disabled = !this.playback && this.position === 0;
    this.updateClock();
  }

  updateClock() {
    const now = this.now(), text = formatTime(now);
    this.roll.setAttribute("aria-valuenow", now.toFixed(2));
    if (this.clockText === text) return;
    this.clockText = text;
    this.roll.setAttribute("aria-valuetext", text);
    this.clock.textContent = `${text} / ${formatTime(this.seconds)}`;
  }

  animate() {
    if (!this.playback) return;
    this.updateClock();
    if (this.visible) { this.scrollToPosition(); this.draw(); }
    requestAnimationFrame(() => this.animate());
  }

  scrollToPosition() {
    if (!this.scale) return;
    const x = this.now() * this.scale, view = this.roll.clientWidth - this.keys;
    const left = this.roll.scrollLeft;
    if (x < left || x > left + 0.9 * view) this.roll.scrollLeft = x - 0.1 * view;
  }

  // ------------------------------------------------------------------------ picture

  // A canvas needs much memory: only those near the visible area have a size.
  setVisible(visible) {
    this.visible = visible;
    if (visible) { this.updateLayout(); this.draw(); } else this.canvas.width = this.canvas.height = 0;
  }

  updateLayout() {
    const width = this.roll.clientWidth, length = Math.max(MIN_SECONDS, this.seconds);
    this.keys = width < 560 ? 30 : 40;
    this.row = width < 560 ? 4.5 : 5.5;
    this.scale = Math.max(MIN_SCALE, (width - this.keys) / length);
    this.top = this.requested ? DENSITY_BASE + GAP : 0;
    this.bottom = this.top + (this.high - this.low + 1) * this.row;
    this.height = this.bottom + AXIS;
    this.spacer.style.width = `${Math.floor(this.keys + this.scale * length)}px`;
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${this.height}px`;
    this.roll.style.minHeight = `${this.height}px`;
    this.pixelRatio = Math.min(3, devicePixelRatio || 1);
    this.width = width;
    this.canvas.width = Math.round(width * this.pixelRatio);
    this.canvas.height = Math.round(this.height * this.pixelRatio);
  }

  x(second) { return this.keys + second * this.scale - this.roll.scrollLeft; }
  y(pitch) { return this.top + (this.high - pitch) * this.row; }
  densityY(notes) { return DENSITY_BASE - DENSITY * notes / this.densityTop; }

  draw() {
    if (!this.visible) return;
    const pen = this.pen ??= this.canvas.getContext("2d"), now = this.now();
    pen.setTransform(this.pixelRatio, 0, 0, this.pixelRatio, 0, 0);
    pen.clearRect(0, 0, this.width, this.height);
    const right = Math.min(this.width, this.x(Math.max(MIN_SECONDS, this.seconds)));
    pen.save();
    pen.beginPath();
    pen.rect(this.keys, 0, this.width - this.keys, this.height);
    pen.clip();
    this.drawGrid(pen, right);
    if (this.requested) this.drawControl(pen, right);
    const pressed = this.drawNotes(pen, now);
    if (this.playback || this.position > 0) {
      pen.fillStyle = colors.active;
      pen.fillRect(this.x(now) - 1, 0, 2, this.height - AXIS + 4);
    }
    pen.restore();
    this.drawKeyboard(pen, pressed);
    if (this.requested) this.drawControlLabels(pen);
  }

  drawGrid(pen, right) {
    const width = right - this.keys;
    for (let pitch = this.low; pitch <= this.high; pitch++) {
      const y = this.y(pitch);
      if (BLACK_KEYS.has(pitch % 12)) {
        pen.fillStyle = colors.row;
        pen.fillRect(this.keys, y, width, this.row);
      }
      if (pitch % 12 === 0 || pitch % 12 === 5) {
        pen.fillStyle = pitch % 12 ? colors.line : colors.octave;
        pen.fillRect(this.keys, y + this.row - 0.5, width, 1);
      }
    }
    const step = [1, 2, 5, 10, 15, 30, 60].find((s) => s * this.scale >= 56) || 60;
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "alphabetic";
    const first = Math.floor(this.roll.scrollLeft / this.scale / step) * step;
    for (let second = first; this.x(second) < right + 1; second += step) {
      const x = this.x(second);
      pen.fillStyle = colors.line;
      pen.fillRect(x, this.top, 1, this.bottom - this.top + 3);
      pen.fillStyle = colors.soft;
      pen.textAlign = second ? x > right - 14 ? "right" : "center" : "left";
      pen.fillText(`${second} s`, x, this.bottom + 15);
    }
  }

  // The requested pitch classes and density, and the generated density as a line.
  drawControl(pen, right) {
    const {times, low, high, histogram} = this.requested;
    const end = Math.max(MIN_SECONDS, this.seconds);
    const largest = Math.max(250, ...histogram.map((row) => Math.max(...row || [0])));
    const startOf = (i) => i ? Math.min(times[i], end) : 0;
    pen.fillStyle = colors["requested-ground"];
    pen.fillRect(this.keys, MARGIN, right - this.keys, 12 * CLASS_ROW);
    pen.fillStyle = colors.requested;
    for (let i = 0; i < times.length; i++) {
      const from = Math.round(this.x(startOf(i)));
      const to = Math.round(i + 1 < times.length ? this.x(startOf(i + 1)) : right);
      if (to < this.keys || from > this.width || to <= from) continue;
      for (let c = 0; histogram[i] && c < 12; c++) {  // null: open
        pen.globalAlpha = Math.min(1, histogram[i][c] / largest);
        pen.fillRect(from, MARGIN + (11 - c) * CLASS_ROW, to - from, CLASS_ROW - 1);
      }
      if (high[i] === null) continue;
      pen.globalAlpha = 0.4;
      const top = this.densityY(high[i] + 0.5);
      pen.fillRect(from, top, to - from, this.densityY(low[i] - 0.5) - top);
    }
    pen.globalAlpha = 1;
    pen.fillStyle = colors.octave;
    pen.fillRect(this.keys, DENSITY_BASE, right - this.keys, 1);
    pen.strokeStyle = colors.generated;
    pen.lineWidth = 1.3;
    pen.lineJoin = "round";
    pen.beginPath();
    this.generated.forEach((notes, i) => pen.lineTo(this.x(0.25 * i), this.densityY(notes)));
    pen.stroke();
  }

  // Draw the notes in view, and return the pitches that sound now.
  drawNotes(pen, now) {
    const pressed = new Set(), active = this.playback || this.position > 0;
    const start = this.roll.scrollLeft / this.scale;
    const end = start + (this.width - this.keys) / this.scale;
    for (const note of this.notes) {
      if (note.start > end) break;
      if (note.end < start) continue;
      const sounds = active && note.start <= now && now < note.end;
      if (sounds) pressed.add(note.pitch);
      const width = Math.max(2, (note.end - note.start) * this.scale - 0.6);
      const ramp = note.given ? colors.given : colors.velocity;
      pen.fillStyle = sounds ? colors.active : ramp[note.velocity];
      pen.beginPath();
      pen.roundRect(this.x(note.start), this.y(note.pitch) + 0.4, width, this.row - 0.8, 1.5);
      pen.fill();
    }
    return pressed;
  }

  drawKeyboard(pen, pressed) {
    const width = this.keys - 4, height = this.bottom - this.top;
    pen.save();
    pen.fillStyle = colors.sheet;
    pen.fillRect(0, 0, this.keys, this.height);
    pen.beginPath();
    pen.rect(0, this.top, width, height);
    pen.clip();
    for (let pitch = this.low - 1; pitch <= this.high + 1; pitch++) {
      if (BLACK_KEYS.has(pitch % 12)) continue;
      // a white key extends under half of its black neighbors
      const above = BLACK_KEYS.has((pitch + 1) % 12) ? 0.5 : 0;
      const below = BLACK_KEYS.has((pitch + 11) % 12) ? 0.5 : 0;
      const y = this.y(pitch) - above * this.row, size = (1 + above + below) * this.row;
      pen.fillStyle = pressed.has(pitch) ? colors.active : colors["white-key"];
      pen.fillRect(0, y, width, size);
      pen.fillStyle = colors.edge;
      pen.fillRect(0, y + size - 0.5, width, 0.8);
    }
    for (let pitch = this.low - 1; pitch <= this.high + 1; pitch++) {
      if (!BLACK_KEYS.has(pitch % 12)) continue;
      pen.fillStyle = pressed.has(pitch) ? colors.active : colors["black-key"];
      pen.fillRect(0, this.y(pitch) + 0.4, 0.6 * width, this.row - 0.8);
    }
    pen.restore();
    pen.fillStyle = colors.edge;
    pen.fillRect(width, this.top, 1, height);
    pen.textAlign = "right";
    pen.textBaseline = "alphabetic";
    pen.font = "9px system-ui, sans-serif";
    pen.fillStyle = "#4a4a55";
    for (let pitch = Math.ceil(this.low / 12) * 12; pitch <= this.high; pitch += 12) {
      pen.fillText(`C${pitch / 12 - 1}`, width - 2, this.y(pitch) + this.row - 0.5);
    }
  }

  // The names of the pitch classes, and the scale of the density.
  drawControlLabels(pen) {
    const right = this.keys - 4;
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    pen.font = "8px system-ui, sans-serif";
    DATA.pitch_names.forEach((name, c) => {
      const black = BLACK_KEYS.has(c);
      pen.fillStyle = black ? colors.soft : colors.ink;
      pen.fillText(name, black ? right - 11 : right, MARGIN + (11.5 - c) * CLASS_ROW);
    });
    pen.font = "9px system-ui, sans-serif";
    pen.fillStyle = colors.soft;
    for (let notes = 0; notes < this.densityTop; notes += this.densityStep) {
      const y = clamp(this.densityY(notes), DENSITY_BASE - DENSITY + 4, DENSITY_BASE - 3);
      pen.fillText(notes, right, y);
    }
  }
}

loadColors();
const samples = new Map([...document.querySelectorAll("article")].map(
  (article, i) => [article, new Sample(article, DATA.samples[i])]));
const redraw = () => samples.forEach((sample) => sample.visible && sample.setVisible(true));
const observer = new IntersectionObserver((entries) => {
  for (const entry of entries) samples.get(entry.target).setVisible(entry.isIntersecting);
}, {rootMargin: "300px"});
samples.forEach((_, article) => observer.observe(article));
darkMode.addEventListener("change", () => { loadColors(); redraw(); });
addEventListener("resize", redraw);
})();
