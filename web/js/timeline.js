// The notes of the session and of the player: what was scheduled, and so what is saved.

const SHORTEST = 15, KEPT_MS = 3600e3;  // ms

export class Timeline {
  constructor() { this.clear(); }

  clear() {
    this.notes = [];        // {start, end, pitch, velocity, source} in ms; end Infinity: it sounds
    this.open = new Map();  // the sounding note of each source and pitch
    this.last = new Map();  // the last note of each source and pitch
  }

  // Add a note on and return its note.
  strike(source, pitch, velocity, time) {
    const previous = this.last.get(source + pitch);
    if (previous) previous.end = Math.min(previous.end, time);  // notes of a key do not overlap
    const note = {start: time, end: Infinity, pitch, velocity, source};
    this.open.set(source + pitch, note);
    this.last.set(source + pitch, note);
    this.notes.push(note);
    return note;
  }

  // End the sounding note of a key and return it, if there is one.
  release(source, pitch, time) {
    const note = this.open.get(source + pitch);
    if (!note) return null;
    note.end = Math.max(time, note.start + SHORTEST);
    this.open.delete(source + pitch);
    return note;
  }

  // Undo what the session does from a time on. Return the notes that are removed and those that
  // sound again because their end is undone.
  cancel(time) {
    const removed = [], reopened = [];
    this.notes = this.notes.filter((note) => {
      if (note.source !== "session" || note.end < time) return true;
      if (note.start >= time) {
        removed.push(note);
        return false;
      }
      if (note.end < Infinity) reopened.push(note);
      note.end = Infinity;
      return true;
    });
    for (const note of removed) {
      const key = "session" + note.pitch;
      if (this.open.get(key) === note) this.open.delete(key);
      if (this.last.get(key) === note) this.last.delete(key);
    }
    for (const note of reopened) {
      this.open.set("session" + note.pitch, note);
      this.last.set("session" + note.pitch, note);
    }
    return {removed, reopened};
  }

  // Return the notes until `now`, cut off there.
  list(now) {
    const heard = this.notes.filter(({start, end}) => start < now && start < end);
    return heard.map((note) => ({...note, end: Math.min(note.end, now)}));
  }

  forgetOld(now) {
    if (this.notes.length && this.notes[0].start < now - 1.1 * KEPT_MS) {
      this.notes = this.notes.filter(({start}) => start >= now - KEPT_MS);
    }
  }
}
