// The top clients, the recent errors, and the upstreams.

import { commandElement, element, formatAddress, formatBytes, formatCount, formatTime, shown } from "./format.js";

const TOP = 10;
const RECENT = 60; // seconds for which a client that was over a limit is shown
const SUMS = ["commands", "bytes", "errors"];

/** The clients with the most commands, bytes or errors of the last minute. */
export class TopClients {
  #clients = [];
  #by = "commands";
  #body = document.getElementById("clients");

  constructor() {
    for (const button of document.querySelectorAll("[data-by]")) {
      button.addEventListener("click", () => {
        this.#by = button.dataset.by;
        for (const head of document.querySelectorAll("th[aria-sort]")) head.removeAttribute("aria-sort");
        button.parentElement.setAttribute("aria-sort", "descending");
        this.#draw();
      });
    }
  }

  /** Show what /page/rates returned: those that are among the first by one of the sums, and the rest. */
  show(clients) {
    this.#clients = clients;
    this.#draw();
  }

  #draw() {
    const named = this.#clients.filter(({ client }) => client !== null);
    named.sort((one, other) => other[this.#by] - one[this.#by] || other.commands - one.commands);
    const rest = [...named.slice(TOP), ...this.#clients.filter(({ client }) => client === null)];
    const shownClients = named.slice(0, TOP);
    const most = Math.max(1, ...shownClients.map((client) => client[this.#by]));
    const rows = shownClients.map((client) => this.#row(client, most));
    if (rest.length > 0) {
      const total = (name) => rest.reduce((sum, client) => sum + client[name], 0);
      rows.push(this.#row(Object.fromEntries(SUMS.map((name) => [name, total(name)])), null));
    }
    this.#body.replaceChildren(...rows);
    document.getElementById("clients-note").hidden = rows.length > 0;
  }

  #row(client, most) {
    const row = document.createElement("tr");
    const name = element("th", "", "client");
    name.scope = "row";
    if (most === null) {
      name.append("all others");
    } else {
      const share = document.createElement("meter");
      share.max = most;
      share.value = client[this.#by];
      share.setAttribute("aria-hidden", "true");
      name.append(element("bdi", shown(client.client), "address"), share);
    }
    row.append(
      name,
      element("td", formatCount(client.commands), "number"),
      element("td", formatBytes(client.bytes), "number"),
      element("td", formatCount(client.errors), client.errors > 0 ? "number bad" : "number"),
    );
    return row;
  }
}

/** Show the commands that failed, the newest first. */
export function showErrors(errors) {
  const list = document.getElementById("errors");
  list.replaceChildren(
    ...errors.map((record) => {
      const item = document.createElement("li");
      item.dataset.outcome = record.outcome ?? "";
      const time = element("time", formatTime(new Date(record.time)));
      time.dateTime = record.time;
      const what = element("span", "", "what");
      what.append(element("bdi", formatAddress(record.client, record.client_port), "address"), " ", commandElement(record));
      const why = [record.outcome, record.reason].filter((text) => text && text !== "completed");
      item.append(time, what, element("bdi", why.map((text) => shown(text)).join(": "), "reason"));
      return item;
    }),
  );
  document.getElementById("errors-note").hidden = errors.length > 0;
}

/** Show which clients were over a limit lately, as /v1/status has them, and how many commands are delayed. */
export function showLimits(limits) {
  const recent = (limits?.clients ?? []).filter(({ age }) => age < RECENT);
  const parts = recent.map(({ client, limit }) => `${client} (${limit})`);
  if (limits?.waiting > 0) parts.unshift(`${formatCount(limits.waiting)} delayed now`);
  const target = document.getElementById("limits");
  target.hidden = parts.length === 0;
  const text = parts.length === 0 ? "" : shown(`Over a limit: ${parts.join(", ")}`);
  if (target.textContent !== text) target.textContent = text;
}

const MODES = [["drain", "draining"], ["maintenance", "in maintenance"]];

/** Return the upstreams of /v1/status in one line; empty if there is one only, and nothing to report. */
export function upstreamsText(members) {
  const upstreams = members?.upstreams ?? [];
  const waiting = members?.queue?.length ?? 0;
  const up = upstreams.filter(({ health, mode }) => health === "up" && mode === "ready");
  if (upstreams.length === 0 || (upstreams.length === 1 && up.length === 1 && waiting === 0)) return "";
  const parts = [`${formatCount(up.length)} up`];
  const down = upstreams.filter(({ health, mode }) => health === "down" && mode === "ready");
  if (down.length > 0) {
    const named = down.map(({ name, last_error: error }) => `${name}: ${error ?? "?"}`);
    parts.push(`${formatCount(down.length)} down (${named.join("; ")})`);
  }
  for (const [word, text] of MODES) {
    const names = upstreams.filter(({ mode }) => mode === word).map(({ name }) => name);
    if (names.length > 0) parts.push(`${formatCount(names.length)} ${text} (${names.join(", ")})`);
  }
  return [...parts, `queue ${formatCount(waiting)}`].join(", ");
}
