// The state of the server in a sentence, and its problems, the worst first.

import { clock, count, several, span } from "./format.js";

/** A worker sends a ping every 10 s. */
const SILENT_SECONDS = 60;

/** Problems of the last minute of a server that is ready. */
function notices(overview, recent) {
  const found = [];
  const happened = (number, say, meaning = "") => {
    if (number > 0) found.push(`${say(number)} in the last minute.${meaning}`);
  };
  const held = " All of L1 is pinned by readers and writers.";
  happened(recent?.refused, (n) => `L1 had no free memory for ${several(n, "object")}`, held);
  happened(recent?.readFailures, (n) => `${several(n, "read")} from L2 failed`);
  happened(recent?.writeFailures, (n) => `${several(n, "write")} to L2 failed`);
  happened(recent?.late, (n) => `L2 was too slow for ${several(n, "object")}`, " To engines they were misses.");
  happened(recent?.dropped, (n) => `L2 could not keep up: its queue lost ${several(n, "object")}`);
  happened(recent?.abandoned, (n) => `${several(n, "copy", "copies")} between workers and L1 failed`);
  const silent = overview.workers.filter((worker) => worker.last_seen_seconds_ago > SILENT_SECONDS);
  if (silent.length > 0) {
    const longest = Math.max(...silent.map((worker) => worker.last_seen_seconds_ago));
    found.push(`${several(silent.length, "worker")} of ${count(overview.workers.length)} silent, for up to ${span(longest)}.`);
  }
  return found;
}

/** The activity of a server without problems. */
function activity(overview) {
  if (overview.workers.length === 0) return "No worker is registered: no engine uses this server yet.";
  const parts = [several(overview.workers.length, "worker"), several(overview.sessions, "open session")];
  return `${parts.join(", ")}.`;
}

/**
 * The verdict: `level` is `good`, `notice`, `bad` or `gone`, `title` is short, `lines` are details.
 * `overview` is the last answer, `recent` the last minute, `silentSince` the time of the last answer if the server is silent.
 */
export function verdict(overview, recent, silentSince, now) {
  if (silentSince !== null) {
    const heard = overview
      ? `Last heard at ${clock(silentSince)}, ${span(now - silentSince)} ago. All values below are from then.`
      : "No answer since this page was opened.";
    return { level: "gone", title: "The server does not answer", lines: [heard, "Trying again every few seconds."] };
  }
  if (overview.problems.length > 0) {
    const lines = [...overview.problems.map((problem) => `${problem}.`), ...notices(overview, recent)];
    return { level: "bad", title: "Not ready", lines };
  }
  const lines = notices(overview, recent);
  if (lines.length > 0) return { level: "notice", title: "Serving, with trouble", lines };
  return { level: "good", title: "Healthy", lines: [activity(overview)] };
}
