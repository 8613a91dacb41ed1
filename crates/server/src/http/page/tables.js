// The tables of the page: operations, L2, workers and policies.
//
// Names of models and workers come from clients. They become text nodes, never markup.

import { bytes, count, duration, frequency, several, span } from "./format.js";
import { quantile } from "./history.js";

/** An element with properties and children; `null` children are left out. */
export function element(name, properties = {}, ...children) {
  const { data = {}, ...rest } = properties;
  const made = Object.assign(document.createElement(name), rest);
  Object.assign(made.dataset, data);
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** A table of `columns` (a name, and whether they hold numbers) and rows of texts or elements. */
function table(caption, columns, rows) {
  const cell = (kind, content, { number }) => element(kind, { className: number ? "number" : "" }, content);
  const head = columns.map((column) => Object.assign(cell("th", column.name, column), { scope: "col" }));
  const body = rows.map((row) => {
    const cells = row.map((content, i) => cell(i === 0 ? "th" : "td", content, columns[i]));
    cells[0].scope = "row";
    return element("tr", {}, ...cells);
  });
  return element(
    "div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: caption },
    element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body)),
  );
}

const word = (name) => ({ name, number: false });
const number = (name) => ({ name, number: true });
const nothing = (text) => element("p", { className: "nothing" }, text);
const badge = (text, level) => element("span", { className: `badge ${level}` }, text);

/** Requests of the last minute, the most frequent first. */
export function operations(overview, recent) {
  const done = Object.entries(recent?.operations ?? {});
  if (done.length === 0) return nothing("No requests in the last minute.");
  const bounds = overview.bucket_bounds_seconds;
  const rows = done.map(([name, { failed, buckets }]) => {
    const all = buckets.reduce((sum, n) => sum + n, 0);
    const times = [0.5, 0.99].map((q) => duration(quantile(q, buckets, bounds)));
    const failures = failed > 0 ? badge(count(failed), "bad") : "0";
    return { all, row: [name.toLowerCase(), frequency(all / recent.seconds), ...times, failures] };
  });
  rows.sort((a, b) => b.all - a.all);
  const columns = [word("Operation"), number("per second"), number("median"), number("99th"), number("failed")];
  return table("Operations", columns, rows.map(({ row }) => row));
}

const CIRCUITS = {
  closed: ["works", "good"],
  failing: ["failing", "bad"],
  open: ["refused for a while", "bad"],
  half_open: ["being tried", "notice"],
};

function circuit(state) {
  const [text, level] = CIRCUITS[state] ?? [state, "notice"];
  return badge(text, level);
}

/** L2's adapters: state, usage, queues. */
export function adapters(overview) {
  const all = overview.l2.adapters;
  if (all.length === 0) {
    return nothing("None: objects evicted from L1 are lost, and all of L1 is lost when the server stops. --l2-adapter adds one.");
  }
  const rows = all.map((a) => {
    const name = element("span", { title: a.base_path ?? "" }, a.type_name);
    if (a.base_path) name.append(element("small", {}, ` ${a.base_path}`));
    const held = a.capacity_bytes === null ? bytes(a.used_bytes) : `${bytes(a.used_bytes)} of ${bytes(a.capacity_bytes)}`;
    const failed = a.loads.failed_objects + a.stores.failed_objects + a.dropped_objects;
    return [
      name, circuit(a.reads), circuit(a.writes), a.recovering ? `${held}, counting` : held, count(a.objects),
      count(a.queued_objects + a.stores.active_objects), count(a.loads.active_objects),
      failed > 0 ? badge(count(failed), "notice") : "0",
    ];
  });
  const columns = [
    word("Adapter"), word("Reads"), word("Writes"), number("Holds"), number("Objects"), number("to store"),
    number("loading"), number("failed"),
  ];
  return table("L2 adapters", columns, rows);
}

/** Limit of workers in the table. */
const WORKERS_SHOWN = 64;

/** Registered workers, the longest silent first. */
export function workers(overview) {
  if (overview.workers.length === 0) {
    return nothing("None. An engine registers when it starts with LMCacheMPConnector and this server's address.");
  }
  const all = [...overview.workers].sort((a, b) => b.last_seen_seconds_ago - a.last_seen_seconds_ago);
  const rows = all.slice(0, WORKERS_SHOWN).map((w) => [
    w.model_name, w.instance_id, count(w.world_size), span(w.last_seen_seconds_ago),
  ]);
  const columns = [word("Model"), number("Worker"), number("World size"), number("Silent for")];
  const shown = table("Workers", columns, rows);
  if (all.length > WORKERS_SHOWN) shown.append(nothing(`And ${count(all.length - WORKERS_SHOWN)} more.`));
  return shown;
}

/** The policies, and the experts of adaptive ones. */
export function policies(overview) {
  const { eviction, prefetch, store, learned } = overview.policies;
  const pairs = [["Eviction from L1", eviction], ["After a load from L2", prefetch], ["Store to L2", store]];
  const list = element("dl", { className: "pairs" });
  for (const [name, value] of pairs) list.append(element("dt", {}, name), element("dd", {}, value));
  if (learned === null) return element("div", {}, list, nothing("No adaptive policy is configured."));
  const worst = Math.max(1, ...learned.experts.map((expert) => expert.lost_chunks));
  const rows = learned.experts.map(({ name, lost_chunks: lost }) => {
    const bar = element("span", { className: "bar" });
    bar.style.inlineSize = `${(100 * lost) / worst}%`;
    const rules = name === learned.leader ? badge("rules", "good") : "";
    return [name, bar, count(lost), rules];
  });
  const experts = table("Experts", [word("Expert"), word("Lost recently"), number("chunks"), word("")], rows);
  const past = [
    `Learned from ${several(learned.requests, "request")}`, `remembers ${several(learned.keys, "chunk")}`,
    `changed the leader ${several(learned.leader_changes, "time")}`,
  ];
  return element("div", {}, list, experts, nothing(`${past.join(", ")}.`));
}

/** Totals since the server started. */
export function sinceStart(overview) {
  const { lookups, stores, retrieves, l1 } = overview;
  const pairs = [
    ["Lookups", count(lookups.count)], ["Tokens looked up", count(lookups.requested_tokens)],
    ["Stored", bytes(stores.bytes)], ["Retrieved", bytes(retrieves.bytes)],
    ["Evicted from L1", bytes(l1.evicted_bytes)],
    ["Open sessions", count(overview.sessions)], ["Connections", count(overview.connections)],
  ];
  const list = element("dl", { className: "pairs" });
  for (const [name, value] of pairs) list.append(element("dt", {}, name), element("dd", {}, value));
  return list;
}
