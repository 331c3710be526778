// The top clients and the recent errors.

import { commandElement, element, formatAddress, formatBytes, formatCount, formatTime, shown } from "./format.js";

/** Show the clients with the most commands of the last minute. */
export function showClients(clients) {
  const body = document.getElementById("clients");
  const most = Math.max(1, ...clients.map((client) => (client.client === null ? 0 : client.commands)));
  body.replaceChildren(
    ...clients.map((client) => {
      const row = document.createElement("tr");
      const name = element("th", "", "client");
      name.scope = "row";
      name.append(client.client === null ? "all others" : element("bdi", shown(client.client), "address"));
      const share = document.createElement("meter");
      share.max = most;
      share.value = client.client === null ? 0 : client.commands;
      share.setAttribute("aria-hidden", "true");
      if (client.client !== null) name.append(share);
      row.append(
        name,
        element("td", formatCount(client.commands), "number"),
        element("td", formatBytes(client.bytes), "number"),
        element("td", formatCount(client.errors), client.errors > 0 ? "number bad" : "number"),
      );
      return row;
    }),
  );
  document.getElementById("clients-note").hidden = clients.length > 0;
}

let newestError = "";

/** Show the commands that failed, the newest first. */
export function showErrors(errors) {
  const newest = errors.length > 0 ? `${errors[0].boot} ${errors[0].seq} ${errors.length}` : "";
  if (newest === newestError) return;
  newestError = newest;
  const list = document.getElementById("errors");
  list.replaceChildren(
    ...errors.map((record) => {
      const item = document.createElement("li");
      item.dataset.outcome = record.outcome ?? "";
      const time = element("time", formatTime(new Date(record.time)));
      time.dateTime = record.time;
      const what = element("span", "", "what");
      what.append(element("bdi", formatAddress(record.client, record.client_port), "address"), " ", commandElement(record.verb, record.name));
      const why = [record.outcome, record.reason].filter((text) => text && text !== "completed");
      item.append(time, what, element("bdi", why.map((text) => shown(text)).join(": "), "reason"));
      return item;
    }),
  );
  document.getElementById("errors-note").hidden = errors.length > 0;
}
