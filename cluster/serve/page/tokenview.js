// Text whose tokens show how likely they were: a tint for all of them, a card for one.

import { bars, byId, make } from "./dom.js";
import { Overlay } from "./tokens.js";

// The least probability of each tint; style.css has the tints.
const TINTS = [0.9, 0.7, 0.4, 0.15, 0.03, 0];
const MARGIN = 8;

/** Text that grows, within an element. */
export class TokenView {
  #overlay = new Overlay();
  #pieces = new WeakMap();
  #logprobs = [];

  /** @param {HTMLElement} element - gets the text, and one place in the order of the Tab key. */
  constructor(element) {
    this.element = element;
    element.classList.add("tokens");
    element.addEventListener("pointerover", (event) => this.#show(event.target));
    element.addEventListener("pointerleave", hideCard);
    element.addEventListener("focusin", (event) => this.#show(event.target));
    element.addEventListener("focusout", hideCard);
    element.addEventListener("keydown", (event) => this.#move(event));
  }

  /** Add what a chunk brings. */
  add(text, tokens) {
    this.#append(this.#overlay.add(text, tokens));
    this.#logprobs.push(...tokens.map((token) => token.logprob).filter((value) => value !== null));
  }

  /** Nothing comes any more. */
  end() {
    this.#append(this.#overlay.end());
  }

  /** How uncertain the model was: the perplexity of the tokens, or null. */
  get perplexity() {
    const sum = this.#logprobs.reduce((total, value) => total + value, 0);
    return this.#logprobs.length ? Math.exp(-sum / this.#logprobs.length) : null;
  }

  #append(pieces) {
    for (const piece of pieces) {
      if (!piece.tokens.length) {
        this.element.append(piece.text);
        continue;
      }
      const least = Math.min(...piece.tokens.map((token) => token.logprob ?? 0));
      const classes = `${piece.text ? "" : ".control"}.sure-${tint(Math.exp(least))}`;
      const text = piece.text || piece.tokens[0].label;
      const span = make(`span.token${classes}`, { tabIndex: -1 }, text);
      if (!this.element.querySelector(".token")) span.tabIndex = 0;
      this.#pieces.set(span, piece);
      this.element.append(span);
    }
  }

  #show(target) {
    const piece = this.#pieces.get(target);
    if (piece) showCard(target, piece.tokens);
    else hideCard();
  }

  #move(event) {
    if (event.key === "Escape") hideCard();
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step || !this.#pieces.has(event.target)) return;
    event.preventDefault();
    const all = [...this.element.querySelectorAll(".token")];
    const next = all[all.indexOf(event.target) + step];
    if (!next) return;
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
}

function tint(probability) {
  return TINTS.findIndex((least) => probability >= least);
}

/** Write a probability, with as many digits as say something. */
export function percent(probability) {
  const value = 100 * probability;
  if (value >= 99.95) return "100 %";
  if (value >= 10) return `${value.toFixed(1)} %`;
  if (value >= 0.01) return `${value.toFixed(2)} %`;
  return "< 0.01 %";
}

/** Write a token so that its white space shows. */
function visible(label) {
  return label.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥");
}

let pointed = null; // the token that the card is about

function showCard(target, tokens) {
  hideCard();
  pointed = target;
  const card = byId("token");
  card.replaceChildren(...tokens.map(describe));
  card.hidden = false;
  target.setAttribute("aria-describedby", card.id);
  placeCard();
}

/** Put the card beside its token, wherever that has moved to. */
function placeCard() {
  if (!pointed?.isConnected) return hideCard();
  const card = byId("token");
  const place = pointed.getClientRects()[0] ?? pointed.getBoundingClientRect();
  const left = Math.min(place.left, document.documentElement.clientWidth - card.offsetWidth - MARGIN);
  const below = place.bottom + MARGIN;
  const fits = below + card.offsetHeight <= window.innerHeight;
  const top = fits ? below : Math.max(MARGIN, place.top - card.offsetHeight - MARGIN);
  card.style.left = `${Math.max(MARGIN, left)}px`;
  card.style.top = `${top}px`;
}

function hideCard() {
  pointed?.removeAttribute("aria-describedby");
  pointed = null;
  byId("token").hidden = true;
}

function describe(token) {
  const known = token.logprob !== null;
  const head = make(
    "p.head",
    {},
    make("code", {}, visible(token.label)),
    make("b", {}, known ? percent(Math.exp(token.logprob)) : "the first token"),
  );
  if (!known) return make("div", {}, head);
  const told = token.top.some(({ label }) => label === token.label);
  const others = [...token.top, ...(told ? [] : [token])].map(({ label, logprob }) => ({
    label: visible(label),
    share: Math.exp(logprob),
    text: percent(Math.exp(logprob)),
    strong: label === token.label,
  }));
  return make(
    "div",
    {},
    head,
    make("p.soft", {}, `log-probability ${token.logprob.toFixed(4).replace(/^-(?=0\.0+$)/, "")}`),
    others.length ? bars(others) : null,
  );
}

for (const moved of ["scroll", "resize"]) {
  window.addEventListener(moved, placeCard, { capture: true, passive: true });
}
