// The page: polls the server every few seconds and shows the answer. It changes nothing on the server.

import { Chart } from "./chart.js";
import { bytes, clock, count, duration, frequency, percent, several, span, speed } from "./format.js";
import { History, KEPT_SECONDS, fills, quantile } from "./history.js";
import { adapters, element, operations, policies, sinceStart, workers } from "./tables.js";
import { verdict } from "./verdict.js";

const EVERY_MS = 2000;
const PATIENCE_MS = 5000;
/** The shortest time that a chart shows, and the most pieces that it is divided into. */
const SHOWN_SECONDS_MIN = 60;
const PIECES_MAX = 60;
/** Lengths of a piece of a chart, in seconds. */
const PIECE_SECONDS = [4, 5, 10, 15, 30, 60];

const ratio = (part, whole) => (whole > 0 ? part / whole : null);
const perSecond = (name) => (sum) => ratio(sum[name], sum.seconds);
const lookupTime = (q) => (sum) => {
  const lookups = sum.operations.lookup;
  return lookups ? quantile(q, lookups.buckets, state.overview.bucket_bounds_seconds) : null;
};

/** The charts. A reading is a number above its chart, a line is drawn in it. */
const CHARTS = [
  {
    id: "hits", name: "Hit rate", format: percent, most: 1,
    readings: [
      { id: "all", name: "tokens found", value: (s) => ratio(s.hitL1 + s.hitL2, s.requested) },
      { id: "l1", name: "in L1", color: "first", value: (s) => ratio(s.hitL1, s.requested) },
      { id: "l2", name: "in L2", color: "second", value: (s) => ratio(s.hitL2, s.requested) },
    ],
    lines: [
      {
        name: "In L1 or L2", color: "second", area: true, value: (s) => ratio(s.hitL1 + s.hitL2, s.requested),
        above: (s) => ratio(s.hitL1, s.requested),
      },
      { name: "In L1", color: "first", area: true, value: (s) => ratio(s.hitL1, s.requested) },
    ],
    foot: ({ lookups: l }) => {
      if (l.requested_tokens === 0) return "No lookups yet";
      const rate = percent((l.hit_l1_tokens + l.hit_l2_tokens) / l.requested_tokens);
      return `Since the start ${rate} of ${count(l.requested_tokens)} tokens`;
    },
  },
  {
    id: "memory", name: "Space used", format: percent, most: 1,
    readings: [
      { id: "l1", name: "of L1", color: "first", value: (s) => s.fillL1, now: (o) => fills(o).l1 },
      { id: "l2", name: "of L2", color: "second", value: (s) => s.fillL2, now: (o) => fills(o).l2 },
      { id: "evicted", name: "evicted", format: speed, value: perSecond("evictedBytes") },
    ],
    lines: [
      { name: "L1", color: "first", area: true, value: (s) => s.fillL1 },
      { name: "L2", color: "second", value: (s) => s.fillL2 },
    ],
    foot: ({ l1 }) =>
      `${bytes(l1.used_bytes)} of ${bytes(l1.capacity_bytes)}, ${several(l1.objects, "object")}, ${count(l1.held_objects)} held`,
  },
  {
    id: "engines", name: "Engine traffic", format: speed, base: 1024, least: 1024,
    readings: [
      { id: "retrieved", name: "retrieve", color: "first", value: perSecond("retrievedBytes") },
      { id: "stored", name: "store", color: "second", value: perSecond("storedBytes") },
    ],
    lines: [
      { name: "Retrieve", color: "first", area: true, value: perSecond("retrievedBytes") },
      { name: "Store", color: "second", value: perSecond("storedBytes") },
    ],
    foot: ({ stores, retrieves }) =>
      `In progress: ${several(retrieves.active, "retrieve")}, ${several(stores.active, "store")}`,
  },
  {
    id: "lookups", name: "Lookup time", format: duration, least: 1e-4,
    readings: [
      { id: "p50", name: "median", color: "first", value: lookupTime(0.5) },
      { id: "p99", name: "99th percentile", color: "second", value: lookupTime(0.99) },
      { id: "rate", name: "per second", format: frequency, value: perSecond("lookups") },
    ],
    lines: [
      { name: "99th percentile", color: "second", value: lookupTime(0.99) },
      { name: "Median", color: "first", area: true, value: lookupTime(0.5) },
    ],
    foot: () => "From arrival to answer, not counting waits for L2",
  },
  {
    id: "l2-traffic", name: "L2 traffic", format: speed, base: 1024, least: 1024, needsL2: true,
    readings: [
      { id: "read", name: "read", color: "first", value: perSecond("readBytes") },
      { id: "written", name: "write", color: "second", value: perSecond("writtenBytes") },
    ],
    lines: [
      { name: "Read", color: "first", area: true, value: perSecond("readBytes") },
      { name: "Write", color: "second", value: perSecond("writtenBytes") },
    ],
    foot: ({ l2 }) =>
      `${several(l2.pending_objects, "object")} to store, ${several(l2.prefetches + l2.prefetches_waiting, "lookup")} waiting`,
  },
  {
    id: "l2-time", name: "L2 response", format: duration, least: 1e-3, needsL2: true,
    readings: [
      { id: "read", name: "read", color: "first", value: (s) => ratio(s.readSeconds, s.readBatches) },
      { id: "written", name: "write", color: "second", value: (s) => ratio(s.writeSeconds, s.writeBatches) },
    ],
    lines: [
      { name: "Read", color: "first", area: true, value: (s) => ratio(s.readSeconds, s.readBatches) },
      { name: "Write", color: "second", value: (s) => ratio(s.writeSeconds, s.writeBatches) },
    ],
    foot: () => "Mean time of a batch of objects, from call to answer",
  },
];

