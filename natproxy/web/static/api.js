// Requests to the daemon.

const LIMIT = 15_000; // milliseconds

/** An error that the daemon replied with. */
export class DaemonError extends Error {
  /**
   * @param {number} status of HTTP.
   * @param {string} message one sentence.
   * @param {number | null} position in a filter at which the error is.
   */
  constructor(status, message, position) {
    super(message);
    this.status = status;
    this.position = position;
  }
}

/**
 * Return the JSON value of a resource.
 * @throws {DaemonError} if the daemon replied with an error; another Error if it did not reply.
 */
export async function get(path, parameters = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== null && value !== "") query.set(name, value);
  }
  const text = query.toString();
  const response = await fetch(text ? `${path}?${text}` : path, {
    cache: "no-store",
    credentials: "omit",
    signal: AbortSignal.timeout(LIMIT),
  });
  if (response.ok) return response.json();
  let failure = {};
  try {
    failure = await response.json();
  } catch {
    // It is not from the daemon, but from a proxy in front of it.
  }
  const position = Number.isInteger(failure.position) ? failure.position : null;
  throw new DaemonError(response.status, failure.error ?? `HTTP ${response.status}`, position);
}
