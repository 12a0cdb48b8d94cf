// The page of pieces: draws the notes of each sample and plays them on the piano.
import {Piano} from "./piano.js";
import {PianoRoll, sizeCanvas} from "./roll.js";
import {BLACK_KEYS, clamp, formatTime, loadColors, onThemeChange} from "./theme.js";

const DATA = JSON.parse(document.getElementById("data").textContent);
const MIN_SCALE = 15;   // pixels per second
const LOOKAHEAD = 1.3;  // seconds scheduled in advance: browsers wake a hidden tab once a second
const MIN_SECONDS = 5;  // length of the time axis
// heights of the parts of the picture, in pixels
const MARGIN = 3, CLASS_ROW = 8, DENSITY = 44, GAP = 8, AXIS = 20, CURVE = 64;
const VALUE_ROW = 18;  // of a control such as loudness
const DENSITY_BASE = MARGIN + 12 * CLASS_ROW + GAP + DENSITY;
const MOVES = {ArrowLeft: -5, ArrowRight: 5, PageDown: -20, PageUp: 20, Home: -1e9, End: 1e9};

const find = (id) => document.getElementById(id);
const maximum = (values, start) => values.reduce((a, b) => Math.max(a, b), start);

let colors = {};
let piano = null;  // made at the first click, because browsers allow no sound before
const settings = {volume: 1, speed: 1, isLoop: false, isAll: false};

// ------------------------------------------------------------------------------ one sample

class Sample {
  constructor(article, data) {
    this.article = article;
    this.requested = data.requested;
    this.canvas = article.querySelector("canvas");
    this.rollElement = article.querySelector(".roll");
    this.playButton = article.querySelector(".play");
    this.stopButton = article.querySelector(".stop");
    this.clock = article.querySelector(".clock");
    const [starts, ends, pitches, velocities] = data.notes;
    this.notes = starts.map((start, i) => ({start: start / 1000, end: ends[i] / 1000,
      pitch: pitches[i], velocity: velocities[i], shade: data.shades?.[i] ?? velocities[i],
      isGiven: data.given?.[i]}))
      .sort((a, b) => a.start - b.start);
    this.seconds = maximum(ends, 0) / 1000;
    this.low = pitches.reduce((a, b) => Math.min(a, b), 50) - 3;
    this.high = maximum(pitches, 70) + 3;
    this.generated = data.generated;  // notes/s, each quarter of a second after the primer
    this.primer = data.primer;        // the second at which the primer ends, or 0
    this.densityTop = data.density_top;
    this.densityStep = data.density_step;
    this.curve = data.curve;  // nats per note in each second; null: no notes
    this.position = 0;     // seconds, where playback starts
    this.playback = null;  // {bus, start: context time of the position, speed, next: note index}
    this.visible = false;
    this.spacer = this.rollElement.appendChild(document.createElement("i"));
    this.playButton.onclick = () => { settings.isAll = false; this.toggle(); };
    this.stopButton.onclick = () => this.seek(0);
    this.rollElement.onscroll = () => this.draw();
    this.rollElement.onclick = (event) => {
      const x = event.clientX - this.rollElement.getBoundingClientRect().left;
      const second = (x - this.roll.keys + this.rollElement.scrollLeft) / this.scale;
      if (x >= this.roll.keys) this.seek(second, true);
    };
    this.updateButtons();
  }

  // ------------------------------------------------------------------------ playback

  toggle() { return this.playback ? this.pause() : this.start(); }

  now() {
    if (!this.playback) return this.position;
    const {start, speed} = this.playback;
    const passed = (piano.context.currentTime - start) * speed;
    return clamp(this.position + passed, this.position, this.seconds);
  }

  async start() {
    if (!this.notes.length) return;
    if (Sample.current && Sample.current !== this) Sample.current.pause();
    piano ??= new Piano();
    piano.volume.gain.value = settings.volume;
    Sample.current = Sample.last = this;
    if (this.position >= this.seconds - 0.05) this.position = 0;
    await piano.context.resume();
    if (Sample.current !== this || this.playback) return;
    const next = this.notes.filter((note) => note.start < this.position - 1e-6).length;
    for (const note of this.notes.slice(next, next + 12)) piano.prepare(note.pitch);
    const bus = piano.context.createGain();
    bus.connect(piano.output);
    this.playback = {bus, start: piano.context.currentTime + 0.12, speed: settings.speed, next};
    for (const note of this.notes.slice(0, next)) {  // already sounding
      if (note.end > this.position + 0.05) this.playNote(note, this.position - note.start);
    }
    this.schedule();
    this.timer = setInterval(() => this.schedule(), 60);
    this.updateButtons();
    requestAnimationFrame(() => this.animate());
  }

