// Completions: a text that goes on, in one way or several.

import { Answer, Stoppable } from "./answering.js";
import { post, stream } from "./api.js";
import { byId, errorCard, make, submitsByKey } from "./dom.js";
import { completionSettings, settingsHold } from "./settings.js";
import { completionTokens } from "./tokens.js";

const ALTERNATIVES = 5;

/**
 * Set completions up.
 * @param {() => Object} model - gives the card of the model to ask.
 */
export function prepareCompletion(model) {
  const form = byId("completion-form");
  const field = byId("completion-text");
  const results = byId("completions");
  const work = new Stoppable(form);
  submitsByKey(form);

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!work.busy && settingsHold()) run(goOn);
  });
  form.querySelector("[data-do=score]").addEventListener("click", () => {
    if (!work.busy && form.reportValidity()) run(score);
  });

  async function run(way) {
    const answers = [];
    results.replaceChildren();
    const told = { tokens: null };
    try {
      told.stopped = await work.run((signal) => way(answers, told, signal));
    } catch (error) {
      results.append(errorCard(error));
    }
    for (const answer of answers) answer.end(told);
  }

  async function goOn(answers, told, signal) {
    const prompt = field.value;
    const { n, ...settings } = completionSettings();
    for (let index = 0; index < n; index += 1) answers.push(new Answer());
    results.append(...answers.map((answer) => card(answer, prompt)));
    const body = { model: model().id, prompt, n, ...settings };
    for await (const { choices, usage } of stream("v1/completions", body, signal)) {
      // Of several answers only the sum is told.
      if (usage && n === 1) told.tokens = usage.completion_tokens;
      for (const { index, text, logprobs, finish_reason: reason } of choices) {
        answers[index].add(text, completionTokens(logprobs), reason);
      }
    }
  }

  async function score(answers, _told, signal) {
    const body = { model: model().id, prompt: field.value, max_tokens: 0, echo: true };
    const reply = await post("v1/completions", { ...body, logprobs: ALTERNATIVES }, signal);
    const answer = new Answer();
    answers.push(answer);
    results.append(make("article.card", {}, make("h2", {}, "The prompt itself"), answer.element));
    answer.add(reply.choices[0].text, completionTokens(reply.choices[0].logprobs), null);
  }

  function card(answer, prompt) {
    const takeOver = make("button.quiet", { type: "button" }, "Go on from here");
    takeOver.addEventListener("click", () => {
      field.value = prompt + answer.text;
      form.requestSubmit();
    });
    answer.body.before(make("span.prompt", {}, prompt));
    answer.element.classList.add("running-on");
    return make("article.card", {}, answer.element, make("div.actions", {}, takeOver));
  }
}
