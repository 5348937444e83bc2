// The chat: turns, each of which can be changed or asked again.

import { Answer, Stoppable } from "./answering.js";
import { stream } from "./api.js";
import { byId, errorCard, make, submitsByKey } from "./dom.js";
import { chatSettings, settingsHold, systemMessage } from "./settings.js";
import { chatTokens } from "./tokens.js";

const STARTERS = [
  "Explain why the sky is blue to a child.",
  "Write a haiku about rays of light.",
  "What makes a good bug report?",
];
// Nearer to the end than this, in pixels, the conversation follows what is written.
const NEAR = 48;

/**
 * Set the chat up.
 * @param {() => Object} model - gives the card of the model to ask.
 */
export function prepareChat(model) {
  return new Chat(model);
}

class Chat {
  #model;
  #turns = []; // of {role, content, element}
  #log = byId("conversation");
  #form = byId("chat-form");
  #field = byId("chat-text");
  #work = new Stoppable(byId("chat-form"));

  constructor(model) {
    this.#model = model;
    submitsByKey(this.#form);
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    this.#form.querySelector("[data-do=clear]").addEventListener("click", () => this.#cut(0));
    this.#cut(0);
  }

  #send() {
    const content = this.#field.value;
    if (this.#work.busy || !content.trim() || !settingsHold()) return;
    this.#field.value = "";
    this.#add("user", content, make("div.text", {}, content));
    this.#answer();
  }

  async #answer() {
    const answer = new Answer();
    const turn = this.#add("assistant", "", answer.element);
    const body = { model: this.#model().id, messages: this.#messages(), ...chatSettings() };
    let tokens = null;
    try {
      const stopped = await this.#work.run(async (signal) => {
        for await (const chunk of stream("v1/chat/completions", body, signal)) {
          tokens = chunk.usage?.completion_tokens ?? tokens;
          for (const choice of chunk.choices) this.#take(answer, choice);
        }
      });
      answer.end({ tokens, stopped });
    } catch (error) {
      answer.end({ tokens });
      answer.element.append(errorCard(error));
    }
    turn.content = answer.text;
    this.#follow();
  }

  /** The conversation up to the answer that is to come, without questions that got none. */
  #messages() {
    const messages = [];
    for (const { role, content } of this.#turns.slice(0, -1)) {
      if (role === "assistant" && !content) messages.pop();
      else messages.push({ role, content });
    }
    const system = systemMessage();
    return system ? [system, ...messages] : messages;
  }

  #take(answer, { delta, logprobs, finish_reason: reason }) {
    const following = this.#atEnd();
    answer.add(delta.content ?? "", chatTokens(logprobs), reason);
    if (following) this.#follow();
  }

  #add(role, content, body) {
    if (!this.#turns.length) this.#log.replaceChildren();
    const place = this.#turns.length;
    const button =
      role === "user"
        ? make("button.quiet", { type: "button", click: () => this.#edit(place) }, "Edit")
        : make("button.quiet", { type: "button", click: () => this.#again(place) }, "Again");
    const name = role === "user" ? "You" : this.#model().id;
    const head = make("header", {}, make("h2", {}, name), button);
    const turn = { role, content, element: make(`article.turn.${role}`, {}, head, body) };
    this.#turns.push(turn);
    this.#log.append(turn.element);
    this.#follow();
    return turn;
  }

  /** Put a message back into the field; it and what came after it go. */
  #edit(place) {
    const { content } = this.#turns[place];
    this.#cut(place);
    this.#field.value = content;
    this.#field.focus();
  }

  /** Have a message answered once more. */
  #again(place) {
    if (!settingsHold()) return;
    this.#cut(place);
    this.#answer();
  }

  /** Leave only the first turns. */
  #cut(count) {
    this.#work.stop();
    for (const { element } of this.#turns.splice(count)) element.remove();
    if (!this.#turns.length) this.#log.replaceChildren(this.#welcome());
  }

  #welcome() {
    const starters = STARTERS.map((text) =>
      make("button.starter", { type: "button", click: () => this.#start(text) }, text),
    );
    return make(
      "div.welcome",
      {},
      make("h2", {}, "What would you like to know?"),
      make("p.soft", {}, "Answers come token by token. Point at one to see what else it might have been."),
      make("div.starters", {}, ...starters),
    );
  }

  #start(text) {
    this.#field.value = text;
    this.#form.requestSubmit();
  }

  #atEnd() {
    return this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight < NEAR;
  }

  #follow() {
    this.#log.scrollTop = this.#log.scrollHeight;
  }
}
