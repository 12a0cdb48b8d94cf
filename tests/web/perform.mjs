// Run a performer in node: `node perform.mjs PAGE` with a scenario as JSON on standard input:
// a list of [method, ...arguments]. Prints what the listener and the network got in each step.
import {readFileSync} from "node:fs";
import {NoteMemory} from "../../web/js/recall.js";
import {loadPage} from "./page.mjs";

const {performer} = await loadPage(process.argv[2], true);
const results = JSON.parse(readFileSync(0, "utf8")).map(([method, ...values]) => {
  performer[method](...values);
  const records = performer.records.map(({event, source, start, end}) => [event, source, start, end]);
  const {clock, isAnswering} = performer;
  const request = performer.findRequest();
  // what the performer recalls, and what a new memory of the same notes does
  const {network, memory, recallGates} = performer, fresh = new NoteMemory(network.recall);
  const keys = [...memory.keys], row = keys.map((key) => fresh.add(key)).at(-1);
  const recall = [recallGates, row ? network.projectRecall(row) : recallGates].map((g) => [...g]);
  return {messages: performer.takeMessages(), records, clock, isAnswering, request, keys, recall};
});
console.log(JSON.stringify(results));
