// Build kernel.wasm from kernel.wat: `npm ci` here once, then `node build_kernel.mjs [output]`.
import {readFileSync, writeFileSync} from "node:fs";
import {dirname, join} from "node:path";
import {fileURLToPath} from "node:url";
import makeWabt from "wabt";

const folder = dirname(fileURLToPath(import.meta.url));
const wabt = await makeWabt();
const text = readFileSync(join(folder, "kernel.wat"), "utf8");
const module = wabt.parseWat("kernel.wat", text, {simd: true});
module.validate();
writeFileSync(process.argv[2] ?? join(folder, "kernel.wasm"), module.toBinary({}).buffer);
