// The live page: the session plays, the controls change it, and a player joins in.
import {ControlPanel} from "./panel.js";
import {Keyboard} from "./keyboard.js";
import {LiveRoll} from "./liveroll.js";
import {readMidi, writeMidi} from "./midi.js";
import {Session} from "./session.js";
import {formatTime, loadColors, onThemeChange} from "./theme.js";

const find = (id) => document.getElementById(id);
const DATA = JSON.parse(find("data").textContent);
const MODES = ["solo", "echo", "together"];

// Return the bytes of a base64 text in the page, and remove the text.
function takeBytes(id) {
  const text = find(id).textContent.trim(), content = atob(text);
  find(id).remove();
  const bytes = new Uint8Array(content.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = content.charCodeAt(i);
  return bytes;
}

const workerUrl = URL.createObjectURL(
  new Blob([find("worker").textContent], {type: "text/javascript"}));
const makeWorker = () => new Worker(workerUrl);
const randomSeed = () => crypto.getRandomValues(new Uint32Array(1))[0];

// ------------------------------------------------------------------------------ the link

const link = new URLSearchParams(location.hash.slice(1));

function readSeed() {
  const seed = Number(link.get("seed") ?? NaN);
  return Number.isSafeInteger(seed) && seed >= 0 ? seed : DATA.seed ?? randomSeed();
}

function makeLink() {
  const values = new URLSearchParams({...panel.toLink(), seed: session.seed, mode: session.mode});
  return `${location.href.split("#")[0]}#${values}`;
}

// ------------------------------------------------------------------------------ the parts

const session = new Session(DATA, makeWorker, update);
const panel = new ControlPanel(DATA, (controls) => session.setControls(controls));
const roll = new LiveRoll(find("roll"), session);
const keyboard = new Keyboard(find("keyboard"), session, {
  lower: find("lower"), higher: find("higher"), label: find("octave"),
});

session.seed = readSeed();
session.mode = MODES.includes(link.get("mode")) ? link.get("mode") : "solo";
panel.fromLink(link);
document.querySelector(`input[value="${session.mode}"]`).checked = true;
session.controls = panel.controls();

// Show what has changed in the session.
function update(what, text) {
  if (what === "error") {
    find("status").textContent = `The session does not work in this browser: ${text}`;
    return;
  }
  if (what === "ready") {
    session.setMode(session.mode);
    find("play").disabled = find("new").disabled = false;
    showStatus();
  }
  if (what === "state") {
    find("play").textContent = session.isPlaying ? "Pause" : "Play";
    showStatus();
    if (session.isPlaying) animate();
    else draw();
  }
  find("save").disabled = !session.timeline.notes.length;
}

function showStatus(text = "") {
  find("status").dataset.late = session.late;
  const kernel = session.isSimd ? "WebAssembly SIMD" : "plain JavaScript";
  const speed = `${Math.round(session.speed)} events/s with ${kernel}`;
  const slow = session.speed && session.speed < 60 ? " This device is slow: the music may wait." : "";
  const states = {solo: "playing", echo: session.isAnswering ? "answering" : "listening", together: "playing with you"};
  const state = session.isPlaying ? states[session.mode] : "ready";
  if (session.isReady) find("status").textContent = text || `${state[0].toUpperCase()}${state.slice(1)}. ${speed}, seed ${session.seed}.${slow}`;
}

function draw() {
  find("clock").textContent = formatTime(Math.max(session.now(), 0) / 1000);
  roll.draw();
  keyboard.draw();
}

let isAnimating = false;
function animate() {
  if (isAnimating) return;
  isAnimating = true;
  const frame = () => {
    draw();
    if (session.isPlaying) requestAnimationFrame(frame);
    else isAnimating = false;
  };
  frame();
}

function setColors() {
  const colors = loadColors(DATA.palette);
  roll.setColors(colors);
  keyboard.setColors(colors);
  draw();
}

// ----------------------------------------------------------------------------- the buttons

const toggle = () => (session.isPlaying ? session.stop() : session.start());
find("play").onclick = toggle;
find("new").onclick = () => {
  const wasPlaying = session.isPlaying;
  session.reset(randomSeed());
  if (wasPlaying) session.start();
};
find("volume").oninput = (event) => session.setVolume(Number(event.target.value) ** 2 / 0.64);
find("save").onclick = () => {
  const texts = [`session: ${DATA.session}`, `seed: ${session.seed}`, `control: ${panel.describe()}`,
    `settings: ${new URLSearchParams(panel.toLink())}`];
  const content = writeMidi(session.timeline.list(session.now()), texts);
  const anchor = document.createElement("a");
  anchor.href = URL.createObjectURL(new Blob([content], {type: "audio/midi"}));
  anchor.download = `live-${session.seed}.mid`;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(anchor.href), 10000);
};
find("link").onclick = async () => {
  history.replaceState(null, "", makeLink());
  try {
    await navigator.clipboard.writeText(location.href);
    showStatus("The link is copied. It has the seed and the controls.");
  } catch {
    showStatus("The address of this page is now the link. It has the seed and the controls.");
  }
};
for (const radio of document.querySelectorAll("input[name=mode]")) {
  radio.onchange = () => { session.setMode(radio.value); showStatus(); };
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const target = event.target, isControl = target.matches("button, select, input, .button");
  if (event.key === "Escape") session.stop();
  else if (event.key === " " && (!isControl || target.matches("input[type=range]"))) {
    event.preventDefault();
    if (!find("play").disabled && !event.repeat) toggle();
  } else if (!target.matches("select")) keyboard.press(event);
});
addEventListener("keyup", (event) => keyboard.lift(event));
addEventListener("blur", () => keyboard.liftAll());

