// What the models, their replicas and the key's batches are doing; renewed while it is looked at.

import { ApiError, get } from "./api.js";
import { byId, errorCard, make } from "./dom.js";
import { Rates } from "./rates.js";

const EVERY_MS = 2000;
const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 1, notation: "compact" });
const WHEN = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const ENDED = ["completed", "failed", "expired", "cancelled"];
const KINDS = {
  causal_lm: "language model",
  sequence_classification: "classifier",
  token_classification: "tagger",
};

/** Set the state up; give what tells it whether it is shown. */
export function prepareState() {
  const watch = new Watch();
  document.addEventListener("visibilitychange", () => watch.turn());
  return (shown) => watch.show(shown);
}

class Watch {
  #shown = false;
  #running = false;
  #rates = new Rates();
  #hasBatches = true;

  show(shown) {
    this.#shown = shown;
    this.turn();
  }

  async turn() {
    if (this.#running) return;
    this.#running = true;
    while (this.#shown && !document.hidden) {
      await this.#renew();
      await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
    }
    this.#running = false;
  }

  async #renew() {
    try {
      const status = await get("status");
      this.#rates.add(status, performance.now() / 1000);
      byId("state-models").replaceChildren(...status.models.map((one) => this.#model(one)));
      byId("state-time").textContent = `as of ${new Date().toLocaleTimeString()}`;
      byId("state-batches").replaceChildren(...(await this.#batches()));
    } catch (error) {
      byId("state-time").textContent = "";
      byId("state-models").replaceChildren(errorCard(error));
    }
  }

  #model(model) {
    const rates = this.#rates.of(model.id);
    const kind = KINDS[model.architecture] ?? "starting";
    return make(
      "article.card",
      {},
      make(
        "header",
        {},
        make("h3", {}, model.id),
        make("span.soft", {}, kind),
        ...Object.entries(model.replicas).map(([state, count]) => badge(state, `${count} ${state}`)),
      ),
      make(
        "dl.figures",
        {},
        figure("tokens out per second", rates.text("output_tokens")),
        figure("tokens in per second", rates.text("prompt_tokens")),
        figure("requests in flight", NUMBER.format(model.in_flight)),
      ),
      rates.curve(),
      model.engines.length ? engines(model.engines) : null,
    );
  }

  async #batches() {
    if (!this.#hasBatches) return [off()];
    try {
      const { data } = await get("v1/batches?limit=20");
      return data.length ? data.map(batch) : [make("p.empty", {}, "There are none.")];
    } catch (error) {
      if (!(error instanceof ApiError) || ![404, 501].includes(error.status)) throw error;
      this.#hasBatches = false;
      return [off()];
    }
  }
}

function off() {
  return make("p.empty", {}, "Batches are off on this server.");
}

function badge(state, text) {
  const mood = { running: "good", completed: "good", failed: "bad", expired: "bad" }[state] ?? "plain";
  return make(`span.badge.${mood}`, {}, text.replaceAll("_", " "));
}

function figure(name, value) {
  return make("div", {}, make("dt", {}, name), make("dd", {}, value));
}

function engines(all) {
  const names = ["Replica", "Running", "Waiting", "Cache", "Prefix hits"];
  const head = names.map((name) => make("th", { scope: "col" }, name));
  const rows = all.map((engine) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, make("code", {}, engine.replica)),
      make("td", {}, NUMBER.format(engine.running)),
      make("td", {}, NUMBER.format(engine.waiting)),
      make("td", {}, share(engine.cache_pages_used, engine.cache_pages_total, "cache in use")),
      make("td", {}, share(engine.prefix_hits, engine.prefix_lookups, "prompt tokens reused")),
    ),
  );
  return make("table.engines", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
}

function share(part, whole, name) {
  if (!whole) return "–";
  const text = `${((100 * part) / whole).toFixed(0)} %`;
  return make("span.share", {}, make("progress", { max: whole, value: part, "aria-label": name }), text);
}

function batch(one) {
  const { total, completed, failed } = one.request_counts ?? { total: 0, completed: 0, failed: 0 };
  const ended = ENDED.includes(one.status);
  const progress = make("progress", { max: total || 1, value: completed + failed, "aria-label": "done" });
  const counts = [`${completed + failed} of ${total}`];
  if (failed) counts.push(`${failed} failed`);
  return make(
    "article.card.batch",
    {},
    make("header", {}, make("code", {}, one.id), badge(one.status, one.status)),
    ended && !total ? null : progress,
    make("p.soft", {}, [counts.join(", "), one.endpoint, WHEN.format(one.created_at * 1000)].join(" · ")),
  );
}
