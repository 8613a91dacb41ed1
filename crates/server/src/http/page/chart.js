// A chart over time, drawn as SVG. All charts of the page share one cursor.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 132;
/** Space below the plot for times, and above it for the topmost label. */
const BELOW = 18;
const ABOVE = 14;
/** Distances between times on the axis, in seconds. */
const TICKS = [10, 15, 30, 60, 120, 300, 600, 900];
/** The width of a time label, in pixels. */
const TICK_ROOM = 64;

/** An element with attributes and children; `null` children are left out. */
function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** The least round number from `number` on, in a system where a thousand is `base`. */
function roundUp(number, base) {
  if (!(number > 0)) return 1;
  const unit = base ** Math.floor(Math.log(number) / Math.log(base));
  const steps = [1, 2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 200, 400, 600, 800, 1000];
  return unit * (steps.find((step) => step * unit >= number) ?? base);
}

/** The runs of known points as lines, and their areas if wanted. */
function curve({ color, area }, points) {
  const runs = [[]];
  for (const point of points) {
    if (point === null) runs.push([]);
    else runs[runs.length - 1].push(point);
  }
  const known = runs.filter((run) => run.length > 0);
  const path = (places) => `M${places.map((place) => place.join(" ")).join("L")}`;
  const top = (run) => run.map((point) => [point.x, point.y]);
  const bottom = (run) => run.map((point) => [point.x, point.below]).reverse();
  // A run of one point is a dot: a line of no length with round ends.
  const line = known.map((run) => path(run.length > 1 ? top(run) : [...top(run), ...top(run)])).join("");
  const filled = known.map((run) => `${path([...top(run), ...bottom(run)])}Z`).join("");
  const made = svg("path", { class: `line ${color}`, d: line });
  return area ? [svg("path", { class: `area ${color}`, d: filled }), made] : [made];
}

export class Chart {
  #definition;
  #onCursor;
  #clock;
  #plot = svg("g");
  #root;
  #view = null;

  /**
   * `definition` has `name`, `format` for values, `base` (1000 or 1024) and `least` for the axis or a fixed
   * `most`, and `lines`: each a `color` (a class), `value(sum)` and whether its `area` is filled, down to
   * the axis or to `above(sum)`.
   * `onCursor(moment)` is called when the cursor moves, with null when it leaves the chart.
   */
  constructor(definition, clock, onCursor) {
    this.#definition = definition;
    this.#clock = clock;
    this.#onCursor = onCursor;
    this.#root = svg("svg", { class: "chart", role: "img", tabindex: "0", height: HEIGHT }, this.#plot);
    this.#root.addEventListener("pointermove", (event) => this.#point(event));
    this.#root.addEventListener("pointerdown", (event) => this.#point(event));
    this.#root.addEventListener("pointerleave", () => this.#onCursor(null));
    this.#root.addEventListener("blur", () => this.#onCursor(null));
    this.#root.addEventListener("keydown", (event) => this.#step(event));
  }

  get element() {
    return this.#root;
  }

  /** Draws `pieces` between the moments `from` and `to`, and the cursor at a moment or nowhere. */
  draw({ pieces, from, to, cursor }) {
    const width = Math.max(160, this.#root.clientWidth);
    const { lines, most, least, base, name, format } = this.#definition;
    const values = lines.map((line) => pieces.map(({ sum }) => (sum === null ? null : line.value(sum))));
    const highest = Math.max(least ?? 0, ...values.flat().filter((value) => value !== null));
    const top = most ?? roundUp(highest, base ?? 1000);
    const x = (moment) => ((moment - from) / (to - from)) * width;
    const y = (value) => HEIGHT - BELOW - (Math.min(value, top) / top) * (HEIGHT - BELOW - ABOVE);
    this.#view = { pieces, from, to, width, cursor };
    this.#root.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.#root.setAttribute("aria-label", this.#summary(name, format, values));
    const curves = lines.flatMap((line, i) => {
      const points = values[i].map((value, at) => {
        if (value === null) return null;
        const below = line.above ? line.above(pieces[at].sum) : 0;
        return { x: x(pieces[at].moment).toFixed(1), y: y(value).toFixed(1), below: y(below).toFixed(1) };
      });
      return curve(line, points);
    });
    this.#plot.replaceChildren(
      ...this.#times(from, to, width, x), ...this.#levels(top, width, y), ...curves, ...this.#labels(top, y),
      ...this.#cursorMarks(cursor, values, x, y),
    );
  }

