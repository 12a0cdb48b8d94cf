// The controls on the screen: pitch classes, faders, presets, and their form in a link.
import {normalize} from "./control.js";
import {BLACK_KEYS, clamp} from "./theme.js";

const THROTTLE_MS = 150;
// scale, density level, temperature, and controls that not every session has; others become open
const PRESETS = [
  {name: "Nocturne", root: 3, scale: "major", density: 2, loudness: 46, touch: 1.5, temperature: 0.9},
  {name: "Ballad", root: 5, scale: "major", density: 4, loudness: 56, touch: 1, temperature: 0.95},
  {name: "Toccata", root: 2, scale: "minor", density: 9, loudness: 76, touch: 0.15, temperature: 0.95},
  {name: "Blues", root: 0, scale: "blues", density: 4, temperature: 1},
  {name: "Whole tones", root: 0, scale: "whole tone", density: 3, temperature: 1},
  {name: "Storm", root: 0, scale: "dim7", density: 11, loudness: 86, temperature: 1.05},
  {name: "Open", root: null, scale: "", density: null, temperature: 0.95},
];

export class ControlPanel {
  // onChange: called with {request, temperature, usesPlan} when the user changes a control.
  constructor(data, onChange) {
    const {pitch_names: names, scales, chords, faders, start} = data;
    Object.assign(this, {scales, chords, onChange});
    this.makePitches(names);
    this.makeFaders(faders);
    this.makeMenus(names);
    this.showStart(start);
    this.plan = document.getElementById("plan");
    if (this.plan) this.plan.onchange = () => this.send();
    document.getElementById("surprise").onclick = () => this.surprise();
  }

  showStart(start) {
    for (const [name, check] of Object.entries(this.leave)) {
      check.checked = start[name] === null && !(name === "histogram" && start.scale);
      if (name !== "histogram" && !check.checked) this.setFader(name, start[name]);
    }
    if (start.scale) this.setScale(start.root, start.scale);
    else this.setHistogram(start.histogram ?? new Array(12).fill(1));
    this.show();
  }

  // ---------------------------------------------------------------------- pitch classes

  makePitches(names) {
    const root = document.getElementById("histogram");
    this.pitches = names.map((name, pitch) => {
      const label = document.createElement("label"), input = document.createElement("input");
      const fill = document.createElement("i"), text = document.createElement("span");
      Object.assign(input, {type: "range", min: 0, max: 100, value: 50});
      input.setAttribute("aria-label", `Weight of ${name.replace("♯", " sharp")}`);
      text.textContent = name;
      label.append(fill, text, input);
      label.classList.toggle("black", BLACK_KEYS.has(pitch));
      root.querySelector(".pitches").append(label);
      input.oninput = () => {
        this.setPitch(pitch, Number(input.value));
        this.scale.value = "";
        this.change("histogram");
      };
      return {input, label};
    });
    this.leave = {histogram: root.querySelector(".leave")};
    this.leave.histogram.onchange = () => this.send();
    this.sections = {histogram: root};
  }

  setPitch(pitch, value) {
    const {input, label} = this.pitches[pitch];
    input.value = value;
    label.style.setProperty("--value", value);
  }

  setHistogram(weights) {
    const largest = Math.max(...weights, 1e-9);
    weights.forEach((weight, pitch) => this.setPitch(pitch, Math.round(100 * weight / largest)));
  }

  setScale(root, name) {
    this.root.value = root;
    this.scale.value = name;
    const weights = new Array(12).fill(0);
    (this.scales[name] ?? this.chords[name]).forEach((weight, step) => { weights[(step + root) % 12] = weight; });
    this.setHistogram(weights);
  }

  makeMenus(names) {
    this.root = document.getElementById("root");
    this.scale = document.getElementById("scale");
    this.root.append(...names.map((name, i) => new Option(name, i)));
    this.scale.append(new Option("own choice", ""));
    for (const [label, group] of [["Scales", this.scales], ["Chords", this.chords]]) {
      const options = document.createElement("optgroup");
      options.label = label;
      options.append(...Object.keys(group).map((name) => new Option(name, name)));
      this.scale.append(options);
    }
    this.root.onchange = this.scale.onchange = () => {
      if (!this.scale.value) return;
      this.setScale(Number(this.root.value), this.scale.value);
      this.change("histogram");
    };
    const preset = document.getElementById("preset");
    preset.append(new Option("choose", ""), ...PRESETS.map(({name}) => new Option(name, name)));
    preset.onchange = () => {
      const chosen = PRESETS.find(({name}) => name === preset.value);
      if (chosen) this.apply(chosen);
    };
  }

  // ---------------------------------------------------------------------------- faders

  // faders: [{name, label, meaning, low, high, isLog, step, value, unit, texts, words}], see
  // web/live.py; "temperature" cannot be open.
  makeFaders(faders) {
    this.faders = {};
    for (const fader of faders) {
      const box = document.createElement("div"), label = document.createElement("label");
      const input = document.createElement("input"), output = document.createElement("output");
      box.className = "fader";
      label.textContent = fader.label;
      label.htmlFor = input.id = `fader-${fader.name}`;
      const [min, max] = [fader.low, fader.high].map(fader.isLog ? Math.log : Number);
      Object.assign(input, {type: "range", min, max, step: fader.step});
      box.title = fader.meaning;
      output.htmlFor = input.id;
      const first = document.createElement("span");
      first.className = "row";
      first.append(label);
      if (fader.name !== "temperature") {
        const open = document.createElement("label"), check = document.createElement("input");
        check.type = "checkbox";
        check.setAttribute("aria-label", `Leave ${fader.label} open`);
        open.className = "switch";
        open.append(check, " open");
        first.append(open);
        check.onchange = () => this.send();
        this.leave[fader.name] = check;
      }
      box.append(first, output, input);
      input.style.gridColumn = "1 / 3";
      document.getElementById("faders").append(box);
      this.sections[fader.name] = box;
      this.faders[fader.name] = {...fader, min, max, input, output};
      input.oninput = () => this.change(fader.name);
      this.setFader(fader.name, fader.value);
    }
  }

