// The page: which models there are, and which views they have.

import { get } from "./api.js";
import { prepareChat } from "./chat.js";
import { prepareCompletion } from "./completion.js";
import { byId } from "./dom.js";
import { forgetKey, storedKey } from "./key.js";
import { labelsFor, prepareLabels } from "./labels.js";
import { prepareSettings } from "./settings.js";
import { prepareState } from "./state.js";
import { prepareTags } from "./tags.js";

const VIEWS = {
  causal_lm: ["chat", "completion", "labels"],
  sequence_classification: ["labels"],
  token_classification: ["tags"],
};
const WITH_SETTINGS = ["chat", "completion"];

const tabs = [...document.querySelectorAll("[role=tab]")];
const cards = new Map();
const model = () => cards.get(byId("model").value);

/** The views of the chosen model. */
function views() {
  const all = VIEWS[model()?.architecture] ?? [];
  return [...all.filter((name) => name !== "chat" || model().chat), "state"];
}

function show(name) {
  for (const tab of tabs) {
    const chosen = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    byId(tab.getAttribute("aria-controls")).hidden = !chosen;
  }
  byId("settings").hidden = !WITH_SETTINGS.includes(name);
  byId("n-field").hidden = name !== "completion";
  history.replaceState(null, "", `#${name}`);
  watchState(name === "state");
}

function choose() {
  const names = views();
  for (const tab of tabs) tab.hidden = !names.includes(tab.id.slice("tab-".length));
  const card = model();
  if (card) labelsFor(card);
  byId("system-field").hidden = card?.system !== "fold";
  const wanted = location.hash.slice(1);
  show(names.includes(wanted) ? wanted : names[0]);
}

function move(event) {
  const seen = tabs.filter((tab) => !tab.hidden);
  const place = seen.indexOf(event.target);
  const next = {
    ArrowRight: (place + 1) % seen.length,
    ArrowLeft: (place + seen.length - 1) % seen.length,
    Home: 0,
    End: seen.length - 1,
  }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  seen[next].focus();
  seen[next].click();
}

async function start() {
  byId("notice").hidden = true;
  try {
    const { data } = await get("v1/models");
    for (const card of data) {
      cards.set(card.id, card);
      byId("model").append(new Option(card.id));
    }
    byId("model").hidden = false;
    choose();
  } catch (error) {
    byId("notice").textContent = `${error.message}. Load the page again to try once more.`;
    byId("notice").hidden = false;
  }
}

prepareSettings();
prepareChat(model);
prepareCompletion(model);
prepareLabels(model);
prepareTags(model);
const watchState = prepareState();
for (const tab of tabs) {
  tab.addEventListener("click", () => show(tab.id.slice("tab-".length)));
  tab.addEventListener("keydown", move);
}
byId("model").addEventListener("change", choose);
byId("forget").addEventListener("click", () => {
  forgetKey();
  location.reload();
});
const showKey = () => (byId("forget").hidden = storedKey() === null);
document.addEventListener("keychange", showKey);
showKey();
start();
