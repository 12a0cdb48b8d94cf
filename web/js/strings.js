// The sound of a piano string, by additive synthesis: slightly inharmonic partials, each with a
// fast and a slow decay, and the noise of the hammer.

// Return the samples of a pitch, scaled to a peak of 1, and their rate in 1/s.
export function renderString(pitch) {
  const rate = pitch < 57 ? 22050 : 44100, base = 440 * 2 ** ((pitch - 69) / 12);
  const decay = 7.5 * 2 ** (-(pitch - 24) / 17);  // seconds
  const samples = new Float32Array(Math.round(rate * Math.min(Math.max(1.6 * decay, 0.9), 7)));
  const inharmonicity = 6e-5 * 2 ** ((pitch - 33) / 11);
  for (let n = 1; n <= 28; n++) {
    const frequency = n * base * Math.sqrt(1 + inharmonicity * n * n);
    if (frequency > 0.45 * rate || frequency > 11000) break;
    const hammer = Math.abs(Math.sin(Math.PI * n / 7.6)) + 0.05;
    const level = hammer * Math.exp(-0.5 * frequency / 1500) / n ** 0.75;
    const partial = decay / (1 + 0.16 * (n - 1));
    for (const [share, tau, detune] of [[0.72, 0.3 * partial, 1], [0.28, 1.15 * partial, 1.0004]]) {
      // a decaying sine as a two-term recurrence
      const angle = 2 * Math.PI * frequency * detune / rate, fade = Math.exp(-1 / (tau * rate));
      const a = 2 * fade * Math.cos(angle), b = fade * fade;
      let previous = 0, current = level * share * Math.sin(angle);
      for (let i = 1; i < samples.length; i++) {
        samples[i] += current;
        const next = a * current - b * previous;
        previous = current;
        current = next;
      }
    }
  }
  addHammer(samples, rate);
  return {samples, rate};
}

// Add the noise of the hammer, fade both ends, and scale the peak to 1.
function addHammer(samples, rate) {
  const size = samples.length, attack = 0.0025 * rate, release = 0.25 * size;
  let noise = 0, peak = 1e-9;
  for (let i = 0; i < 0.05 * rate; i++) {
    noise += 0.12 * ((Math.random() * 2 - 1) - noise);
    samples[i] += 0.35 * noise * Math.exp(-i / (0.009 * rate));
  }
  for (let i = 0; i < size; i++) {
    samples[i] *= Math.min(1, i / attack) * Math.min(1, (size - i) / release);
    peak = Math.max(peak, Math.abs(samples[i]));
  }
  for (let i = 0; i < size; i++) samples[i] /= peak;
}