const history = new History(`larder ${location.pathname}`);
const state = { overview: null, heard: null, silent: false, cursor: null, moment: Date.now() / 1000 };
const byId = (id) => document.getElementById(id);

/** A chart's card with its readings. Returns the function that redraws it. */
function card(definition) {
  const chart = new Chart(definition, clock, (moment) => {
    state.cursor = moment;
    drawCharts();
  });
  const readings = definition.readings.map((reading) => {
    const said = element("dd", { data: { reading: `${definition.id}/${reading.id}` } }, "–");
    const shown = element("div", { className: reading.color ?? "" }, element("dt", {}, reading.name), said);
    return { reading, said, shown };
  });
  const when = element("small", {});
  const foot = element("p", { className: "foot", data: { foot: definition.id } });
  const title = element("h2", {}, definition.name, " ", when);
  const list = element("dl", { className: "readings" }, ...readings.map(({ shown }) => shown));
  const none = element("p", { className: "nothing" }, "No L2 is configured.");
  const root = element("section", { className: "card" }, title, list, chart.element, foot, none);
  byId("charts").append(root);
  return (view) => {
    const { overview } = state;
    const absent = definition.needsL2 === true && overview.l2.adapters.length === 0;
    root.classList.toggle("absent", absent);
    if (absent) return;
    const piece = view.cursor === null ? undefined : nearest(view.pieces, view.cursor);
    when.textContent = piece ? `at ${clock(piece.moment)}` : "last minute";
    for (const { reading, said } of readings) {
      const format = reading.format ?? definition.format;
      const sum = piece ? piece.sum : view.recent;
      const current = piece === undefined && reading.now ? reading.now(overview) : null;
      said.textContent = format(current ?? (sum === null ? null : reading.value(sum)));
    }
    foot.textContent = definition.foot(overview);
    chart.draw(view);
  };
}

function nearest(pieces, moment) {
  const distance = (piece) => Math.abs(piece.moment - moment);
  return pieces.reduce((best, piece) => (distance(piece) < distance(best) ? piece : best), pieces[0]);
}

const cards = CHARTS.map(card);

function drawCharts() {
  if (state.overview === null) return;
  const asked = Math.min(KEPT_SECONDS, Number(new FormData(byId("range")).get("range")));
  const to = state.moment;
  const since = to - (history.start ?? to);
  const shown = Math.max(SHOWN_SECONDS_MIN, Math.min(asked, since));
  const step = PIECE_SECONDS.find((seconds) => shown / seconds <= PIECES_MAX);
  const from = to - shown;
  const pieces = history.pieces(from, to, step).filter(({ moment }) => moment >= from && moment <= to);
  const view = { pieces, from, to, cursor: state.cursor, recent: history.recent(to) };
  for (const draw of cards) draw(view);
}

function show() {
  const { overview, silent, heard, moment } = state;
  const recent = history.recent(moment);
  const now = Date.now() / 1000;
  const { level, title, lines } = verdict(overview, recent, silent ? (heard ?? now) : null, now);
  document.body.dataset.state = level;
  document.title = `${title} · Larder`;
  const said = byId("verdict");
  said.className = level;
  said.querySelector("h2").textContent = title;
  said.querySelector("ul").replaceChildren(...lines.map((line) => element("li", {}, line)));
  if (overview === null) return;
  byId("who").textContent =
    `${location.host}, version ${overview.version}, up for ${span(overview.uptime_seconds)}`;
  byId("adapters").replaceChildren(adapters(overview));
  byId("operations").replaceChildren(operations(overview, recent));
  byId("workers").replaceChildren(workers(overview));
  byId("policies").replaceChildren(policies(overview));
  byId("since-start").replaceChildren(sinceStart(overview));
  drawCharts();
}

/** Requests the overview once. Throws if there is no answer. */
async function ask() {
  const answer = await fetch("overview", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  return answer.json();
}

async function poll() {
  try {
    const overview = await ask();
    const moment = Date.now() / 1000;
    if (state.overview === null) history.restore(overview.version);
    history.add(moment, overview);
    Object.assign(state, { overview, moment, heard: moment, silent: false });
  } catch (error) {
    console.info(`no answer: ${error.message}`);
    state.silent = true;
  }
  show();
  setTimeout(poll, EVERY_MS);
}

byId("range").addEventListener("change", drawCharts);
addEventListener("resize", drawCharts);
addEventListener("pagehide", () => history.save());
poll();
