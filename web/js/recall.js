// Recall: the notes that followed when the same passage was played before; see corpus/recall.py.

const UNDONE_NOTES = 2000;  // the last notes that can be taken back

export class NoteMemory {
  // recall: the settings that generate.py wrote into the page: {same, moved,
  // continued, lengths_to_continue, next, max_notes, note_numbers, interval_numbers}.
  constructor(recall) {
    Object.assign(this, recall);
    this.forgotten = 0;  // notes
    this.clear();
  }

  clear() {
    this.keys = [];
    this.places = [...this.same, ...this.moved].map(() => new Map());
    this.found = [];  // [place, kind] after the last notes
    this.changes = [];  // of the last notes, to take them back
  }

  get count() { return this.forgotten + this.keys.length; }

  // Add a note, 0-87. Return for each of the two places how it was found (0: none) and the next notes.
  add(key) {
    if (this.keys.length >= this.max_notes) this.forget();
    this.keys.push(key);
    this.changes.push({found: this.found, places: []});
    if (this.changes.length > 2 * UNDONE_NOTES) this.changes.splice(0, UNDONE_NOTES);
    const same = this.look(this.same, 0, this.sumNotes(), (sum) => sum * 128 + key);
    const moved = this.look(this.moved, this.same.length, this.sumIntervals(), (sum) => sum);
    const place = this.continuePassage(same), distance = moved[1] ? key - this.keys[moved[0]] : 0;
    return [...this.describe(place, 0), ...this.describe(moved, distance)];
  }

  forget() {
    const keys = this.keys.slice(this.max_notes / 2);
    this.forgotten += this.keys.length - keys.length;
    this.clear();
    for (const key of keys) this.add(key);
  }

  // Take notes back until there are `count`.
  truncate(count) {
    while (this.count > count && this.changes.length) {
      const {found, places} = this.changes.pop();
      this.keys.pop();
      this.found = found;
      for (const [map, notes, before] of places.reverse()) {
        if (before === undefined) map.delete(notes);
        else map.set(notes, before);
      }
    }
  }

  // Return the sums of the numbers of the last 1, 2, 3, ... notes.
  sumNotes() {
    let sum = 0;
    return this.keys.slice(-this.same[0]).reverse().map((key) => sum += this.note_numbers[key]);
  }

  // Return the sums of the intervals to the newest note: of the last 1 (which is 0), 2, 3, ... notes.
  sumIntervals() {
    const [newest, ...before] = this.keys.slice(-this.moved[0]).reverse();
    const zero = (this.interval_numbers.length - 1) / 2;
    let sum = 0;
    return [0, ...before.map((key) => sum += this.interval_numbers[key - newest + zero])];
  }

  // Return the latest place with the longest passage, and its kind. first: index of the maps.
  look(lengths, first, sums, combine) {
    const number = this.keys.length - 1, {places} = this.changes.at(-1);
    let best = [-1, 0];
    lengths.forEach((length, i) => {
      if (length > number + 1) return;
      const map = this.places[first + i], notes = combine(sums[length - 1]);
      const before = map.get(notes);
      if (before !== undefined && best[0] < 0) best = [before, i + 1];
      places.push([map, notes, before]);
      map.set(notes, number);
    });
    return best;
  }

  // Return the place found now, or that of one of the last notes.
  continuePassage(found) {
    const number = this.keys.length - 1, isLong = (kind) => kind >= 1 && kind <= this.lengths_to_continue;
    let chosen = found;
    for (let later = 1; later <= this.continued && !isLong(found[1]); later++) {
      const [place, kind] = this.found.at(-later) ?? [-1, 0];
      if (isLong(kind) && place + later < number) {
        chosen = [place + later, this.same.length + later];
        break;
      }
    }
    this.found = [...this.found.slice(1 - this.continued), found];
    return chosen;
  }

  describe([place, kind], distance) {
    const row = [kind];
    for (let ahead = 1; ahead <= this.next; ahead++) {
      const key = kind && place + ahead < this.keys.length ? this.keys[place + ahead] + distance : -1;
      row.push(key >= 0 && key < this.note_numbers.length ? key + 1 : 0);
    }
    return row;
  }
}
