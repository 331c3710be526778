// Whether the daemon replies, and since when it does not.

import { element, formatAge, formatTime } from "./format.js";

const STATES = {
  connecting: "Connecting …",
  live: "Live",
  away: "The daemon does not reply",
  paused: "Paused in the background",
};

/** The state of the connection, shown in the head of the page. */
export class Connection {
  state = "connecting";
  #since = new Date();
  #failures = 0;
  #shown = document.getElementById("state");
  #banner = document.getElementById("banner");

  /** Set the state; `away` remembers since when. */
  set(state) {
    this.#failures = state === "away" ? this.#failures + 1 : 0;
    if (state === this.state) return;
    this.state = state;
    this.#since = new Date();
    document.body.dataset.state = state;
    this.#shown.textContent = STATES[state];
    if (state === "live") this.#banner.replaceChildren();
    if (state === "away") {
      const text = element("p", `The daemon has not replied since ${formatTime(this.#since)}. What is shown is from before.`);
      this.#banner.replaceChildren(text, element("p", "", "quiet"));
    }
  }

  /** Milliseconds until the next attempt, while the daemon is away: 1 s, doubled up to 10 s. */
  get delay() {
    return Math.min(1000 * 2 ** (this.#failures - 1), 10_000);
  }

  /** Show for how long the daemon has been away. */
  tick() {
    if (this.state !== "away") return;
    const age = (Date.now() - this.#since.getTime()) / 1000;
    this.#banner.lastElementChild.textContent = `Away for ${formatAge(age)}; the page tries again by itself.`;
  }

  /** Show a notice that stays until it is replaced. */
  notice(text) {
    const notices = document.getElementById("notices");
    if (notices.firstElementChild?.dataset.text === text) return;
    const notice = element("p", `${formatTime(new Date())} ${text}`);
    notice.dataset.text = text;
    notices.prepend(notice);
    while (notices.childElementCount > 3) notices.lastElementChild.remove();
  }
}
