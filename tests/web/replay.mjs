// Replay in node: `node replay.mjs PAGE FOLDER KERNEL EVENTS` with KERNEL "simd" or "plain".
// FOLDER has job.json, states.f32 and uniform.f32, and gets result.json and logits.f32.
import {readFileSync, writeFileSync} from "node:fs";
import {join} from "node:path";
import {loadPage} from "./page.mjs";
import {replay} from "./replay.js";

const [page, folder, kernel, count] = process.argv.slice(2);
const {performer} = await loadPage(page, kernel === "simd");
const job = JSON.parse(readFileSync(join(folder, "job.json")));
const readFloats = (name) => new Float32Array(readFileSync(join(folder, name)).buffer.slice(0));
performer.setControls(0, job.controls);
const started = performance.now();
const {logits, ...result} = replay(performer,
  {events: job.events.slice(0, Number(count)), states: readFloats("states.f32"), uniform: readFloats("uniform.f32")});
result.allowed = [...result.allowed];
result.seconds = (performance.now() - started) / 1000;
result.isSimd = performer.network.kernel.isSimd;
writeFileSync(join(folder, "logits.f32"), logits);
writeFileSync(join(folder, "result.json"), JSON.stringify(result));
