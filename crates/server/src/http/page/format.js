// Formats numbers. Unknown values are a dash.

const NOTHING = "–";
const known = (number) => number !== null && number !== undefined && Number.isFinite(number);

/** Three digits, so that numbers keep their width while they change. */
function short(number) {
  const digits = number >= 99.95 ? 0 : number >= 9.995 ? 1 : 2;
  return number.toFixed(digits);
}

/** A number in the largest of `units` that leaves it at 1 or more; each is `step` of the one before. */
function scaled(number, step, units) {
  let unit = 0;
  while (number >= step * 0.9995 && unit < units.length - 1) {
    number /= step;
    unit += 1;
  }
  return `${short(number)} ${units[unit]}`;
}

/** 0.834 is 83.4 %. */
export function percent(part) {
  if (!known(part)) return NOTHING;
  return part > 0.9995 ? "100 %" : `${(part * 100).toFixed(1)} %`;
}

/** Bytes, in powers of 1024. */
export function bytes(number) {
  if (!known(number)) return NOTHING;
  return number < 1024 ? `${Math.round(number)} B` : scaled(number / 1024, 1024, ["KiB", "MiB", "GiB", "TiB", "PiB"]);
}

/** Bytes per second. */
export function speed(number) {
  return known(number) ? `${bytes(number)}/s` : NOTHING;
}

/** Counts: 12,345, and 1.23 M for large ones. */
export function count(number) {
  if (!known(number)) return NOTHING;
  return number < 1e6 ? Math.round(number).toLocaleString("en") : scaled(number / 1e6, 1000, ["M", "G", "T"]);
}

/** Events per second. */
export function frequency(number) {
  if (!known(number)) return NOTHING;
  return number === 0 ? "0" : number < 0.1 ? "< 0.1" : number < 100 ? number.toFixed(1) : count(number);
}

/** How long something took, from microseconds on. */
export function duration(seconds) {
  if (!known(seconds)) return NOTHING;
  if (seconds === 0) return "0";
  return seconds < 1 ? scaled(seconds * 1e6, 1000, ["µs", "ms"]) : `${short(seconds)} s`;
}

/** How long something has lasted, in its two largest units. */
export function span(seconds) {
  if (!known(seconds)) return NOTHING;
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  let rest = Math.floor(seconds);
  const parts = units.map(([name, length]) => {
    const whole = Math.floor(rest / length);
    rest -= whole * length;
    return [whole, name];
  });
  const first = parts.findIndex(([whole]) => whole > 0);
  if (first < 0) return "0 s";
  return parts.slice(first, first + 2).filter(([whole]) => whole > 0).map((part) => part.join(" ")).join(" ");
}

/** The time of day of a moment in seconds since 1970. */
export function clock(moment, withSeconds = true) {
  const two = (number) => String(number).padStart(2, "0");
  const date = new Date(moment * 1000);
  const minutes = `${two(date.getHours())}:${two(date.getMinutes())}`;
  return withSeconds ? `${minutes}:${two(date.getSeconds())}` : minutes;
}

/** "1 worker", "2 workers". */
export function several(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}
