// The history since this page was opened.
//
// The server reports counters that only grow and keeps no history. A point is their increase from one answer to the
// next, so points can be summed: over a minute for a number, over a few seconds for a chart.

/** Older points are dropped. */
export const KEPT_SECONDS = 3600;
/** The time that current numbers cover. */
export const RECENT_SECONDS = 60;

const adapters = (overview, read) => overview.l2.adapters.reduce((sum, adapter) => sum + read(adapter), 0);

/** The counters, and how to read them from an answer. */
const COUNTERS = {
  lookups: (o) => o.lookups.count,
  requested: (o) => o.lookups.requested_tokens,
  hitL1: (o) => o.lookups.hit_l1_tokens,
  hitL2: (o) => o.lookups.hit_l2_tokens,
  storedBytes: (o) => o.stores.bytes,
  retrievedBytes: (o) => o.retrieves.bytes,
  abandoned: (o) => o.stores.failed + o.retrieves.failed,
  evictedBytes: (o) => o.l1.evicted_bytes,
  refused: (o) => o.l1.refused_objects,
  readBytes: (o) => adapters(o, (a) => a.loads.bytes),
  readSeconds: (o) => adapters(o, (a) => a.loads.seconds),
  readBatches: (o) => adapters(o, (a) => a.loads.batches),
  readFailures: (o) => adapters(o, (a) => a.loads.failed_objects),
  writtenBytes: (o) => adapters(o, (a) => a.stores.bytes),
  writeSeconds: (o) => adapters(o, (a) => a.stores.seconds),
  writeBatches: (o) => adapters(o, (a) => a.stores.batches),
  writeFailures: (o) => adapters(o, (a) => a.stores.failed_objects),
  dropped: (o) => adapters(o, (a) => a.dropped_objects),
  late: (o) => o.l2.late_objects,
};

/** How full a tier is; null without a capacity. */
function fill(used, capacity) {
  return capacity > 0 ? used / capacity : null;
}

/** How full L1 is, and L2 as far as it has limits. */
export function fills(overview) {
  const limited = overview.l2.adapters.filter((a) => a.capacity_bytes !== null);
  const sum = (read) => limited.reduce((all, adapter) => all + read(adapter), 0);
  return {
    l1: fill(overview.l1.used_bytes, overview.l1.capacity_bytes),
    l2: fill(sum((a) => a.used_bytes), sum((a) => a.capacity_bytes)),
  };
}

/** Increase of operations' counters, by name, without operations that were not requested. */
function operationsGained(now, before) {
  const earlier = new Map(before.operations.map((operation) => [operation.name, operation]));
  const gained = {};
  for (const { name, failed, buckets } of now.operations) {
    const old = earlier.get(name);
    const change = buckets.map((count, i) => count - (old?.buckets[i] ?? 0));
    if (change.some((count) => count > 0)) gained[name] = { failed: failed - (old?.failed ?? 0), buckets: change };
  }
  return gained;
}

function addOperations(sum, more) {
  for (const [name, { failed, buckets }] of Object.entries(more)) {
    const old = sum[name];
    sum[name] = {
      failed: failed + (old?.failed ?? 0),
      buckets: buckets.map((count, i) => count + (old?.buckets[i] ?? 0)),
    };
  }
}

/** The sum of points; null without points. Fill levels are those of the last point. */
export function total(points) {
  if (points.length === 0) return null;
  const sum = { ...points[points.length - 1], seconds: 0, operations: {} };
  for (const name of Object.keys(COUNTERS)) sum[name] = 0;
  for (const point of points) {
    sum.seconds += point.seconds;
    for (const name of Object.keys(COUNTERS)) sum[name] += point[name];
    addOperations(sum.operations, point.operations);
  }
  return sum;
}

/**
 * The quantile `q` of times, from counts by `bounds`; null without requests. Requests are assumed to be spread evenly
 * within a bucket. Beyond the last bound the result is that bound.
 */
export function quantile(q, buckets, bounds) {
  const all = buckets.reduce((sum, count) => sum + count, 0);
  if (all === 0) return null;
  let below = 0;
  for (const [i, count] of buckets.entries()) {
    if (count > 0 && below + count >= q * all) {
      const from = i === 0 ? 0 : bounds[i - 1];
      const to = bounds[i] ?? from;
      return from + (to - from) * Math.max(0, (q * all - below) / count);
    }
    below += count;
  }
  return bounds[bounds.length - 1];
}

export class History {
  #points = [];
  #last = null;
  #key;

  /** `key` is the name of this history in the tab's storage, which survives a reload. */
  constructor(key) {
    this.#key = key;
  }

  /** Adds an answer received at `moment`, in seconds since 1970. */
  add(moment, overview) {
    const before = this.#last;
    this.#last = overview;
    // Counters of another server, or of a restarted one, start at 0: the increase across that is unknown.
    const goesOn = before?.instance_id === overview.instance_id && before.uptime_seconds < overview.uptime_seconds;
    if (!goesOn) return;
    const { l1, l2 } = fills(overview);
    const point = {
      moment, seconds: overview.uptime_seconds - before.uptime_seconds,
      fillL1: l1, fillL2: l2, operations: operationsGained(overview, before),
    };
    for (const [name, read] of Object.entries(COUNTERS)) point[name] = Math.max(0, read(overview) - read(before));
    this.#points.push(point);
    this.#points = this.#points.filter((p) => p.moment > moment - KEPT_SECONDS);
  }

  /** When the first point was taken; null without points. */
  get start() {
    return this.#points.length > 0 ? this.#points[0].moment - this.#points[0].seconds : null;
  }

  /** The sum of the last minute before `moment`. */
  recent(moment) {
    return total(this.#points.filter((p) => p.moment > moment - RECENT_SECONDS));
  }

  /** The time from `from` to `to` in pieces of `step` seconds, each `{ moment, sum }`. */
  pieces(from, to, step) {
    // Pieces begin at whole multiples of their length, so that they do not change as time goes by.
    const first = Math.floor(from / step);
    const groups = Array.from({ length: Math.floor(to / step) - first + 1 }, () => []);
    for (const point of this.#points) groups[Math.floor(point.moment / step) - first]?.push(point);
    return groups.map((points, i) => ({ moment: (first + i + 0.5) * step, sum: total(points) }));
  }

  /** Saves everything for `restore`. A tab without storage starts with an empty history. */
  save() {
    try {
      sessionStorage.setItem(this.#key, JSON.stringify({ points: this.#points, last: this.#last }));
    } catch {
      // Full or forbidden: the next page of this tab begins without a past.
    }
  }

  /** Restores what an earlier page of this tab has saved, unless the server's version differs. */
  restore(version) {
    try {
      const { points, last } = JSON.parse(sessionStorage.getItem(this.#key)) ?? {};
      if (last?.version === version && Array.isArray(points)) [this.#points, this.#last] = [points, last];
    } catch {
      sessionStorage.removeItem(this.#key);
    }
  }
}
