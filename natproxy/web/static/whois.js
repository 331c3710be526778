// Who was behind a port, at a time?

import { get } from "./api.js";
import { commandElement, element, formatAddress, formatBytes, formatDuration, formatOffset, formatTime, shown } from "./format.js";

const NUMBER = /^\d{1,7}$/;
const CLOCK = /^(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,6}))?)?$/;
const MOMENT =
  /^(\d{4})-(\d{2})-(\d{2})[T ]+(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,6}))?)?\s*(Z|[+-]\d{2}:?\d{2})?$/i;
const AGO = /^-\s*(\d+(?:\.\d+)?)\s*(s|sec|m|min|h|d)$/i;
const SECONDS = { s: 1, sec: 1, m: 60, min: 60, h: 3600, d: 86400 };

/**
 * Return the port and the address of a text such as 40001, 10.0.0.1:40001 or [::1]:40001.
 * @throws {Error} with a sentence for people.
 */
export function parsePort(text) {
  const place = Math.max(text.lastIndexOf(":"), text.lastIndexOf("#"));
  const port = text.slice(place + 1).trim();
  if (!NUMBER.test(port)) throw new Error("Enter a port, such as 40001, or an address and a port, such as 10.0.0.1:40001.");
  const nat = place > 0 ? text.slice(0, place).trim().replace(/^\[|\]$/g, "") : null;
  return { port, nat };
}

/**
 * Return the interval that a text means, as UTC texts: a minute, a second, or what it is exact to.
 * @returns {{ since: string, until: string } | null} null for now.
 * @throws {Error} with a sentence for people.
 */
export function parseMoment(text, now = new Date()) {
  const trimmed = text.trim();
  if (trimmed === "" || trimmed === "now") return null;
  const ago = AGO.exec(trimmed);
  if (ago) {
    const unit = ago[2].toLowerCase();
    const start = now.getTime() - ago[1] * SECONDS[unit] * 1000;
    return interval(start, 1_000_000);
  }
  const clock = CLOCK.exec(trimmed);
  const moment = MOMENT.exec(trimmed);
  if (!clock && !moment) {
    throw new Error("Enter a time such as 14:03, 14:03:07, 2026-11-26 14:03:07.25, 2026-11-26T14:03:07Z or -10min.");
  }
  const date = moment
    ? [Number(moment[1]), Number(moment[2]) - 1, Number(moment[3])]
    : [now.getFullYear(), now.getMonth(), now.getDate()];
  const [hours, minutes, seconds, fraction] = moment ? moment.slice(4, 8) : clock.slice(1, 5);
  const parts = [...date, Number(hours), Number(minutes), Number(seconds ?? 0)];
  if (new Date(Date.UTC(...date)).getUTCDate() !== date[2] || parts[1] > 11 || parts[3] > 23 || parts[4] > 59 || parts[5] > 59) {
    throw new Error("There is no such time.");
  }
  const zone = moment?.[8];
  let start = zone ? Date.UTC(...parts) : new Date(...parts).getTime();
  if (zone && zone.toUpperCase() !== "Z") {
    const size = Number(zone.slice(1, 3)) * 60 + Number(zone.slice(-2));
    start -= (zone[0] === "-" ? -size : size) * 60_000;
  }
  const microseconds = fraction ? Number(fraction.padEnd(6, "0")) : 0;
  const resolution = fraction ? 10 ** (6 - fraction.length) : seconds ? 1_000_000 : 60_000_000;
  return interval(start, resolution, microseconds);
}

function interval(start, resolution, microseconds = 0) {
  const until = microseconds + resolution;
  return { since: iso(start, microseconds), until: iso(start + Math.floor(until / 1e6) * 1000, until % 1e6) };
}

/** Return a UTC text with microseconds, of milliseconds since the epoch and microseconds to add. */
function iso(milliseconds, microseconds) {
  const whole = new Date(Math.floor(milliseconds / 1000) * 1000).toISOString().slice(0, 19);
  const rest = (Math.round(milliseconds) % 1000) * 1000 + microseconds;
  return `${whole}.${String(rest).padStart(6, "0")}Z`;
}

/** Connect the form. */
export function connectWhois() {
  const form = document.getElementById("whois");
  const result = document.getElementById("whois-result");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    result.replaceChildren(element("p", "Searching …", "quiet"));
    try {
      const { port, nat } = parsePort(form.elements.port.value);
      const moment = parseMoment(form.elements.time.value);
      const reply = await get("/v1/whois", { port, nat, upstream: form.elements.upstream.value.trim(), ...moment });
      result.replaceChildren(...describe(reply, port, form.elements.time.value.trim()));
    } catch (error) {
      result.replaceChildren(element("p", sentence(error.message), "problem"));
    }
  });
}

/** Return an error as a sentence for people, who have entered one time and not its interval. */
function sentence(text) {
  const whole = shown(String(text)).replace(/^since is/, "the time is");
  return `${whole.slice(0, 1).toUpperCase()}${whole.slice(1)}${/[.!?]$/.test(whole) ? "" : "."}`;
}

function* describe({ result, translations, gap, last }, port, time) {
  const when = time ? `at ${shown(time)}` : "now";
  if (result === "found") {
    const several = translations.length > 1 ? `${translations.length} commands` : "one command";
    yield element("p", `Found: port ${port} was held by ${several} ${when}.`, "verdict found");
  } else if (result === "nobody") {
    yield element("p", `Nobody: no command held port ${port} ${when}.`, "verdict nobody");
  } else {
    yield element("p", `Unknown: the record is not complete ${when}.`, "verdict unknown");
  }
  if (gap) yield element("p", `Gap ${describeGap(gap)}.`, "gap");
  if (translations.length > 0 && result === "unknown") yield element("p", "It may have been:");
  const shownTranslations = translations.slice(0, 20);
  for (const translation of shownTranslations) yield card(translation);
  const more = translations.length - shownTranslations.length;
  if (more > 0) yield element("p", `And ${more} more.`, "quiet");
  if (last) {
    yield element("p", "The last one before:", "quiet");
    yield card(last);
  }
}

/** Return a gap in words: from … until …: the daemon was killed. */
export function describeGap({ from, to, cause }) {
  const since = from ? `from ${formatTime(new Date(from), true)}` : "from the beginning";
  const until = to ? `until ${formatTime(new Date(to), true)}` : "with no known end";
  return `${since} ${until}: ${shown(cause)}`;
}

function card(record) {
  const list = element("dl", "", "card");
  const add = (term, ...values) => {
    const value = element("dd");
    value.append(...values);
    list.append(element("dt", term), value);
  };
  add("client", element("bdi", formatAddress(record.client, record.client_port), "address"));
  if (record.identity) add("identity", element("bdi", shown(record.identity)));
  add("command", commandElement(record));
  if (record.attempt > 1) add("attempt", record.attempt);
  const started = new Date(record.started);
  const ended = record.ended ? formatTime(new Date(record.ended), true) : record.state === "lost" ? "not known" : "still open";
  add("time", `${formatTime(started, true)} – ${ended} (UTC${formatOffset(started)})`);
  if (record.duration != null) add("duration", formatDuration(record.duration));
  if (record.bytes != null) add("bytes", formatBytes(record.bytes));
  add("path", element("bdi", `${formatAddress(record.nat, record.nat_port)} → ${formatAddress(record.upstream, record.upstream_port)}`, "address"));
  add("outcome", [record.outcome ?? record.state, record.reason].filter(Boolean).map((text) => shown(text)).join(": "));
  return list;
}
