// Replay of events that generate.py has generated, for tests; node and browsers run it.

// Take the performer through `events`. Before each event its hidden state becomes that of
// generate.py: `states` [events, layers * hidden]; `uniform` [events, 240] are random numbers.
// Return logits [events, 240], which events the mask allows [events, 240], and the most likely and
// the sampled events.
export function replay(performer, {events, states, uniform}) {
  const {network} = performer, {hidden, layers, events: width} = network.sizes;
  const logits = new Float32Array(events.length * width);
  const allowed = new Uint8Array(events.length * width), greedy = [], sampled = [];
  events.forEach((event, step) => {
    for (let layer = 0; layer < layers; layer++) {
      const start = (step * layers + layer) * hidden;
      performer.hidden.set(states.subarray(start, start + hidden), layer * network.layout.width);
    }
    logits.set(performer.step(true), step * width);
    for (let i = 0; i < width; i++) allowed[step * width + i] = performer.mask.isAllowed(i);
    greedy.push(performer.sampleEvent(null));
    sampled.push(performer.sampleEvent(uniform.subarray(step * width, (step + 1) * width)));
    performer.addEvent(event, "session", null);
  });
  return {logits, allowed, greedy, sampled};
}
