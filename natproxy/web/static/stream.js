// The stream of events, by which rows appear and go at once.
//
// It is only an addition: the table is read once a second all the same, since bytes and ages change
// without an event. With very many events the stream is closed, and the reading is left.

const MOST = 300; // events in a second; with more the stream costs both sides more than it shows
const PAUSE = 20_000; // milliseconds until the next attempt

/** A stream of events that match a filter. */
export class Stream {
  #source = null;
  #begun = 0;
  #count = 0;
  #pausedUntil = 0;
  #received;
  #lost;

  /**
   * @param {(event: object) => void} received called with each event.
   * @param {(lost: object) => void} lost called with the events that were lost.
   */
  constructor(received, lost) {
    this.#received = received;
    this.#lost = lost;
  }

  /** Whether there are too many events to show each. */
  get busy() {
    return performance.now() < this.#pausedUntil;
  }

  get open() {
    return this.#source !== null;
  }

  /**
   * Open the stream, unless there were too many events lately.
   * @param {string} filter
   * @param {string} after WORKER:SEQ:BOOT of the last event that is not wanted.
   */
  start(filter, after) {
    this.close();
    if (this.busy) return;
    const query = new URLSearchParams({ follow: "1", after });
    if (filter) query.set("filter", filter);
    const source = new EventSource(`/v1/events?${query}`);
    this.#source = source;
    this.#begun = performance.now();
    this.#count = 0;
    const receive = (message) => this.#receive(message);
    for (const kind of ["message", "registered", "relaying", "removed", "failed", "lost", "kill", "drain"]) {
      source.addEventListener(kind, receive);
    }
    // The page opens another when it has read the table: a restarted daemon counts anew.
    source.addEventListener("error", () => {
      if (this.#source === source) this.close();
    });
  }

  close() {
    this.#source?.close();
    this.#source = null;
  }

  #receive(message) {
    let event;
    try {
      event = JSON.parse(message.data);
    } catch {
      return;
    }
    const now = performance.now();
    if (now - this.#begun > 1000) {
      this.#begun = now;
      this.#count = 0;
    }
    this.#count += 1;
    if (this.#count > MOST) {
      this.#pausedUntil = now + PAUSE;
      this.close();
    } else if (event.event === "lost") {
      this.#lost(event);
    } else {
      this.#received(event);
    }
  }
}
