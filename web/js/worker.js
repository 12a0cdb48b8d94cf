// The worker of the live page: the network and the performer, away from the page and the sound.
import {makeNetwork, readArrays} from "./network.js";
import {Performer} from "./performer.js";
import {renderString} from "./strings.js";

const TICK_MS = 25;
const WARM_UP = 60;  // steps that measure the speed at the start
// how long a call of `advance` may take, so that keys and controls do not wait: the time of a few
// events
const BUDGET_MS = {fast: 15, slow: 40}, FAST = 250;  // events/s

let performer = null, timer = 0;
let speed = 0;  // events/s

const actions = {
  // Load the session. weights: deflated; kernel: the bytes of kernel.wasm, or null.
  async load({weights, entries, network, model, kernel}) {
    const stream = new Blob([weights]).stream().pipeThrough(new DecompressionStream("deflate"));
    const arrays = readArrays(await new Response(stream).arrayBuffer(), entries);
    performer = new Performer(
      await makeNetwork(arrays, network, kernel), model);
    measureSpeed(() => { for (let i = 0; i < WARM_UP; i++) performer.generateEvent(); }, WARM_UP);
    postMessage({type: "ready", isSimd: performer.network.kernel.isSimd, speed});
  },
  reset({seed}) { performer.reset(seed); },
  start() { timer ||= setInterval(() => postMessage({type: "tick"}), TICK_MS); },
  stop({now}) {
    clearInterval(timer);
    timer = 0;
    performer.stop(now);
  },
  advance({now, until}) {
    const before = performer.count, budget = BUDGET_MS[speed > FAST ? "fast" : "slow"];
    const end = performance.now() + budget, mayGoOn = () => performance.now() < end;
    measureSpeed(() => performer.advance(now, until, mayGoOn), () => performer.count - before);
  },
  controls({now, controls}) { performer.setControls(now, controls); },
  mode({now, mode}) { performer.setMode(now, mode); },
  key({now, pitch, velocity}) { performer.playKey(now, pitch, velocity); },
  prime({seed, events, controls, heardFrom}) { performer.prime(seed, events, controls, heardFrom); },
  // Render the sound of a string of the piano.
  string({pitch}) {
    const string = renderString(pitch);
    postMessage({type: "string", pitch, ...string}, [string.samples.buffer]);
  },
};

function measureSpeed(work, count) {
  const start = performance.now();
  work();
  const seconds = (performance.now() - start) / 1000;
  const events = typeof count === "function" ? count() : count;
  if (events > 3) speed = speed ? 0.8 * speed + 0.2 * events / seconds : events / seconds;
}

onmessage = async ({data}) => {
  if (!performer && data.type !== "load" && data.type !== "string") return;
  try {
    await actions[data.type](data);
  } catch (error) {
    postMessage({type: "error", text: error.message});
    throw error;
  }
  if (data.type === "string") return;
  const {clock, isAnswering} = performer;
  postMessage({type: "music", reply: data.type, messages: performer.takeMessages(), clock, speed, isAnswering});
};
