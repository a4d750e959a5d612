const UNITS = ["kB", "MB", "GB", "TB", "PB"];

/** Bytes for a person: `12.3 MB`. */
export function bytes(count: number): string {
  if (count < 1000) return count === 1 ? "1 byte" : `${count} bytes`;
  let size = count;
  let unit = -1;
  while (size >= 999.5 && unit < UNITS.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return `${size < 99.95 ? size.toFixed(1) : Math.round(size)} ${UNITS[unit]}`;
}

/** Bytes per second for a person. */
export function speed(rate: number): string {
  return `${bytes(Math.round(rate))}/s`;
}

/** A span of seconds, rounded to what a person wants to know: `2 h 5 min`. */
export function span(seconds: number): string {
  if (seconds < 60) return `${Math.max(1, Math.ceil(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  const days = Math.round(hours / 24);
  return days === 1 ? "1 day" : `${days} days`;
}

/** A recording's length: `1:05:09`. */
export function clock(seconds: number): string {
  const whole = Math.round(seconds);
  const parts = [Math.floor(whole / 60) % 60, whole % 60];
  const hours = Math.floor(whole / 3600);
  const [minutes, rest] = parts as [number, number];
  const tail = String(rest).padStart(2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${tail}` : `${minutes}:${tail}`;
}

const TIME = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const DAY = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const DATE = new Intl.DateTimeFormat(undefined, {
  day: "numeric",
  month: "short",
  year: "numeric",
});
const WHOLE = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "short" });

/** An instant, as short as it can be understood. */
export function when(instant: string, now = new Date()): string {
  const date = new Date(instant);
  if (date.toDateString() === now.toDateString()) return `Today, ${TIME.format(date)}`;
  return (date.getFullYear() === now.getFullYear() ? DAY : DATE).format(date);
}

/** An instant in full. */
export function exactly(instant: string): string {
  return WHOLE.format(new Date(instant));
}

/** How long until an instant: `in 3 days`, `in 5 min`. */
export function until(instant: string, now = Date.now()): string {
  return `in ${span((Date.parse(instant) - now) / 1000)}`;
}

/** `1 file`, `2 files`. */
export function count(number: number, noun: string): string {
  return `${number.toLocaleString()} ${noun}${number === 1 ? "" : "s"}`;
}

/** The extension that stands for a kind of file on a tile, at most four letters. */
export function extension(name: string): string {
  return /\.([A-Za-z0-9]{1,4})$/.exec(name)?.[1]?.toUpperCase() ?? "";
}
