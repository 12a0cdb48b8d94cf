// The matrix products of the network: kernel.wasm, or the same functions in JavaScript.
//
// A kernel has a memory and two functions that multiply a matrix [rows, columns] by a vector; see
// kernel.wat. Both kernels give the same bits: the float products are summed in the same order.

export function hasSimd(binary) {
  return typeof WebAssembly === "object" && WebAssembly.validate(binary);
}

// Return a kernel of WebAssembly with a memory of at least `bytes`.
export async function makeSimdKernel(binary, bytes) {
  const memory = new WebAssembly.Memory({initial: Math.ceil(bytes / 65536)});
  const {instance} = await WebAssembly.instantiate(binary, {page: {memory}});
  const {multiplyIntegers, multiplyFloats} = instance.exports;
  return {buffer: memory.buffer, isSimd: true, multiplyIntegers, multiplyFloats};
}

export function makePlainKernel(bytes) {
  const buffer = new ArrayBuffer(Math.ceil(bytes / 16) * 16);
  const int8 = new Int8Array(buffer), int16 = new Int16Array(buffer);
  const int32 = new Int32Array(buffer), float32 = new Float32Array(buffer);
  const round = Math.fround;

  function multiplyIntegers(weights, inputs, rows, columns, output) {
    const start = inputs >> 1, out = output >> 2;
    for (let row = 0; row < rows; row += 4) {
      let first = weights + row * columns, second = first + columns;
      let third = second + columns, fourth = third + columns;
      let a = 0, b = 0, c = 0, d = 0;
      for (let i = start; i < start + columns; i++) {
        const input = int16[i];
        a = (a + int8[first++] * input) | 0;
        b = (b + int8[second++] * input) | 0;
        c = (c + int8[third++] * input) | 0;
        d = (d + int8[fourth++] * input) | 0;
      }
      int32[out + row] = a;
      int32[out + row + 1] = b;
      int32[out + row + 2] = c;
      int32[out + row + 3] = d;
    }
  }

  function multiplyFloats(weights, inputs, rows, columns, output) {
    const start = inputs >> 2, out = output >> 2;
    let w = weights >> 2;
    for (let row = 0; row < rows; row++) {
      let a = round(0), b = round(0), c = round(0), d = round(0);
      for (let i = start; i < start + columns; i += 4, w += 4) {
        a = round(a + round(float32[w] * float32[i]));
        b = round(b + round(float32[w + 1] * float32[i + 1]));
        c = round(c + round(float32[w + 2] * float32[i + 2]));
        d = round(d + round(float32[w + 3] * float32[i + 3]));
      }
      float32[out + row] = round(round(a + b) + round(c + d));
    }
  }

  return {buffer, isSimd: false, multiplyIntegers, multiplyFloats};
}
