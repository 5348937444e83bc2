// Elements made without HTML: whatever text they get stays text.

/**
 * Make an element.
 * @param {string} tag - its name, with classes: "p.soft".
 * @param {Object} properties - of the element; those with a dash are attributes, functions listen.
 * @param {...(Node|string|number|null)} children - null is left out.
 */
export function make(tag, properties = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  element.classList.add(...classes);
  for (const [key, value] of Object.entries(properties)) {
    if (typeof value === "function") element.addEventListener(key, value);
    else if (key.includes("-") || key === "role") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children.filter((child) => child !== null).map(asNode));
  return element;
}

function asNode(child) {
  return child instanceof Node ? child : document.createTextNode(String(child));
}

/** Find an element by its id. */
export const byId = (id) => document.getElementById(id);

/** Have Ctrl+Enter or Cmd+Enter submit the form that it is pressed in. */
export function submitsByKey(form) {
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
}

/** Tell what went wrong, in the API's own words. */
export function errorCard(error) {
  const details = [error.status, error.code, error.param].filter(Boolean).join(" · ");
  return make(
    "div.error",
    { role: "alert" },
    make("p", {}, error.message),
    details ? make("p.soft", {}, details) : null,
  );
}

/** Give bars, one for each {label, share, text, more}; `share` is from 0 to 1. */
export function bars(items) {
  return make("ol.bars", {}, ...items.map(bar));
}

function bar({ label, share, text, more = null, strong = false }) {
  const fill = make("span.fill");
  fill.style.width = `${(100 * share).toFixed(2)}%`;
  return make(
    strong ? "li.strong" : "li",
    {},
    make("span.name", {}, label),
    make("span.track", { "aria-hidden": "true" }, fill),
    make("span.number", {}, text),
    more === null ? null : make("span.more", {}, more),
  );
}
