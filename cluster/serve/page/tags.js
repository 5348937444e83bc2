// A text with the spans that a token classification head finds in it.

import { post } from "./api.js";
import { byId, errorCard, make, submitsByKey } from "./dom.js";
import { percent } from "./tokenview.js";

// style.css has so many colours.
const COLOURS = 6;

/**
 * Set tags up.
 * @param {() => Object} model - gives the card of the model to ask.
 */
export function prepareTags(model) {
  const form = byId("tags-form");
  const result = byId("entities");
  submitsByKey(form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    result.setAttribute("aria-busy", "true");
    const text = byId("tags-text").value;
    try {
      const reply = await post("v1/tag_tokens", { model: model().id, input: text });
      result.replaceChildren(...describe(text, reply.data[0].entities));
    } catch (error) {
      result.replaceChildren(errorCard(error));
    }
    result.setAttribute("aria-busy", "false");
  });
}

function describe(text, entities) {
  const colours = new Map();
  for (const { label } of entities) {
    if (!colours.has(label)) colours.set(label, colours.size % COLOURS);
  }
  const parts = [make("div.text.marked", {}, ...marked(text, entities, colours))];
  if (!entities.length) return [...parts, make("p.soft", {}, "No spans were found.")];
  const rows = entities.map((entity) =>
    make(
      "tr",
      {},
      make("td", {}, make(`span.chip.colour-${colours.get(entity.label)}`, {}, entity.label)),
      make("td", {}, entity.text),
      make("td.number", {}, percent(entity.score)),
    ),
  );
  const head = ["Label", "Text", "Score"].map((name) => make("th", { scope: "col" }, name));
  return [...parts, make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows))];
}

function* marked(text, entities, colours) {
  // The API counts characters, JavaScript units of UTF-16.
  const characters = Array.from(text);
  const between = (start, end) => characters.slice(start, end).join("");
  let place = 0;
  for (const { label, start, end, score } of [...entities].sort((a, b) => a.start - b.start)) {
    yield between(place, start);
    yield make(
      `mark.colour-${colours.get(label)}`,
      { title: `${label}, ${percent(score)}` },
      between(start, end),
      make("small", {}, label),
    );
    place = end;
  }
  yield between(place);
}
