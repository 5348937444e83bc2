// The API's description, shown by Swagger UI, with this tab's key.

import { get } from "./api.js";
import { byId } from "./dom.js";
import { storedKey } from "./key.js";

const dark = window.matchMedia("(prefers-color-scheme: dark)");

function shade() {
  document.documentElement.classList.toggle("dark-mode", dark.matches); // Swagger UI's own class
}

function withKey(request) {
  const key = storedKey();
  if (key !== null) request.headers.Authorization = `Bearer ${key}`;
  return request;
}

shade();
dark.addEventListener("change", shade);
try {
  const spec = await get("openapi.json");
  window.SwaggerUIBundle({
    spec,
    domNode: byId("docs"),
    deepLinking: true,
    defaultModelsExpandDepth: -1,
    requestInterceptor: withKey,
    validatorUrl: null,
  });
} catch (error) {
  byId("notice").textContent = `${error.message}. Load the page again to try once more.`;
  byId("notice").hidden = false;
}