  // Return the time of the audio context at which a second sounds.
  toAudio(second) {
    const {start, speed} = this.playback;
    return start + (second - this.position) / speed;
  }

  playNote(note, offset) {
    const time = Math.max(this.toAudio(note.start + offset), piano.context.currentTime);
    const {bus} = this.playback;
    piano.strike(note.pitch, note.velocity, time, {bus, offset}).release(this.toAudio(note.end));
  }

  schedule() {
    const played = (piano.context.currentTime - this.playback.start) * this.playback.speed;
    const now = this.position + played, until = now + LOOKAHEAD * this.playback.speed;
    while (this.playback.next < this.notes.length
      && this.notes[this.playback.next].start < until) {
      this.playNote(this.notes[this.playback.next++], 0);
    }
    if (now > this.seconds + 0.3) this.finish();
  }

  // After the end: this sample again, the next one, or nothing.
  finish() {
    this.seek(0);
    const all = [...samples.values()], next = all[all.indexOf(this) + 1];
    if (settings.isAll && (next || settings.isLoop)) {
      (next ?? all[0]).start();
      (next ?? all[0]).article.scrollIntoView({block: "nearest"});
    } else if (settings.isLoop && !settings.isAll) this.start();
    else settings.isAll = false;
    showSettings();
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
    Sample.last = this;
    this.position = clamp(second, 0, this.seconds);
    this.updateButtons();
    this.scrollToPosition();
    this.draw();
    if (play && this.position > this.seconds - 0.05) this.finish();
    else if (play) this.start();
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
    this.rollElement.setAttribute("aria-valuenow", now.toFixed(2));
    if (this.clockText === text) return;
    this.clockText = text;
    this.rollElement.setAttribute("aria-valuetext", text);
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
    const x = this.now() * this.scale, view = this.rollElement.clientWidth - this.roll.keys;
    const left = this.rollElement.scrollLeft;
    if (x < left || x > left + 0.9 * view) this.rollElement.scrollLeft = x - 0.1 * view;
  }

  // ------------------------------------------------------------------------ picture

  // A canvas needs much memory: only those near the visible area have a size.
  setVisible(visible) {
    this.visible = visible;
    if (visible) { this.updateLayout(); this.draw(); } else this.canvas.width = this.canvas.height = 0;
  }

  updateLayout() {
    const width = this.rollElement.clientWidth, length = Math.max(MIN_SECONDS, this.seconds);
    const isNarrow = width < 560, rows = this.requested?.curves.length;
    const top = this.requested ? DENSITY_BASE + GAP + VALUE_ROW * rows : 0;
    const [row, keys] = isNarrow ? [4.5, 30] : [5.5, 40];
    this.roll = new PianoRoll({low: this.low, high: this.high, top, row, keys});
    this.scale = Math.max(MIN_SCALE, (width - keys) / length);
    this.width = width;
    this.axis = this.roll.bottom + (this.curve ? CURVE : 0);
    this.height = this.axis + AXIS;
    this.spacer.style.width = `${Math.floor(keys + this.scale * length)}px`;
    this.rollElement.style.minHeight = `${this.height}px`;
    this.pen = sizeCanvas(this.canvas, width, this.height);
  }

  x(second) { return this.roll.keys + second * this.scale - this.rollElement.scrollLeft; }
  densityY(notes) { return DENSITY_BASE - DENSITY * notes / this.densityTop; }

  draw() {
    if (!this.visible) return;
    const {pen, roll} = this, now = this.now();
    pen.clearRect(0, 0, this.width, this.height);
    const right = Math.min(this.width, this.x(Math.max(MIN_SECONDS, this.seconds)));
    pen.save();
    pen.beginPath();
    pen.rect(roll.keys, 0, this.width - roll.keys, this.height);
    pen.clip();
    roll.drawRows(pen, colors, right);
    this.drawTimes(pen, right);
    if (this.requested) this.drawControl(pen, right);
    if (this.curve) this.drawCurve(pen, right);
    const pressed = this.drawNotes(pen, now);
    if (this.primer) this.drawPrimerEnd(pen);
    if (this.playback || this.position > 0) {
      pen.fillStyle = colors.active;
      pen.fillRect(this.x(now) - 1, 0, 2, this.height - AXIS + 4);
    }
    pen.restore();
    roll.drawKeyboard(pen, colors, pressed, this.height);
    if (this.requested) this.drawControlLabels(pen);
    if (this.curve) this.drawCurveLabels(pen);
  }

