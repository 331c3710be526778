// The table of translations. It shows at most LIMIT rows, whatever the daemon's table has.

import { commandElement, element, formatAddress, formatBytes, formatCount, formatDuration, shown } from "./format.js";

export const LIMIT = 200;
const LINGER = 1500; // milliseconds that the row of a command that has ended stays
const REMEMBERED = 10_000; // milliseconds for which an end that was streamed is remembered

/** One row and its record. */
class Row {
  constructor(record) {
    this.record = record;
    this.ended = null; // when its command ended, by performance.now()
    this.added = performance.now();
    this.element = document.createElement("tr");
    // A narrow page has another layout, by which browsers forget that this is a table.
    this.element.setAttribute("role", "row");
    const [client, port, command, upstream] = ["client", "port", "what", "upstream"].map((name) => this.#cell(name));
    client.append(element("bdi", formatAddress(record.client, record.client_port), "address"));
    port.append(element("bdi", portOf(record), "address"));
    port.title = formatAddress(record.nat, record.nat_port);
    command.append(commandElement(record));
    upstream.append(element("bdi", formatAddress(record.upstream, record.upstream_port), "address"));
    this.state = this.#cell("phase");
    this.bytes = this.#cell("number bytes");
    this.age = this.#cell("number age");
    this.update(record);
  }

  #cell(className) {
    const cell = element("td", "", className);
    cell.setAttribute("role", "cell");
    this.element.append(cell);
    return cell;
  }

  update(record) {
    this.record = record;
    setText(this.state, shown(record.outcome ?? record.state ?? ""));
    this.state.title = record.reason ? shown(record.reason) : "";
    const of = record.promised ? ` of ${formatBytes(record.promised)}` : "";
    setText(this.bytes, formatBytes(record.bytes ?? 0) + of);
    this.element.dataset.state = record.outcome ?? record.state ?? "";
  }

  /**
   * Show how long the command has lasted.
   * @param {number | null} now of the daemon's clock in milliseconds; null for when it was read.
   */
  showAge(now) {
    const { record } = this;
    const read = now === null || this.ended !== null;
    const seconds = read ? record.duration : (now - Date.parse(record.started)) / 1000;
    if (seconds != null) setText(this.age, formatDuration(Math.max(seconds, 0)));
  }
}

/** What identifies a translation: each process of a daemon counts its own. */
function keyOf(record) {
  return `${record.boot}:${record.serial}`;
}

function portOf(record) {
  if (record.nat_port == null) return "–";
  return record.nat_port > 65535 ? `#${record.nat_port}` : String(record.nat_port);
}

function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/** The rows that are shown. */
export class Table {
  #rows = new Map();
  #ends = new Map(); // serials of commands that ended lately, and when
  #body = document.getElementById("rows");
  #note = document.getElementById("table-note");
  #total = 0;
  #more = 0;
  #filtered = false;

  /** Remove all rows. */
  clear() {
    this.#rows.clear();
    this.#ends.clear();
    this.#body.replaceChildren();
    this.#more = 0;
    this.#describe();
  }

  /** State how many entries the daemon has, filtered or not. */
  total(count, filtered) {
    this.#total = count;
    this.#filtered = filtered;
    this.#describe();
  }

  /**
   * Show the rows that the daemon returned.
   * @param {object[]} records oldest first, LIMIT + 1 at most.
   * @param {number} asOf when they were requested, by performance.now(): what happened later counts.
   */
  replace(records, asOf) {
    this.#more = Math.max(0, records.length - LIMIT);
    const seen = new Set();
    for (const record of records.slice(0, LIMIT)) {
      seen.add(keyOf(record));
      this.#put(record);
    }
    for (const [serial, row] of this.#rows) {
      // Its end was not streamed, so that neither its outcome nor its bytes are known.
      if (!seen.has(serial) && row.ended === null && row.added < asOf) this.#remove(serial, row);
    }
    this.#describe();
  }

  /** Apply one event of the stream. */
  apply(event) {
    if (event.event === "registered" || event.event === "relaying") {
      this.#put(event);
    } else if (event.event === "removed") {
      this.#ends.set(keyOf(event), performance.now());
      const row = this.#rows.get(keyOf(event));
      if (row && row.ended === null) {
        row.update(event);
        this.#end(row);
      }
    }
    this.#describe();
  }

  /**
   * Show ages, and remove what has ended. Call it about twice a second.
   * @param {number | null} now of the daemon's clock in milliseconds; null while ends are not
   *   streamed: a command that has ended since the table was read must not seem to last.
   */
  tick(now) {
    const moment = performance.now();
    for (const [serial, row] of this.#rows) {
      if (row.ended !== null && moment - row.ended > LINGER) {
        this.#remove(serial, row);
      } else {
        row.showAge(now);
      }
    }
    for (const [serial, ended] of this.#ends) {
      if (moment - ended < REMEMBERED) break;
      this.#ends.delete(serial);
    }
    this.#describe();
  }

  #put(record) {
    const row = this.#rows.get(keyOf(record));
    if (row) {
      if (row.ended === null && !(record.event && (record.bytes ?? 0) < (row.record.bytes ?? 0))) row.update(record);
    } else if (!this.#ends.has(keyOf(record)) && this.#rows.size < LIMIT) {
      const made = new Row(record);
      this.#rows.set(keyOf(record), made);
      this.#body.append(made.element);
      made.showAge(null);
    } else if (!this.#ends.has(keyOf(record))) {
      this.#more += record.event === "registered" ? 1 : 0;
    }
  }

  #end(row) {
    row.ended = performance.now();
    row.element.classList.add("ended");
    row.showAge(null);
  }

  #remove(serial, row) {
    row.element.remove();
    this.#rows.delete(serial);
  }

  #describe() {
    let live = 0;
    for (const row of this.#rows.values()) live += row.ended === null ? 1 : 0;
    let text;
    if (live === 0 && this.#more === 0) {
      text = this.#filtered ? "No command in flight matches the filter." : "No command is in flight.";
    } else if (this.#filtered) {
      text = this.#more > 0 ? `The oldest ${formatCount(live)} that match; more match.` : `${formatCount(live)} match.`;
    } else {
      const hidden = Math.max(this.#total - live, this.#more, 0);
      text = hidden > 0 && live >= LIMIT / 2
        ? `The oldest ${formatCount(live)}; ${formatCount(hidden)} more are not shown: use the filter.`
        : `${formatCount(live)} in flight.`;
    }
    setText(this.#note, text);
  }
}
