// Run a performer in node: `node perform.mjs PAGE` with a scenario as JSON on standard input:
// a list of [method, ...arguments]. Prints what the listener and the network got in each step.
import {readFileSync} from "node:fs";
import {loadPage} from "./page.mjs";

const {performer} = await loadPage(process.argv[2], true);
const results = JSON.parse(readFileSync(0, "utf8")).map(([method, ...values]) => {
  performer[method](...values);
  const records = performer.records.map(({event, source, start, end}) => [event, source, start, end]);
  const {clock, isAnswering} = performer;
  const request = performer.findRequest();
  return {messages: performer.takeMessages(), records, clock, isAnswering, request};
});
console.log(JSON.stringify(results));