  drawTimes(pen, right) {
    const {top} = this.roll, bottom = this.axis;
    const step = [1, 2, 5, 10, 15, 30, 60].find((s) => s * this.scale >= 56) || 60;
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "alphabetic";
    const first = Math.floor(this.rollElement.scrollLeft / this.scale / step) * step;
    for (let second = first; this.x(second) < right + 1; second += step) {
      const x = this.x(second);
      pen.fillStyle = colors.line;
      pen.fillRect(x, top, 1, bottom - top + 3);
      pen.fillStyle = colors.soft;
      pen.textAlign = second ? x > right - 14 ? "right" : "center" : "left";
      pen.fillText(`${second} s`, x, bottom + 15);
    }
  }

  // The requested pitch classes and density, and the generated density as a line.
  drawControl(pen, right) {
    const {times, low, high, histogram} = this.requested;
    const end = Math.max(MIN_SECONDS, this.seconds);
    const largest = Math.max(250, ...histogram.map((row) => Math.max(...row ?? [0])));
    const startOf = (i) => i ? Math.min(times[i], end) : 0;
    pen.fillStyle = colors["requested-ground"];
    pen.fillRect(this.roll.keys, MARGIN, right - this.roll.keys, 12 * CLASS_ROW);
    pen.fillStyle = colors.requested;
    for (let i = 0; i < times.length; i++) {
      const from = Math.round(this.x(startOf(i)));
      const to = Math.round(i + 1 < times.length ? this.x(startOf(i + 1)) : right);
      if (to < this.roll.keys || from > this.width || to <= from) continue;
      for (let c = 0; histogram[i] && c < 12; c++) {  // null: open
        pen.globalAlpha = Math.min(1, histogram[i][c] / largest);
        pen.fillRect(from, MARGIN + (11 - c) * CLASS_ROW, to - from, CLASS_ROW - 1);
      }
      if (high[i] === null) continue;
      pen.globalAlpha = 0.4;
      const top = this.densityY(high[i] + 0.25);
      pen.fillRect(from, top, to - from, this.densityY(low[i] - 0.25) - top);
    }
    pen.globalAlpha = 1;
    this.drawCurves(pen, right, startOf);
    pen.fillStyle = colors.octave;
    pen.fillRect(this.roll.keys, DENSITY_BASE, right - this.roll.keys, 1);
    pen.strokeStyle = colors.generated;
    pen.lineWidth = 1.3;
    pen.lineJoin = "round";
    pen.beginPath();
    this.generated.forEach((notes, i) => {
      pen.lineTo(this.x(this.primer + 0.25 * i), this.densityY(notes));
    });
    pen.stroke();
  }

  // Each other requested control as a line, with its name and range.
  drawCurves(pen, right, startOf) {
    this.requested.curves.forEach(([label, shares], row) => {
      const top = DENSITY_BASE + GAP / 2 + VALUE_ROW * row;
      pen.fillStyle = colors["requested-ground"];
      pen.fillRect(this.roll.keys, top, right - this.roll.keys, VALUE_ROW - 2);
      pen.fillStyle = colors.requested;
      shares.forEach((share, i) => {
        const from = this.x(startOf(i)), to = i + 1 < shares.length ? this.x(startOf(i + 1)) : right;
        if (share !== null) pen.fillRect(from, top + (VALUE_ROW - 5) * (1 - share), to - from, 3);
      });
      pen.fillStyle = colors.soft;
      pen.font = "9px system-ui, sans-serif";
      pen.textAlign = "left";
      pen.textBaseline = "middle";
      pen.fillText(label, this.roll.keys + 4, top + VALUE_ROW / 2 - 1);
    });
  }

  curveY(nats) {
    const top = Math.max(10, maximum(this.curve.map((value) => value ?? 0), 0));
    return this.axis - 2 - (CURVE - 12) * nats / top;
  }

