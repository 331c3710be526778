// Numbers, times and untrusted texts, for people.

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** Format a count: 12,345. */
export const formatCount = (count) => number.format(count);

/** Format a rate with three digits: 0.25, 3.2, 1,204. */
export function formatRate(rate) {
  if (rate === 0) return "0";
  if (rate < 1) return rate.toFixed(2);
  if (rate < 10) return rate.toFixed(1);
  return number.format(rate);
}

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

/** Format a number of bytes in decimal units: 4.1 kB. */
export function formatBytes(bytes) {
  let unit = 0;
  while (bytes >= 999.5 && unit < UNITS.length - 1) {
    bytes /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || bytes >= 99.5 ? 0 : 1;
  return `${bytes.toFixed(digits)} ${UNITS[unit]}`;
}

/** Format seconds: 340 µs, 1.2 ms, 250 ms, 4.1 s, and from a minute on as formatAge does. */
export function formatDuration(seconds) {
  if (seconds < 0.9995e-3) return `${(Math.max(seconds, 0) * 1e6).toFixed(0)} µs`;
  if (seconds < 0.9995) return `${(seconds * 1e3).toFixed(seconds < 0.00995 ? 1 : 0)} ms`;
  if (seconds < 59.95) return `${seconds.toFixed(seconds < 9.95 ? 1 : 0)} s`;
  return formatAge(seconds);
}

/** Format seconds in their two largest units, as the command line does: 19 s, 3m20s, 2h05m, 3d04h. */
export function formatAge(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m${pad(whole % 60)}s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)}h${pad(Math.floor(whole / 60) % 60)}m`;
  return `${Math.floor(whole / 86400)}d${pad(Math.floor(whole / 3600) % 24)}h`;
}

const pad = (value, digits = 2) => String(value).padStart(digits, "0");

const isToday = (date) => date.toDateString() === new Date().toDateString();

/** Format a moment in local time: 14:03:07, with the date unless it is today. */
export function formatTime(date, milliseconds = false) {
  let text = `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}`;
  if (milliseconds) text += `.${pad(date.getMilliseconds(), 3)}`;
  if (isToday(date)) return text;
  return `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())} ${text}`;
}

/** Format the offset of local time from UTC at a moment: +02:00. */
export function formatOffset(date) {
  const minutes = -date.getTimezoneOffset();
  const size = Math.abs(minutes);
  return `${minutes < 0 ? "−" : "+"}${pad(Math.floor(size / 60))}:${pad(size % 60)}`;
}

/** Format a host and a port; an IPv6 address has brackets, and a stand-in port a number sign. */
export function formatAddress(host, port) {
  if (host == null) return "–";
  if (port == null) return shown(host);
  if (port > 65535) return `${shown(host)}#${port}`;
  return host.includes(":") ? `[${shown(host)}]:${port}` : `${shown(host)}:${port}`;
}

// Control characters, and those that change the direction of text or have no width.
const UNSAFE = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;

/** Return a text with what cannot be seen, or changes the direction, as \u001b. */
export function shown(text, longest = 400) {
  const cut = text.length > longest ? `${text.slice(0, longest)}…` : text;
  return cut.replace(UNSAFE, (unsafe) => `\\u${unsafe.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** Return the file name of a percent-encoded one, for people; what is not UTF-8 becomes �. */
export function shownName(encoded) {
  const cut = encoded.length > 4000 ? encoded.slice(0, 4000) : encoded;
  const bytes = [];
  for (let place = 0; place < cut.length; place += 1) {
    const hex = cut[place] === "%" ? cut.slice(place + 1, place + 3) : "";
    if (/^[0-9A-Fa-f]{2}$/.test(hex)) {
      bytes.push(parseInt(hex, 16));
      place += 2;
    } else {
      bytes.push(...new TextEncoder().encode(cut[place]));
    }
  }
  return shown(new TextDecoder().decode(new Uint8Array(bytes)));
}

/** Return an element with a text; untrusted text is safe here, and isolated from its surroundings. */
export function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

/** Return an element with a record's command: its verb, and its file or the first of several. */
export function commandElement({ verb, name, files, others }) {
  const made = element("span", "", "command");
  made.append(element("span", shown(verb ?? ""), "verb"));
  if (name) {
    const file = element("bdi", shownName(name), "name");
    file.title = file.textContent;
    made.append(" ", file);
    if (files > 1) {
      const rest = element("span", `and ${files - 1} ${files === 2 ? "other" : "others"}`, "others");
      rest.title = (others ?? "").split(" ", 20).map((other) => shownName(other)).join("\n");
      made.append(" ", rest);
    }
  }
  return made;
}
