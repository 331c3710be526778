// The page of a file server: its status, read every two seconds.

import { get } from "./api.js";
import { Connection } from "./connection.js";
import { element, formatAge, formatCount, shown } from "./format.js";
import { connectThemeSwitch } from "./theme_switch.js";

const PERIOD = 2000; // milliseconds
const IN_HEAD = new Set(["name", "version", "uptime", "control", "ring", "table", "journal"]);

const connection = new Connection();
let timer = null;
let reading = false; // whether a reading is under way
let boot = null;

/** Return an element of a list as text: the values of an object, such as a client over a limit. */
function text(value) {
  if (value === null || typeof value !== "object") return String(value);
  const members = Object.entries(value).filter(([, member]) => member !== null && member !== 0);
  const texts = members.map(([name, member]) => {
    if (name === "age") return `${formatAge(member)} ago`;
    return typeof member === "number" ? `${formatCount(member)} ${name}` : member;
  });
  return texts.join(" ");
}

/**
 * Return the members of an object and of the objects in it, with their paths. Histograms are left
 * out, and so are counters below the top that are 0.
 */
function* facts(members, prefix = "", depth = 0) {
  for (const [name, value] of Object.entries(members)) {
    if (value === null || (depth === 0 && IN_HEAD.has(name))) continue;
    const path = prefix + name.replaceAll("_", " ");
    if (Array.isArray(value)) {
      if (value.length > 0) yield [path, value.map(text).join(", ")];
    } else if (typeof value === "object") {
      // These three only group others.
      const plain = name === "verbs" || (depth === 0 && (name === "commands" || name === "counters"));
      if (!("bounds" in value)) yield* facts(value, plain ? prefix : `${path} `, depth + 1);
    } else if (value === 0 && depth > 0) continue;
    else if (typeof value === "number" && name !== "pid") yield [path, formatCount(value)];
    else if (typeof value === "boolean") yield [path, value ? "yes" : "no"];
    else yield [path, String(value)];
  }
}

function show(status) {
  if (boot !== null && boot !== status.boot) connection.notice("The daemon was restarted: its numbers begin anew.");
  boot = status.boot;
  document.getElementById("name").textContent = shown(status.name ?? "natproxy");
  document.getElementById("version").textContent = shown(`natproxy ${status.version ?? ""}`);
  document.getElementById("details").textContent = `file server · up ${formatAge(status.uptime ?? 0)}`;
  document.title = `${shown(status.name ?? "natproxy")} – natproxy`;
  const shownFacts = [...facts(status)].flatMap(([name, value]) => [element("dt", shown(name)), element("dd", shown(value))]);
  document.getElementById("facts").replaceChildren(...shownFacts);
}

/** Read the status once, and plan the next reading. */
async function read() {
  if (reading || document.hidden) return;
  clearTimeout(timer);
  reading = true;
  let delay = PERIOD;
  try {
    show(await get("/v1/status"));
    connection.set(document.hidden ? "paused" : "live");
  } catch {
    connection.set("away");
    delay = connection.delay;
  }
  reading = false;
  timer = setTimeout(read, delay);
}

setInterval(() => connection.tick(), 1000);
document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  if (document.hidden) connection.set("paused");
  else read();
});
connectThemeSwitch(() => {});
read();