  #levels(top, width, y) {
    const level = (value, kind) => svg("line", { class: kind, x1: 0, x2: width, y1: y(value), y2: y(value) });
    return [level(top, "grid"), level(top / 2, "grid"), level(0, "axis")];
  }

  #labels(top, y) {
    // Levels are round: zeros behind the point say nothing.
    const said = (value) => this.#definition.format(value).replace(/\.0+(?= )/, "");
    const label = (value) => svg("text", { class: "level", x: 0, y: y(value) - 3 }, said(value));
    return [label(top), label(top / 2)];
  }

  #times(from, to, width, x) {
    const fits = (tick) => (tick / (to - from)) * width >= TICK_ROOM;
    const tick = TICKS.find(fits) ?? TICKS[TICKS.length - 1];
    const marks = [];
    for (let moment = Math.ceil(from / tick) * tick; moment <= to; moment += tick) {
      const at = x(moment);
      // A label that would be cut off is not drawn.
      if (at < TICK_ROOM / 2 || at > width - TICK_ROOM / 2) continue;
      marks.push(svg("line", { class: "tick", x1: at, x2: at, y1: HEIGHT - BELOW, y2: HEIGHT - BELOW + 4 }));
      marks.push(svg("text", { class: "time", x: at, y: HEIGHT - 3 }, this.#clock(moment, tick < 60)));
    }
    return marks;
  }

  #cursorMarks(cursor, values, x, y) {
    const at = this.#nearest(cursor);
    if (at === null) return [];
    const middle = x(this.#view.pieces[at].moment);
    const rule = svg("line", { class: "cursor", x1: middle, x2: middle, y1: ABOVE - 6, y2: HEIGHT - BELOW });
    const dots = this.#definition.lines.map((line, i) => {
      const value = values[i][at];
      return value === null ? null : svg("circle", { class: `dot ${line.color}`, cx: middle, cy: y(value), r: 3.5 });
    });
    return [rule, ...dots.filter((dot) => dot !== null)];
  }

  /** The index of the piece that is nearest to a moment; null without data. */
  #nearest(moment) {
    if (moment === null || this.#view === null || this.#view.pieces.length === 0) return null;
    const distance = ({ moment: middle }) => Math.abs(middle - moment);
    return this.#view.pieces.reduce((best, piece, i, all) => (distance(piece) < distance(all[best]) ? i : best), 0);
  }

  #point(event) {
    if (this.#view === null) return;
    const { from, to } = this.#view;
    const { left, width } = this.#root.getBoundingClientRect();
    this.#onCursor(from + ((event.clientX - left) / width) * (to - from));
  }

  #step(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };
    if (event.key === "Escape") this.#onCursor(null);
    if (!(event.key in steps) || this.#view === null || this.#view.pieces.length === 0) return;
    event.preventDefault();
    const last = this.#view.pieces.length - 1;
    const at = this.#nearest(this.#view.cursor) ?? last;
    this.#onCursor(this.#view.pieces[Math.min(last, Math.max(0, at + steps[event.key]))].moment);
  }

  /** A description of the chart for screen readers. */
  #summary(name, format, values) {
    const said = this.#definition.lines.map((line, i) => {
      const known = values[i].filter((value) => value !== null);
      if (known.length === 0) return `${line.name}: nothing yet`;
      const [low, high, now] = [Math.min(...known), Math.max(...known), known[known.length - 1]].map(format);
      return `${line.name}: last ${now}, lowest ${low}, highest ${high}`;
    });
    return `${name}. ${said.join(". ")}.`;
  }
}
