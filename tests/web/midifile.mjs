// MIDI files in node: `node midifile.mjs read FILE` prints its notes or the error; `write FILE` writes notes and
// texts, given as JSON on standard input; `encode FILE PAGE` prints the events of the last 20 s.
import {readFileSync, writeFileSync} from "node:fs";
import {encodeNotes, measureEvents, readMidi, writeMidi} from "../../web/js/midi.js";
import {loadPage} from "./page.mjs";

function read(file) {
  try {
    return readMidi(new Uint8Array(readFileSync(file)));
  } catch (error) {
    return error.message;
  }
}

const [action, path, page] = process.argv.slice(2);
if (action === "write") {
  const {notes, texts} = JSON.parse(readFileSync(0, "utf8"));
  writeFileSync(path, writeMidi(notes, texts));
} else {
  const notes = read(path);
  if (action === "read") console.log(JSON.stringify(notes));
  else {
    const {model} = (await loadPage(page, true)).data, events = encodeNotes(notes, model, 20000);
    console.log(JSON.stringify({events, controls: measureEvents(events, model.durations, 12)}));
  }
}
