// Labels and their probabilities, as the model's answer or from a classification head.

import { post } from "./api.js";
import { bars, byId, errorCard, make, submitsByKey } from "./dom.js";
import { lines } from "./settings.js";
import { percent } from "./tokenview.js";

// So many are shown at first: a head may have a thousand labels.
const SHOWN = 12;

/**
 * Set labels up.
 * @param {() => Object} model - gives the card of the model to ask.
 */
export function prepareLabels(model) {
  const form = byId("labels-form");
  const result = byId("scores");
  submitsByKey(form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    result.setAttribute("aria-busy", "true");
    try {
      const [path, body] = request(model());
      const reply = await post(path, body);
      result.replaceChildren(...describe(reply.data[0], path));
    } catch (error) {
      result.replaceChildren(errorCard(error));
    }
    result.setAttribute("aria-busy", "false");
  });
}

/** Show the fields that a model has, and none of what another one said. */
export function labelsFor(card) {
  byId("scores").replaceChildren(make("p.empty", {}, "The labels appear here, the likeliest first."));
  const hasHead = card.architecture === "sequence_classification";
  byId("labels-field").hidden = hasHead;
  byId("labels-mean-field").hidden = hasHead;
  byId("labels-chat-field").hidden = !card.chat;
}

function request(card) {
  const content = byId("labels-text").value;
  const asChat = card.chat && byId("labels-chat").checked;
  const input = asChat ? { messages: [{ role: "user", content }] } : { input: content };
  if (card.architecture === "sequence_classification") {
    return ["v1/classify", { model: card.id, ...input }];
  }
  const normalize = byId("labels-mean").checked ? "mean" : "sum";
  const labels = lines(byId("labels-list").value);
  return ["v1/score_labels", { model: card.id, ...input, labels, normalize }];
}

function describe({ scores, logits }, path) {
  const meaning = path === "v1/classify" ? "logit" : "log-likelihood";
  const items = scores
    .map(({ label, score }, place) => ({
      label,
      share: score,
      text: percent(score),
      more: `${meaning} ${logits[place].toFixed(3)}`,
    }))
    .sort((one, other) => other.share - one.share);
  items[0].strong = true;
  const parts = [bars(items.slice(0, SHOWN))];
  if (items.length > SHOWN) {
    const rest = bars(items.slice(SHOWN));
    const summary = make("summary", {}, `${items.length - SHOWN} more`);
    parts.push(make("details", {}, summary, rest));
  }
  return parts;
}
