// The listening test: plays excerpts, keeps ratings in this browser, and saves them as a file.
import {Piano} from "./piano.js";

const find = (id) => document.getElementById(id);
const DATA = JSON.parse(find("data").textContent);
const KEY = `listening-test-${DATA.test}`;
const inputs = [...document.querySelectorAll("input[type=radio]")];
let piano = null, playing = null;

// Ratings by "trial-place", from the last visit. Without storage they last until the page closes.
function loadRatings() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? {};
  } catch {
    return {};
  }
}

const ratings = loadRatings();

function storeRatings() {
  try {
    localStorage.setItem(KEY, JSON.stringify(ratings));
  } catch {
    // private windows have no storage
  }
}

function stop() {
  if (!playing) return;
  clearTimeout(playing.timer);
  for (const voice of playing.voices) voice.cancel();
  playing.bus.disconnect();
  playing.button.textContent = playing.label;
  playing = null;
}

async function play(button) {
  const same = playing?.button === button;
  stop();
  if (same) return;
  piano ??= new Piano();
  await piano.context.resume();
  const {notes, gain} = DATA.trials[button.dataset.trial][button.dataset.place];
  const bus = piano.context.createGain(), start = piano.context.currentTime + 0.15;
  bus.gain.value = gain;
  bus.connect(piano.output);
  const voices = notes.map(([begin, end, pitch, velocity]) => {
    const voice = piano.strike(pitch, velocity, start + begin / 1000, {bus});
    voice.release(start + end / 1000);
    return voice;
  });
  const label = button.textContent;
  button.textContent = "Stop";
  playing = {button, label, bus, voices, timer: setTimeout(stop, 1000 * DATA.seconds + 1500)};
}

function showProgress() {
  const trials = document.querySelectorAll("article");
  trials.forEach((article, trial) => {
    const rated = DATA.trials[trial].every((_, place) => `${trial}-${place}` in ratings);
    article.classList.toggle("done", rated);
  });
  const done = document.querySelectorAll("article.done").length;
  find("progress").textContent = `${done} of ${trials.length} trials rated`;
}

function save() {
  const content = JSON.stringify({test: DATA.test, ratings}, null, 1);
  const url = URL.createObjectURL(new Blob([content], {type: "application/json"}));
  const link = Object.assign(document.createElement("a"), {href: url, download: "ratings.json"});
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

for (const button of document.querySelectorAll("button[data-trial]")) {
  button.addEventListener("click", () => play(button));
}
for (const input of inputs) {
  input.checked = ratings[input.name] === Number(input.value);
  input.addEventListener("change", () => {
    ratings[input.name] = Number(input.value);
    storeRatings();
    showProgress();
  });
}
find("save").addEventListener("click", save);
showProgress();
