// The network, step by step, with the numbers of generation/engine.py.
//
// As there, the inputs of the first GRU layer are multiplied in float32, everything else in 8 bits:
// a weight is an integer from -127 to 127 times the scale of its row; an input between -1 and 1
// is quantized to 256 levels. Typed arrays and Math.fround keep sums and products in float32.
import {hasSimd, makePlainKernel, makeSimdKernel} from "./kernel.js";

const round = Math.fround;
const HALF_EVEN = 1.5 * 2 ** 52;  // adding and subtracting it rounds half to even
const LEAK = round(0.1);

// Return the arrays of an inflated buffer. `entries`: {name: {type, shape, offset}}.
export function readArrays(buffer, entries) {
  const arrays = {};
  for (const [name, {type, shape, offset}] of Object.entries(entries)) {
    const size = shape.reduce((a, b) => a * b, 1);
    if (type === "int8") arrays[name] = new Int8Array(buffer, offset, size);
    else if (type === "float32") arrays[name] = new Float32Array(buffer, offset, size);
    else arrays[name] = decodeHalf(new Uint16Array(buffer, offset, size));
  }
  return arrays;
}

// Return 16-bit floats, given as their bits, in 32 bits.
function decodeHalf(bits) {
  return Float32Array.from(bits, (half) => {
    const sign = half & 0x8000 ? -1 : 1, exponent = (half >> 10) & 31, fraction = half & 1023;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  });
}

// Return a network. network: {sizes: {events, control, hidden, layers, init}, quantization: {scale,
// zero} of the inputs, recall: see NoteMemory, or null}; binary: the bytes of kernel.wasm, or null
// for the kernel in JavaScript.
export async function makeNetwork(arrays, {sizes, quantization, recall}, binary) {
  const layout = planMemory(sizes);
  const useSimd = binary && hasSimd(binary);
  const kernel = useSimd ? await makeSimdKernel(binary, layout.bytes) : makePlainKernel(layout.bytes);
  return new Network(arrays, sizes, quantization, recall, kernel, layout);
}

const padTo = (value, step) => Math.ceil(value / step) * step;

// Return the address of each matrix and vector in the memory of the kernel. Columns are padded to
// a multiple of 16 and rows to a multiple of 4; the state of each layer is padded by itself.
function planMemory({events, hidden, layers}) {
  const width = padTo(hidden, 16), gates = padTo(3 * hidden, 4), outputs = padTo(2 * events, 4);
  const layout = {width, gates, outputs, bytes: 0};
  const add = (name, size) => {
    layout[name] = layout.bytes;
    layout.bytes = padTo(layout.bytes + size, 16);
  };
  add("inputs", 4 * width);           // of the first layer, float32
  add("quantized", 2 * width * layers);  // the states of all layers, int16
  add("sums", 4 * Math.max(gates, outputs));
  add("input_0", 4 * gates * width);
  for (let layer = 0; layer < layers; layer++) {
    add(`hidden_${layer}`, gates * width);
    if (layer) add(`input_${layer}`, gates * width);
  }
  add("output", outputs * width * layers);
  return layout;
}

export class Network {
  constructor(arrays, sizes, quantization, recall, kernel, layout) {
    Object.assign(this, {arrays, sizes, recall, kernel, layout});
    this.scale = round(quantization.scale);
    this.inverse = round(1 / this.scale);
    this.zero = quantization.zero;
    const {buffer} = kernel, {width, gates, outputs} = layout;
    this.inputs = new Float32Array(buffer, layout.inputs, width);
    this.quantized = new Int16Array(buffer, layout.quantized, width * sizes.layers);
    this.integerSums = new Int32Array(buffer, layout.sums, Math.max(gates, outputs));
    this.floatSums = new Float32Array(buffer, layout.sums, Math.max(gates, outputs));
    this.inputGates = new Float32Array(gates);
    this.hiddenGates = new Float32Array(gates);
    this.logits = new Float32Array(sizes.events);
    this.loadWeights();
  }

  loadWeights() {
    const {buffer} = this.kernel, {layout, arrays} = this, {hidden, layers} = this.sizes;
    const copy = (Type, name, blocks = 1) => {
      const source = arrays[name], columns = hidden * blocks, stride = layout.width * blocks;
      const target = new Type(buffer, layout[name], source.length / columns * stride);
      for (let from = 0, to = 0; from < source.length; from += hidden, to += layout.width) {
        target.set(source.subarray(from, from + hidden), to);
      }
    };
    copy(Float32Array, "input_0");
    for (let layer = 0; layer < layers; layer++) {
      copy(Int8Array, `hidden_${layer}`);
      if (layer) copy(Int8Array, `input_${layer}`);
    }
    copy(Int8Array, "output", layers);
  }

  // Return the hidden state [layers * width] for a start vector [init].
  makeState(init) {
    const {hidden, layers} = this.sizes, {init_weight, init_bias} = this.arrays;
    const state = new Float32Array(layers * this.layout.width);
    for (let i = 0; i < layers * hidden; i++) {
      let sum = init_bias[i];
      for (let k = 0; k < init.length; k++) sum += init_weight[i * init.length + k] * init[k];
      state[Math.floor(i / hidden) * this.layout.width + i % hidden] = Math.tanh(sum);
    }
    return state;
  }

  // Return what a control vector, or null for none, contributes to the first linear layer, and a
  // place for the input gates of the first GRU layer with each event, which `step` fills.
  projectControl(control) {
    const {hidden} = this.sizes, weight = this.arrays.control_weight;
    const columns = weight.length / hidden, result = new Float32Array(hidden);
    for (let row = 0; row < hidden; row++) {
      const start = row * columns;  // the first column is that of the flag "no control"
      let sum = control ? 0 : weight[start];
      if (control) for (let k = 0; k < control.length; k++) sum += weight[start + 1 + k] * control[k];
      result[row] = sum;
    }
    return {values: result, gates: new Map()};
  }

