// The filter box. The daemon evaluates the filter; this shows its error, and points at the word.

import { shown } from "./format.js";

/** The filter box, and the filter in the address of the page (#filter=…). */
export class FilterBox {
  #form = document.getElementById("filter-form");
  #input = document.getElementById("filter");
  #problem = document.getElementById("filter-problem");
  #value = "";

  /** @param {() => void} changed called when another filter is to be applied. */
  constructor(changed) {
    this.#value = new URLSearchParams(location.hash.slice(1)).get("filter") ?? "";
    this.#input.value = this.#value;
    const apply = () => {
      const text = this.#input.value.trim();
      this.clearProblem();
      if (text === this.#value) return;
      this.#value = text;
      history.replaceState(null, "", text ? `#filter=${encodeURIComponent(text)}` : location.pathname);
      changed();
    };
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      apply();
    });
    this.#form.addEventListener("reset", (event) => {
      event.preventDefault();
      this.#input.value = "";
      apply();
      this.#input.focus();
    });
    addEventListener("hashchange", () => {
      const text = new URLSearchParams(location.hash.slice(1)).get("filter") ?? "";
      this.#input.value = text;
      apply();
    });
  }

  /** The filter that applies; "" for all. */
  get value() {
    return this.#value;
  }

  clearProblem() {
    this.#input.removeAttribute("aria-invalid");
    this.#problem.replaceChildren();
  }

  /** Show an error of the daemon. */
  show(error) {
    this.#input.setAttribute("aria-invalid", "true");
    const message = document.createElement("p");
    message.textContent = shown(error.message);
    this.#problem.replaceChildren(message);
    if (error.position === null || error.position > this.#value.length) return;
    const [start, rest] = [this.#value.slice(0, error.position), this.#value.slice(error.position)];
    const word = /^\S*/.exec(rest)[0];
    const line = document.createElement("code");
    const mark = document.createElement("mark");
    mark.textContent = shown(word) || "␣";
    line.append(shown(start), mark, shown(rest.slice(word.length)));
    this.#problem.append(line);
  }
}
