// Run times by key, as the median of the last runs. The first run of a key allocates memory: it counts only until there
// is another one.

const KEPT = 15;

export class Timings {
  constructor() {
    this.samples = new Map();
    this.first = new Map();
  }

  add(key, milliseconds) {
    if (!this.first.has(key)) {
      this.first.set(key, milliseconds);
      this.samples.set(key, []);
      return;
    }
    const samples = this.samples.get(key);
    samples.push(milliseconds);
    if (samples.length > KEPT) samples.shift();
  }

  count(key) {
    return this.samples.get(key)?.length ?? 0;
  }

  median(key) {
    const samples = this.samples.get(key);
    if (!samples?.length) return this.first.get(key) ?? null;
    const sorted = [...samples].sort((a, b) => a - b);
    const middle = sorted.length >> 1;
    return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  }
}