  setFader(name, value) {
    const {input, output, texts, words, unit, step, isLog} = this.faders[name];
    const scale = isLog ? Math.log : Number;
    input.value = scale(value);
    const number = this.readFader(name);
    const word = Object.entries(words ?? {}).find(
      ([, meant]) => Math.abs(scale(meant) - scale(number)) < Math.max(step, 0.5 * !isLog) / 2);
    const text = texts ? texts[Math.round(number)]
      : `${word ? `${word[0]}, ` : ""}${+number.toPrecision(3)}${unit}`;
    output.textContent = text;
    input.setAttribute("aria-valuetext", text);
  }

  readFader(name) {
    const {input, isLog} = this.faders[name];
    return isLog ? Math.exp(Number(input.value)) : Number(input.value);
  }

  // ----------------------------------------------------------------------------- values

  weights() { return this.pitches.map(({input}) => Number(input.value)); }

  // Return the controls as the worker gets them.
  controls() {
    const request = {};
    for (const [name, check] of Object.entries(this.leave)) {
      if (check.checked) request[name] = null;
      else if (name === "histogram") request[name] = normalize(this.weights());
      else request[name] = this.readFader(name);
    }
    return {request, temperature: this.readFader("temperature"), usesPlan: Boolean(this.plan?.checked)};
  }

  // The user has moved a control: it is no longer open, and no longer follows a plan.
  change(name) {
    if (this.leave[name]) this.leave[name].checked = false;
    if (name !== "histogram") this.setFader(name, this.readFader(name));
    if (this.plan && name !== "temperature") this.plan.checked = false;
    this.send();
  }

  // Pass the controls on, at most every THROTTLE_MS.
  send() {
    this.show();
    if (this.timer) return;
    this.timer = setTimeout(() => { this.timer = 0; this.onChange(this.controls()); }, THROTTLE_MS);
  }

  show() {
    for (const [name, check] of Object.entries(this.leave)) {
      this.sections[name].classList.toggle("open", check.checked);
    }
  }

  // Set everything from {root, scale, density, temperature, ...}; what is missing becomes open.
  apply(values) {
    for (const [name, check] of Object.entries(this.leave)) {
      if (name === "histogram") continue;
      check.checked = values[name] === null || values[name] === undefined;
      if (!check.checked) this.setFader(name, values[name]);
    }
    this.setFader("temperature", values.temperature);
    this.leave.histogram.checked = !values.scale;
    if (values.scale) this.setScale(values.root, values.scale);
    if (this.plan) this.plan.checked = false;
    this.send();
  }

  surprise() {
    const pick = (list) => list[Math.floor(Math.random() * list.length)];
    const values = {root: pick([...Array(12).keys()]), scale: pick(Object.keys(this.scales))};
    for (const [name, {min, max, step, isLog}] of Object.entries(this.faders)) {
      // all controls at random, up to their ends, would often contradict each other
      const isMain = name === "density" || name === "temperature";
      if (!isMain && Math.random() < 0.5) continue;  // open
      const share = isMain ? Math.random() : 0.2 + 0.6 * Math.random();
      const value = min + Math.round(share * (max - min) / step) * step;
      values[name] = isLog ? Math.exp(value) : value;
    }
    values.temperature = 0.85 + 0.2 * Math.random();
    this.apply(values);
  }

  // Return the requested controls in the grammar of generate.py's -c.
  describe() {
    const {histogram, density, ...others} = this.controls().request;
    const fields = histogram ? [this.weights().join(",")] : [];
    if (density !== null && density !== undefined) fields.push(density);
    for (const [name, value] of Object.entries(others)) {
      if (value !== null) fields.push(`${name} ${+value.toFixed(3)}`);
    }
    return fields.join("; ") || "none";
  }

  // Return the controls as names and texts for a link.
  toLink() {
    const {request, temperature} = this.controls();
    const texts = {temperature: temperature.toFixed(2)};
    for (const [name, value] of Object.entries(request)) {
      texts[name] = value === null ? "open" : name === "histogram" ? this.weights().join(" ") : String(+value.toFixed(3));
    }
    return texts;
  }

  // Set the controls that a link has; other texts are ignored.
  fromLink(link) {
    for (const [name, {min, max, isLog}] of Object.entries(this.faders)) {
      const value = Number(link.get(name) || NaN), scaled = isLog ? Math.log(value) : value;
      if (Number.isFinite(scaled)) this.setFader(name, isLog ? Math.exp(clamp(scaled, min, max)) : clamp(value, min, max));
    }
    for (const [name, check] of Object.entries(this.leave)) {
      if (link.has(name)) check.checked = link.get(name) === "open";
    }
    const weights = (link.get("histogram") ?? "").split(" ").map(Number);
    if (weights.length === 12 && weights.every((weight) => weight >= 0 && weight <= 100)) {
      weights.forEach((weight, pitch) => this.setPitch(pitch, weight));
    }
    if (this.plan && link.has("density")) this.plan.checked = false;
    this.show();
  }
}
