// Tokens per second, from counters that only grow while their replica lives.

const KEPT = 60;
// What lies nearer together, in seconds, is the same answer of a replica, seen twice.
const LEAST_S = 0.5;
const COUNTERS = ["prompt_tokens", "output_tokens"];
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 240;
const HEIGHT = 36;
const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 1, notation: "compact" });

/** The rates of all models. */
export class Rates {
  #models = new Map();

  /**
   * Take note of what the server says.
   * @param {Object} status - of GET /status.
   * @param {number} now - in seconds.
   */
  add(status, now) {
    for (const model of status.models) this.of(model.id).add(model.engines, now);
  }

  /** The rates of one model. */
  of(id) {
    if (!this.#models.has(id)) this.#models.set(id, new ModelRates());
    return this.#models.get(id);
  }
}

class ModelRates {
  #before = new Map(); // the counters of each replica, and when they were read
  #history = [];

  add(engines, now) {
    const rate = Object.fromEntries(COUNTERS.map((name) => [name, 0]));
    const read = new Map();
    let known = false;
    for (const engine of engines) {
      const at = now - engine.age_s;
      const before = this.#before.get(engine.replica);
      const seconds = before ? at - before.at : 0;
      if (seconds >= LEAST_S) {
        known = true;
        for (const name of COUNTERS) rate[name] += (engine[name] - before[name]) / seconds;
      }
      // A replica that has not answered since is told as it was: then there is nothing new.
      read.set(engine.replica, before && seconds < LEAST_S ? before : { ...engine, at });
    }
    this.#before = read;
    if (known) this.#history = [...this.#history, rate].slice(-KEPT);
  }

  text(name) {
    const last = this.#history.at(-1);
    return last ? NUMBER.format(Math.max(0, last[name])) : "–";
  }

  /** The last two minutes of tokens out, as a line. */
  curve() {
    const values = this.#history.map((rate) => Math.max(0, rate.output_tokens));
    const most = Math.max(1, ...values);
    const first = KEPT - values.length;
    const points = values.map((value, place) => {
      const x = ((first + place) * WIDTH) / (KEPT - 1);
      const y = HEIGHT - 2 - (value * (HEIGHT - 4)) / most;
      return `${x.toFixed(1)},${y.toFixed(1)}`;
    });
    const picture = element("svg", {
      class: "curve",
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      preserveAspectRatio: "none",
      "aria-hidden": "true",
    });
    picture.append(element("polyline", { points: points.join(" ") }));
    return picture;
  }
}

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
