// The scrolling piano roll of the live page.
import {PianoRoll, sizeCanvas} from "./roll.js";

const AHEAD = 0.6;      // seconds of the future at the right
const SCALE = 70;       // pixels per second
const stillness = matchMedia("(prefers-reduced-motion: reduce)");

export class LiveRoll {
  constructor(element, session) {
    Object.assign(this, {element, session});
    this.canvas = element.querySelector("canvas");
  }

  resize() {
    this.width = this.element.clientWidth;
    const isNarrow = this.width < 560, row = isNarrow ? 3 : 4;
    this.roll = new PianoRoll({low: 21, high: 108, top: 0, row, keys: isNarrow ? 30 : 40});
    this.pen = sizeCanvas(this.canvas, this.width, this.roll.bottom);
    this.drawBackground();
  }

  setColors(colors) {
    this.colors = colors;
    this.drawBackground();
  }

  // Draw what stays the same, the rows, into a canvas of its own.
  drawBackground() {
    if (!this.colors || !this.roll) return;
    this.background = document.createElement("canvas");
    const pen = sizeCanvas(this.background, this.width, this.roll.bottom);
    this.roll.drawRows(pen, this.colors, this.width);
    this.shownKeys = null;
  }

  draw() {
    if (!this.colors) return;
    const {pen, roll, colors, width, session} = this, now = session.now() / 1000;
    const span = (width - roll.keys) / SCALE;
    // with reduced motion the picture stands still, and turns like a page
    const page = span - AHEAD;
    const left = stillness.matches ? Math.max(0, Math.floor(now / page) * page) : now - page;
    const x = (second) => roll.keys + (second - left) * SCALE;
    pen.save();
    pen.beginPath();
    pen.rect(roll.keys, 0, width - roll.keys, roll.bottom);
    pen.clip();
    pen.clearRect(0, 0, width, roll.bottom);
    pen.drawImage(this.background, 0, 0, width, roll.bottom);
    for (let second = Math.max(0, Math.ceil(left)); second < left + span; second++) {
      pen.fillStyle = second % 5 ? colors.line : colors.octave;
      pen.fillRect(x(second), 0, 1, roll.bottom);
    }
    const pressed = new Map(), notes = session.timeline.notes;
    for (let i = notes.length - 1; i >= 0 && notes[i].start / 1000 > left - 20; i--) {
      const note = notes[i], start = note.start / 1000, isPlayer = note.source === "player";
      const end = Math.min(note.end / 1000, Math.max(now, session.clock / 1000));
      if (end < left) continue;
      const sounds = session.isPlaying && start <= now && now < note.end / 1000;
      if (sounds) pressed.set(note.pitch, isPlayer ? colors.player : colors.active);
      const color = isPlayer ? colors.player : sounds ? colors.active : colors.velocity[note.velocity];
      roll.drawNote(pen, color, note.pitch, x(start), (end - start) * SCALE);
    }
    pen.fillStyle = colors.active;
    pen.fillRect(x(now) - 0.5, 0, 1, roll.bottom);
    pen.restore();
    session.pressed = pressed;
    const keys = [...pressed].join();
    if (keys === this.shownKeys) return;
    this.shownKeys = keys;
    roll.drawKeyboard(pen, colors, pressed, roll.bottom);
  }
}