// ------------------------------------------------------------------------ continue a file

async function continueFile(file) {
  try {
    const notes = readMidi(new Uint8Array(await file.arrayBuffer()));
    if (!session.continueNotes(notes)) throw new Error("no notes on the piano");
    await session.start();
    showStatus(`Continues ${file.name}.`);
  } catch (error) {
    showStatus(`${file.name}: ${error.message}`);
  }
}

find("file").onchange = (event) => {
  const [file] = event.target.files;
  if (file) continueFile(file);
  event.target.value = "";
};
for (const [kind, isOver] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("drop", isOver);
    if (kind === "drop" && event.dataTransfer.files.length) continueFile(event.dataTransfer.files[0]);
  });
}

// ------------------------------------------------------------------------------- Web MIDI

let inputPort = null;

async function connectMidi() {
  if (!navigator.requestMIDIAccess) {
    showStatus("This browser has no Web MIDI. Computer keys and touch work.");
    return;
  }
  try {
    const access = await navigator.requestMIDIAccess();
    find("midi").hidden = true;
    find("ports").hidden = false;
    access.onstatechange = () => listPorts(access);
    listPorts(access);
  } catch {
    showStatus("The browser allows no access to MIDI. Computer keys and touch work.");
  }
}

function listPorts(access) {
  const ports = (map) => [...map.values()];
  const fill = (select, items, none) => {
    const value = select.value;
    select.replaceChildren(...[{id: "", name: none}, ...items].map(({id, name}) => new Option(name, id)));
    select.value = items.some(({id}) => id === value) ? value : "";
  };
  const inputs = ports(access.inputs), outputs = ports(access.outputs);
  fill(find("input"), inputs, "none");
  fill(find("output"), outputs, "none");
  if (!inputPort && inputs.length) find("input").value = inputs[0].id;
  const select = () => {
    if (inputPort) inputPort.onmidimessage = null;
    inputPort = inputs.find(({id}) => id === find("input").value) ?? null;
    if (inputPort) inputPort.onmidimessage = ({data}) => keyboard.receive(data);
    session.setOutput(outputs.find(({id}) => id === find("output").value) ?? null);
  };
  find("input").onchange = find("output").onchange = select;
  select();
}

find("midi").onclick = connectMidi;

// ---------------------------------------------------------------------------------- start

addEventListener("resize", () => { roll.resize(); keyboard.resize(); draw(); });
onThemeChange(setColors);
roll.resize();
keyboard.resize();
setColors();
setInterval(() => session.isPlaying && showStatus(), 2000);
// "kernel=plain" in the address: without WebAssembly, to compare
const kernel = link.get("kernel") === "plain" ? null : takeBytes("kernel");
setTimeout(() => session.load(takeBytes("weights").buffer, kernel), 30);
