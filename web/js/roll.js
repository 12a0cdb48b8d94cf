// The picture of a piano roll: rows of pitches, notes, and a keyboard at the left.
import {BLACK_KEYS} from "./theme.js";

export class PianoRoll {
  // low, high: pitches; top: of the rows; row: height of a row; keys: width of the keyboard.
  constructor({low, high, top, row, keys}) {
    Object.assign(this, {low, high, top, row, keys, bottom: top + (high - low + 1) * row});
  }

  y(pitch) { return this.top + (this.high - pitch) * this.row; }

  drawRows(pen, colors, right) {
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
  }

  drawNote(pen, color, pitch, x, width) {
    pen.fillStyle = color;
    pen.beginPath();
    pen.roundRect(x, this.y(pitch) + 0.4, Math.max(2, width - 0.6), this.row - 0.8, 1.5);
    pen.fill();
  }

  // pressed: a color for each pitch that sounds.
  drawKeyboard(pen, colors, pressed, height) {
    const width = this.keys - 4;
    pen.save();
    pen.fillStyle = colors.sheet;
    pen.fillRect(0, 0, this.keys, height);
    pen.beginPath();
    pen.rect(0, this.top, width, this.bottom - this.top);
    pen.clip();
    for (let pitch = this.low - 1; pitch <= this.high + 1; pitch++) {
      if (BLACK_KEYS.has(pitch % 12)) continue;
      // a white key extends under half of its black neighbors
      const above = BLACK_KEYS.has((pitch + 1) % 12) ? 0.5 : 0;
      const below = BLACK_KEYS.has((pitch + 11) % 12) ? 0.5 : 0;
      const y = this.y(pitch) - above * this.row, size = (1 + above + below) * this.row;
      pen.fillStyle = pressed.get(pitch) ?? colors["white-key"];
      pen.fillRect(0, y, width, size);
      pen.fillStyle = colors.edge;
      pen.fillRect(0, y + size - 0.5, width, 0.8);
    }
    for (let pitch = this.low - 1; pitch <= this.high + 1; pitch++) {
      if (!BLACK_KEYS.has(pitch % 12)) continue;
      pen.fillStyle = pressed.get(pitch) ?? colors["black-key"];
      pen.fillRect(0, this.y(pitch) + 0.4, 0.6 * width, this.row - 0.8);
    }
    pen.restore();
    pen.fillStyle = colors.edge;
    pen.fillRect(width, this.top, 1, this.bottom - this.top);
    pen.textAlign = "right";
    pen.textBaseline = "alphabetic";
    pen.font = "9px system-ui, sans-serif";
    pen.fillStyle = "#4a4a55";
    for (let pitch = Math.ceil(this.low / 12) * 12; pitch <= this.high; pitch += 12) {
      const name = `C${pitch / 12 - 1}`;
      // the name is higher than its row: in the topmost row it moves down into the picture
      const height = Math.ceil(pen.measureText(name).actualBoundingBoxAscent);
      pen.fillText(name, width - 2, Math.max(height, this.y(pitch) + this.row - 0.5));
    }
  }
}

// Set the size of a canvas in CSS pixels, and return its pen.
export function sizeCanvas(canvas, width, height) {
  const ratio = Math.min(3, devicePixelRatio || 1);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  return pen;
}
