// The API key: asked for when the server wants one, kept for this tab only.

import { make } from "./dom.js";

const NAME = "gemmaray.key";

/** The key, or null. */
export const storedKey = () => sessionStorage.getItem(NAME);

/** Forget the key. */
export function forgetKey() {
  sessionStorage.removeItem(NAME);
  tell();
}

let asking = null;

/**
 * Ask for a key, once however many requests want one.
 * @param {boolean} refused - whether the server has just refused one.
 * @returns {Promise<boolean>} whether there is a key now.
 */
export function askForKey(refused) {
  asking ??= ask(refused).finally(() => {
    asking = null;
  });
  return asking;
}

function ask(refused) {
  const field = make("input", {
    id: "key",
    type: "password",
    autocomplete: "off",
    spellcheck: false,
    required: true,
    pattern: "\\s*[!-~]+\\s*",
    title: "Letters, digits and signs, without spaces",
  });
  const cancel = make("button.quiet", { type: "button", click: () => dialog.close() }, "Cancel");
  const form = make(
    "form",
    { method: "dialog" },
    make("h2", { id: "key-title" }, "API key"),
    refused
      ? make("p.wrong", { role: "alert" }, "The server does not know this key.")
      : make("p", {}, "This server answers those who have a key."),
    make("label", { htmlFor: "key" }, "Key"),
    field,
    make("p.soft", {}, "It stays in this tab and is forgotten with it."),
    make("div.actions", {}, cancel, make("button.primary", { value: "use" }, "Use it")),
  );
  const dialog = make("dialog.key", { "aria-labelledby": "key-title" }, form);
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const key = dialog.returnValue === "use" ? field.value.trim() : "";
      dialog.remove();
      if (key) sessionStorage.setItem(NAME, key);
      tell();
      resolve(key !== "");
    });
  });
}

function tell() {
  document.dispatchEvent(new CustomEvent("keychange"));
}