  // Return what a row of NoteMemory contributes to the gates of the first GRU layer and to the
  // logits, one after the other.
  projectRecall(row) {
    const {kinds, starts, next} = this.recall, {recall_table: table, recall_weight: weight} = this.arrays;
    const width = weight.length / (3 * this.sizes.hidden + this.sizes.events);
    const notes = this.recall.note_numbers.length + 1, sums = new Float32Array(width);
    const add = (index) => { for (let k = 0; k < width; k++) sums[k] += table[index * width + k]; };
    kinds.forEach((count, i) => {
      const [kind, first, ...later] = row.slice(i * (1 + next), (i + 1) * (1 + next));
      add(starts[i] + kind * notes + first);
      later.forEach((note, ahead) => add(starts[i] + (count + ahead) * notes + note));
    });
    return Float32Array.from({length: weight.length / width}, (_, i) => {
      let sum = 0;
      for (let k = 0; k < width; k++) sum += weight[i * width + k] * sums[k];
      return sum;
    });
  }

  // Update the hidden state with an event, a projected control and projected recall or null. Return
  // the logits of the next event, valid until the next call; with withLogits false they are not
  // computed.
  step(state, event, projection, recallGates, withLogits = true) {
    const {layout, kernel} = this, {width, gates} = layout;
    if (!projection.gates.has(event)) {
      projection.gates.set(event, this.computeFirstGates(event, projection.values));
    }
    for (let layer = 0; layer < this.sizes.layers; layer++) {
      const inputGates = layer ? this.inputGates : this.addRecall(projection.gates.get(event), recallGates);
      const previous = layout.quantized + 2 * width * (layer - 1);
      if (layer) {
        kernel.multiplyIntegers(layout[`input_${layer}`], previous, gates, width, layout.sums);
        this.scaleSums(`input_${layer}`, this.inputGates);
      }
      this.quantize(state, layer);
      const inputs = previous + 2 * width;
      kernel.multiplyIntegers(layout[`hidden_${layer}`], inputs, gates, width, layout.sums);
      this.scaleSums(`hidden_${layer}`, this.hiddenGates);
      this.updateLayer(state.subarray(layer * width, (layer + 1) * width), inputGates);
      this.quantize(state, layer);
    }
    if (withLogits) this.computeLogits();
    if (withLogits && recallGates) {
      const {events, hidden} = this.sizes;
      for (let i = 0; i < events; i++) this.logits[i] += recallGates[3 * hidden + i];
    }
    return this.logits;
  }

  addRecall(gates, recallGates) {
    if (!recallGates) return gates;
    for (let i = 0; i < gates.length; i++) this.inputGates[i] = gates[i] + recallGates[i];
    return this.inputGates;
  }

  computeFirstGates(event, values) {
    const {hidden} = this.sizes, {layout, inputs} = this;
    const table = this.arrays.event_table, bias = this.arrays.input_bias_0;
    for (let i = 0; i < hidden; i++) {
      const value = round(table[event * hidden + i] + values[i]);
      inputs[i] = value > 0 ? value : value * LEAK;
    }
    const {gates, width, sums} = layout;
    this.kernel.multiplyFloats(layout.input_0, layout.inputs, gates, width, sums);
    return bias.map((value, i) => this.floatSums[i] + value);
  }

  quantize(state, layer) {
    const start = layer * this.layout.width, {quantized, inverse, zero} = this;
    for (let i = start; i < start + this.sizes.hidden; i++) {
      const level = round(zero + state[i] * inverse) + HALF_EVEN - HALF_EVEN;
      quantized[i] = Math.min(Math.max(level, 0), 255) - zero;
    }
  }

  scaleSums(name, target) {
    const scales = this.arrays[name.replace("_", "_scale_")];
    const bias = this.arrays[name.replace("_", "_bias_")], sums = this.integerSums;
    for (let i = 0; i < bias.length; i++) {
      target[i] = round(sums[i]) * round(this.scale * scales[i]) + bias[i];
    }
  }

  // Update the state of a layer with the gates, as in torch.nn.GRU.
  updateLayer(state, inputGates) {
    const {hidden} = this.sizes, {hiddenGates} = this;
    for (let i = 0; i < hidden; i++) {
      const j = hidden + i, k = 2 * hidden + i;
      const reset = sigmoid(round(inputGates[i] + hiddenGates[i]));
      const update = sigmoid(round(inputGates[j] + hiddenGates[j]));
      const next = tanh(round(inputGates[k] + reset * hiddenGates[k]));
      const change = round(state[i] - next);  // as torch.lerp
      state[i] = update < 0.5 ? next + update * change : state[i] - change * round(1 - update);
    }
  }

  computeLogits() {
    const {layout, logits, integerSums: sums} = this, {events, layers} = this.sizes;
    const scales = this.arrays.output_scale, bias = this.arrays.output_bias;
    const columns = layout.width * layers;
    this.kernel.multiplyIntegers(
      layout.output, layout.quantized, layout.outputs, columns, layout.sums);
    for (let i = 0; i < events; i++) {
      const main = round(sums[i]) * round(this.scale * scales[i]) + bias[i];
      const correction = round(sums[events + i]) * round(this.scale * scales[events + i]);
      logits[i] = round(main) + round(correction);
    }
  }
}

const sigmoid = (x) => round(1 / (1 + Math.exp(-x)));
const tanh = (x) => round(1 - 2 / (Math.exp(2 * x) + 1));
