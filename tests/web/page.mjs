// Load the session of a live page in node.
import {readFileSync} from "node:fs";
import {inflateSync} from "node:zlib";
import {makeNetwork, readArrays} from "../../web/js/network.js";
import {Performer} from "../../web/js/performer.js";

export async function loadPage(path, useSimd) {
  const html = readFileSync(path, "utf8");
  const read = (id) => html.match(new RegExp(`id="${id}">([^<]*)<`))[1];
  const data = JSON.parse(read("data")), kernel = Buffer.from(read("kernel"), "base64");
  const content = inflateSync(Buffer.from(read("weights"), "base64"));
  const buffer = content.buffer.slice(content.byteOffset, content.byteOffset + content.length);
  const arrays = readArrays(buffer, data.entries);
  const network = await makeNetwork(arrays, data.network, useSimd ? kernel : null);
  return {data, network, performer: new Performer(network, data.model)};
}
