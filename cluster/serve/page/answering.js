// One streamed answer: its tokens, its figures, and the button that stops it.

import { make } from "./dom.js";
import { TokenView } from "./tokenview.js";

const DIGITS = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
// The pace of fewer tokens says nothing.
const LEAST_FOR_PACE = 8;

/** An answer that is being written. */
export class Answer {
  #begun = performance.now();
  #first = null;
  #reason = null;

  constructor() {
    this.text = "";
    this.body = make("div.text");
    this.figures = make("p.figures.soft", {}, "…");
    this.element = make("div.answer", { "aria-busy": "true" }, this.body, this.figures);
    this.view = new TokenView(this.body);
  }

  /** Add what a chunk brings. */
  add(text, tokens, reason) {
    if (text || tokens.length) this.#first ??= performance.now();
    this.text += text;
    this.view.add(text, tokens);
    this.#reason = reason ?? this.#reason;
  }

  /**
   * Nothing comes any more.
   * @param {Object} told - how it ended: `tokens`, where they were counted, or `stopped`.
   */
  end({ tokens = null, stopped = false } = {}) {
    this.view.end();
    this.element.setAttribute("aria-busy", "false");
    const seconds = (performance.now() - (this.#first ?? this.#begun)) / 1000;
    const figures = [];
    if (tokens !== null) {
      figures.push(`${tokens} ${tokens === 1 ? "token" : "tokens"}`);
      if (tokens >= LEAST_FOR_PACE) figures.push(`${Math.round((tokens - 1) / seconds)} per second`);
    }
    if (this.#first !== null) {
      figures.push(`first after ${DIGITS.format((this.#first - this.#begun) / 1000)} s`);
    }
    if (this.view.perplexity !== null) {
      figures.push(`perplexity ${DIGITS.format(this.view.perplexity)}`);
    }
    if (stopped) figures.push("stopped by you");
    else if (this.#reason === "length") figures.push("cut off at the most tokens");
    this.figures.textContent = figures.join(" · ");
  }
}

/** Runs one piece of work at a time, which a button can stop; hides and shows the buttons. */
export class Stoppable {
  #form;
  #controller = null;

  /** @param {HTMLFormElement} form - has a submit button and one that stops. */
  constructor(form) {
    this.#form = form;
    this.#button("stop").addEventListener("click", () => this.stop());
  }

  /** Whether something runs. */
  get busy() {
    return this.#controller !== null;
  }

  /** Stop what runs. */
  stop() {
    this.#controller?.abort();
  }

  /**
   * Run `work(signal)`.
   * @returns {Promise<boolean>} whether it was stopped.
   */
  async run(work) {
    const controller = new AbortController();
    this.#controller = controller;
    this.#show(true);
    try {
      await work(controller.signal);
      return false;
    } catch (error) {
      if (error.name !== "AbortError") throw error;
      return true;
    } finally {
      // What was stopped may end after its successor has begun.
      if (this.#controller === controller) {
        this.#controller = null;
        this.#show(false);
      }
    }
  }

  #show(busy) {
    const stop = this.#button("stop");
    const submit = this.#form.querySelector("[type=submit]");
    const focused = document.activeElement === stop || document.activeElement === submit;
    stop.hidden = !busy;
    submit.hidden = busy;
    if (focused) (busy ? stop : submit).focus();
  }

  #button(name) {
    return this.#form.querySelector(`[data-do=${name}]`);
  }
}
