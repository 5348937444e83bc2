// The settings beside chats and completions, as fields of a request.

import { byId } from "./dom.js";

const ALTERNATIVES = 5;
const NUMBERS = ["temperature", "top_p", "max_tokens", "top_k", "seed"];

/** Connect sliders with their numbers, and the colours with their legend. */
export function prepareSettings() {
  for (const slider of document.querySelectorAll("[data-for]")) {
    const number = byId(slider.dataset.for);
    slider.addEventListener("input", () => (number.value = slider.value));
    number.addEventListener("input", () => (slider.value = number.value));
  }
  byId("settings-form").addEventListener("submit", (event) => event.preventDefault());
  byId("logprobs").addEventListener("change", (event) => {
    byId("legend").hidden = !event.target.checked;
  });
  const narrow = window.matchMedia("(max-width: 60rem)");
  const fold = () => (byId("settings").querySelector("details").open = !narrow.matches);
  narrow.addEventListener("change", fold);
  fold();
}

/** Whether all fields hold what the API takes; the browser says so where one doesn't. */
export function settingsHold() {
  const form = byId("settings-form");
  if (!form.checkValidity()) byId("settings").querySelector("details").open = true;
  return form.reportValidity();
}

/** What chats and completions share. */
function sampling() {
  const body = { stream_options: { include_usage: true } };
  for (const name of NUMBERS) {
    if (byId(name).value !== "") body[name] = Number(byId(name).value);
  }
  const stops = lines(byId("stop").value).map((line) => line.replaceAll("\\n", "\n"));
  if (stops.length) body.stop = stops;
  return body;
}

/** The settings of a chat. */
export function chatSettings() {
  const body = sampling();
  if (byId("logprobs").checked) Object.assign(body, { logprobs: true, top_logprobs: ALTERNATIVES });
  return body;
}

/** The settings of a completion. */
export function completionSettings() {
  const body = { ...sampling(), n: Number(byId("n").value) };
  if (byId("logprobs").checked) body.logprobs = ALTERNATIVES;
  return body;
}

/** The system message, or null where there is none or the model takes none. */
export function systemMessage() {
  const text = byId("system").value;
  return byId("system-field").hidden || !text.trim() ? null : { role: "system", content: text };
}

/** The lines of a text that are not empty. */
export function lines(text) {
  return text.split(/\r?\n/).filter((line) => line !== "");
}
