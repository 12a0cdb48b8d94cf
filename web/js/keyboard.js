// Playing: a keyboard on the screen, the keys of the computer, and MIDI messages.
import {sizeCanvas} from "./roll.js";
import {BLACK_KEYS, clamp} from "./theme.js";

// places of computer keys, as semitones above a C
const CODES = ["KeyA", "KeyW", "KeyS", "KeyE", "KeyD", "KeyF", "KeyT", "KeyG", "KeyY", "KeyH",
  "KeyU", "KeyJ", "KeyK", "KeyO", "KeyL", "KeyP", "Semicolon", "Quote"];
const VELOCITY_OF_KEYS = 80, HEIGHT = 90, WHITE_WIDTH = 30;
const SUSTAIN = 64;

export class Keyboard {
  constructor(canvas, session, {lower, higher, label}) {
    Object.assign(this, {canvas, session, label});
    this.first = 48;             // the pitch of the lowest key on the screen, a C
    this.held = new Map();       // the pitch that each source holds: a code, a pointer, a MIDI key
    this.sustained = new Set();  // MIDI keys that the pedal holds
    this.isDown = false;         // the pedal
    canvas.onpointerdown = (event) => {
      event.preventDefault();
      canvas.setPointerCapture(event.pointerId);
      this.touch(event);
    };
    canvas.onpointermove = (event) => this.held.has(event.pointerId) && this.touch(event);
    canvas.onpointerup = canvas.onpointercancel = (event) => this.stop(event.pointerId);
    lower.onclick = () => this.shift(-12);
    higher.onclick = () => this.shift(12);
  }

  setColors(colors) {
    this.colors = colors;
    this.shown = null;
  }

  resize() {
    this.width = this.canvas.parentElement.clientWidth
      - parseFloat(getComputedStyle(this.canvas.parentElement).paddingLeft) * 2;
    this.whites = Math.max(8, Math.floor(this.width / WHITE_WIDTH / 7) * 7 + 1);
    this.pen = sizeCanvas(this.canvas, this.width, HEIGHT);
    this.shown = null;
    this.shift(0);
  }

  get last() { return this.first + Math.floor((this.whites - 1) / 7) * 12; }

  shift(semitones) {
    const octaves = Math.floor((this.whites - 1) / 7);
    this.first = clamp(this.first + semitones, 24, 108 - 12 * octaves);
    this.label.textContent = `C${this.first / 12 - 1} to C${this.last / 12 - 1}`;
    this.draw();
  }

  // ------------------------------------------------------------------------------ sources

  hold(source, pitch, velocity) {
    if (this.held.get(source) === pitch) return;
    this.stop(source);
    this.held.set(source, pitch);
    this.session.playKey(pitch, velocity);
  }

  stop(source) {
    const pitch = this.held.get(source);
    if (pitch === undefined) return;
    this.held.delete(source);
    if (![...this.held.values()].includes(pitch)) this.session.playKey(pitch, 0);
  }

  touch(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    const key = this.keys().filter((item) => x >= item.x && x < item.x + item.width && y < item.height)
      .sort((a, b) => b.isBlack - a.isBlack)[0];
    if (key) this.hold(event.pointerId, key.pitch, Math.round(45 + 70 * clamp(y / key.height, 0, 1)));
  }

  press(event) {
    const step = CODES.indexOf(event.code);
    if (event.code === "KeyZ" || event.code === "KeyX") this.shift(event.code === "KeyZ" ? -12 : 12);
    if (step < 0) return;
    event.preventDefault();
    if (!event.repeat) this.hold(event.code, this.first + 12 + step, VELOCITY_OF_KEYS);
  }

  lift(event) { this.stop(event.code); }

  liftAll() { for (const source of [...this.held.keys()]) this.stop(source); }

  // A message from a MIDI port.
  receive([status, first, second]) {
    const kind = status >> 4, source = `midi ${first}`;
    if (kind === 9 && second) {
      this.sustained.delete(source);
      if (this.held.has(source)) this.stop(source);
      this.hold(source, first, second);
    } else if (kind === 8 || kind === 9) {
      if (this.isDown) this.sustained.add(source);
      else this.stop(source);
    } else if (kind === 11 && first === SUSTAIN) {
      this.isDown = second >= 64;
      if (this.isDown) return;
      for (const held of this.sustained) this.stop(held);
      this.sustained.clear();
    }
  }

  // ------------------------------------------------------------------------------ picture

  keys() {
    const width = this.width / this.whites, keys = [];
    let x = 0;
    for (let pitch = this.first; pitch <= this.last; pitch++) {
      const isBlack = BLACK_KEYS.has(pitch % 12);
      if (isBlack) keys.push({pitch, isBlack, x: x - 0.3 * width, width: 0.6 * width, height: 56});
      else {
        keys.push({pitch, isBlack, x, width, height: HEIGHT});
        x += width;
      }
    }
    return keys;
  }

  draw() {
    const {pen, colors} = this;
    if (!colors) return;
    const pressed = this.session.pressed ?? new Map(), shown = [this.first, ...pressed].join();
    if (shown === this.shown) return;
    this.shown = shown;
    pen.clearRect(0, 0, this.width, HEIGHT);
    for (const isBlack of [false, true]) {
      for (const key of this.keys()) {
        if (key.isBlack !== isBlack) continue;
        pen.fillStyle = pressed.get(key.pitch) ?? colors[isBlack ? "black-key" : "white-key"];
        pen.strokeStyle = colors.edge;
        pen.beginPath();
        pen.roundRect(key.x + 0.5, 0.5, key.width - 1, key.height - 1, [0, 0, 5, 5]);
        pen.fill();
        pen.stroke();
        if (key.pitch % 12) continue;
        pen.fillStyle = "#4a4a55";
        pen.font = "11px system-ui, sans-serif";
        pen.textAlign = "center";
        pen.fillText(`C${key.pitch / 12 - 1}`, key.x + key.width / 2, HEIGHT - 8);
      }
    }
  }
}