  // The surprise of each second as a row of bars.
  drawCurve(pen, right) {
    pen.fillStyle = colors["requested-ground"];
    pen.fillRect(this.roll.keys, this.roll.bottom + 6, right - this.roll.keys, CURVE - 6);
    pen.fillStyle = colors.generated;
    this.curve.forEach((nats, second) => {
      const x = this.x(second), y = this.curveY(nats ?? 0);
      if (x < this.width) pen.fillRect(x + 0.5, y, Math.max(1, this.scale - 1), this.axis - 2 - y);
    });
  }

  drawCurveLabels(pen) {
    const top = maximum(this.curve.map((value) => value ?? 0), 0);
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    pen.font = "9px system-ui, sans-serif";
    pen.fillStyle = colors.soft;
    for (let nats = 0; nats <= top; nats += top > 20 ? 10 : 5) {
      pen.fillText(nats, this.roll.keys - 4, this.curveY(nats) - 3);
    }
  }

  drawPrimerEnd(pen) {
    const x = Math.round(this.x(this.primer)) + 0.5;
    pen.strokeStyle = pen.fillStyle = colors.ink;
    pen.lineWidth = 1;
    pen.setLineDash([4, 3]);
    pen.beginPath();
    pen.moveTo(x, 0);
    pen.lineTo(x, this.roll.bottom);
    pen.stroke();
    pen.setLineDash([]);
    pen.font = "10px system-ui, sans-serif";
    pen.textAlign = "right";
    pen.textBaseline = "top";
    pen.fillText("primer", x - 4, this.roll.top + 2);
  }

  // Draw the notes in view, and return the color of each pitch that sounds now.
  drawNotes(pen, now) {
    const pressed = new Map(), active = this.playback || this.position > 0, {roll} = this;
    const start = this.rollElement.scrollLeft / this.scale;
    const end = start + (this.width - roll.keys) / this.scale;
    for (const note of this.notes) {
      if (note.start > end) break;
      if (note.end < start) continue;
      const sounds = active && note.start <= now && now < note.end;
      if (sounds) pressed.set(note.pitch, colors.active);
      const ramp = note.isGiven ? colors.given : colors.velocity;
      const color = sounds ? colors.active : ramp[note.shade];
      roll.drawNote(pen, color, note.pitch, this.x(note.start), (note.end - note.start) * this.scale);
    }
    return pressed;
  }

  // The names of the pitch classes, and the scale of the density.
  drawControlLabels(pen) {
    const right = this.roll.keys - 4;
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

// ------------------------------------------------------------------------------ the page

colors = loadColors(DATA.palette);
const samples = new Map([...document.querySelectorAll("article")].map(
  (article, i) => [article, new Sample(article, DATA.samples[i])]));
const redraw = () => samples.forEach((sample) => sample.visible && sample.setVisible(true));
const observer = new IntersectionObserver((entries) => {
  for (const entry of entries) samples.get(entry.target).setVisible(entry.isIntersecting);
}, {rootMargin: "300px"});
samples.forEach((_, article) => observer.observe(article));
onThemeChange(() => { colors = loadColors(DATA.palette); redraw(); });
addEventListener("resize", redraw);

function showSettings() {
  find("loop").setAttribute("aria-pressed", settings.isLoop);
  find("all").setAttribute("aria-pressed", settings.isAll);
}

find("all").onclick = () => {
  settings.isAll = !settings.isAll;
  showSettings();
  const [first] = samples.values();
  if (settings.isAll && !Sample.current && first) first.start();
};
find("loop").onclick = () => {
  settings.isLoop = !settings.isLoop;
  showSettings();
};
find("speed").onchange = (event) => {
  settings.speed = Number(event.target.value);
  const {current} = Sample;
  if (current) { current.pause(); current.start(); }
};
find("volume").oninput = (event) => {
  settings.volume = Number(event.target.value) ** 2 / 0.64;
  if (piano) piano.volume.gain.value = settings.volume;
};

// The keys act on the sample that has the focus, or else on the last one.
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const {key, target} = event, article = target.closest?.("article");
  const sample = samples.get(article) ?? Sample.last ?? samples.values().next().value;
  const isButton = target.matches("button, a, select, summary");
  if (!sample || target.matches("select, input")) return;
  if ((key === " " || (key === "Enter" && target === sample.rollElement)) && !isButton) {
    settings.isAll &&= Boolean(Sample.current);
    sample.toggle();
  } else if (key === "Escape") sample.seek(0);
  else if (key in MOVES) sample.seek(sample.now() + MOVES[key], Boolean(sample.playback));
  else return;
  event.preventDefault();
});
showSettings();
