// The page of a proxy: it reads the daemon once a second, and shows what it has read.

import { DaemonError, get } from "./api.js";
import { Charts } from "./charts.js";
import { Connection } from "./connection.js";
import { FilterBox } from "./filter.js";
import { formatAge, formatBytes, formatCount, formatOffset, formatRate, shown } from "./format.js";
import { TopClients, showErrors, showLimits, upstreamsText } from "./lists.js";
import { Stream } from "./stream.js";
import { LIMIT, Table } from "./table.js";
import { connectThemeSwitch } from "./theme_switch.js";
import { connectWhois } from "./whois.js";

const PERIOD = 1000; // milliseconds between two readings
const STATUS_EVERY = 5; // readings
const SHARE = 5; // a reading takes at most a fifth of the time: the next one waits accordingly

const connection = new Connection();
const charts = new Charts();
const topClients = new TopClients();
const table = new Table();
const stream = new Stream(
  (event) => {
    if (boots.has(event.boot)) table.apply(event);
  },
  (lost) => {
    if (!boots.has(lost.boot) || !Number.isInteger(lost.to)) return;
    const count = formatCount(lost.to - lost.from + 1);
    connection.notice(`${count} events were lost (${lost.from} to ${lost.to}); the table was read again.`);
  },
);

let boot = null; // the run of the daemon that the page shows
let boots = new Set(); // the runs of its workers, or that run
let tick = 0; // of the last second of the charts
let newestError = 0; // its event
let lost = 0;
let ahead = 0; // milliseconds by which the daemon's clock is ahead of this one
let readings = 0;
let status = null;
let timer = null;
let reading = false; // whether a reading is under way
let again = false; // whether another was requested meanwhile
let refused = null; // the filter that the daemon refused

const filter = new FilterBox(() => {
  refused = null;
  stream.close();
  table.clear();
  read();
});

/** Begin anew with another run of the daemon. */
function begin(latest) {
  if (boot !== null && boot !== latest.boot) {
    connection.notice("The daemon was restarted: its table, charts and numbers begin anew.");
  }
  boot = latest.boot;
  [tick, newestError, lost] = [0, 0, 0];
  stream.close();
  table.clear();
  charts.clear();
}

async function readStatus() {
  const latest = await get("/v1/status");
  if (latest.boot !== boot) begin(latest);
  status = latest;
  boots = new Set([boot, ...(latest.workers ?? []).map((each) => each.boot)]);
  showStatus(latest);
}

async function readRates() {
  const rates = await get("/page/rates", { after: tick, error: newestError });
  if (rates.boot !== boot) {
    await readStatus();
    return readRates();
  }
  ahead = Date.parse(rates.now) - Date.now();
  if (rates.seconds.length > 0 || tick === 0) {
    tick = rates.seconds.at(-1)?.[rates.fields.indexOf("tick")] ?? tick;
    charts.add(rates.fields, rates.seconds);
    showNow(rates);
  }
  if (rates.lost > lost) connection.notice(`${formatCount(rates.lost - lost)} events are missing in the charts.`);
  lost = rates.lost;
  topClients.show(rates.clients);
  if (rates.errors !== null) {
    newestError = rates.errors[0]?.seq ?? 0;
    showErrors(rates.errors);
  }
}

async function readTable() {
  const text = filter.value;
  if (refused === text) return;
  const asOf = performance.now();
  // The stream continues where the table was read, or before: an event twice does no harm.
  const follow = !stream.open && !stream.busy;
  if (follow) await readStatus();
  const after = status.position ?? `0:0:${boot}`;
  try {
    const records = await get("/v1/table", { filter: text, limit: LIMIT + 1 });
    if (text !== filter.value) return;
    filter.clearProblem();
    table.replace(records, asOf);
    if (follow && !document.hidden) stream.start(text, after);
  } catch (error) {
    if (!(error instanceof DaemonError) || error.status !== 400 || text === "") throw error;
    if (text !== filter.value) return;
    refused = text;
    filter.show(error);
  }
}

/** Read everything once, and plan the next reading. */
async function read() {
  if (reading) {
    again = true;
    return;
  }
  clearTimeout(timer);
  if (document.hidden) return;
  reading = true;
  again = false;
  const begun = performance.now();
  let delay = PERIOD;
  try {
    if (boot === null || readings % STATUS_EVERY === 0 || connection.state !== "live") await readStatus();
    readings += 1;
    await readRates();
    await readTable();
    connection.set(document.hidden ? "paused" : "live");
    const took = performance.now() - begun;
    delay = Math.max(PERIOD - took, took * SHARE, 0);
  } catch (error) {
    stream.close();
    connection.set("away");
    delay = connection.delay;
    if (error instanceof DaemonError) connection.notice(shown(error.message));
  }
  reading = false;
  if (!document.hidden) timer = setTimeout(read, again ? 0 : delay);
}

function setText(id, text) {
  const target = document.getElementById(id);
  if (target.textContent !== text) target.textContent = text;
}

function showStatus(latest) {
  setText("name", shown(latest.name ?? ""));
  document.title = `${shown(latest.name ?? "natproxy")} – natproxy`;
  setText("version", shown(`natproxy ${latest.version ?? ""}`));
  setText("clients-now", formatCount(latest.clients ?? 0));
  const ports = latest.counters?.ports?.total;
  setText("ports-of", ports ? `of ${formatCount(ports)}` : "");
  const details = [`up ${formatAge(latest.uptime ?? 0)}`];
  if (latest.draining) details.unshift("draining");
  for (const each of latest.missing ?? []) details.unshift(`worker ${each.worker} does not reply`);
  const upstreams = upstreamsText(latest.upstreams);
  if (upstreams) details.push(`upstreams: ${upstreams}`);
  else if (latest.upstream) details.push(`to ${latest.upstream}`);
  if (latest.journal?.error) details.push(`journal: ${latest.journal.error}`);
  setText("details", shown(details.join(" · ")));
  showLimits(latest.counters?.limits);
}

function showNow(rates) {
  const last = rates.seconds.at(-1);
  if (!last) return;
  const value = (field) => last[rates.fields.indexOf(field)];
  setText("commands-now", formatRate(value("commands")));
  setText("errors-now", formatRate(value("errors")));
  document.getElementById("errors-tile").classList.toggle("bad", value("errors") > 0);
  setText("bytes-now", `${formatBytes(value("bytes"))}/s`);
  setText("entries-now", formatCount(value("entries")));
  table.total(value("entries"), filter.value !== "");
  setText("busy", stream.busy ? "Many events: the table is read once a second, and short commands are left out." : "");
}

setInterval(() => {
  if (document.hidden) return;
  connection.tick();
  if (connection.state !== "away") table.tick(stream.open ? Date.now() + ahead : null);
}, 500);

document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  if (document.hidden) {
    stream.close();
    connection.set("paused");
  } else {
    read();
  }
});

setText("zone", `local time, UTC${formatOffset(new Date())}`);
connectThemeSwitch(() => charts.recolour());
connectWhois();
read();
