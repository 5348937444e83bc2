// Requests to the server that this page came from.

import { askForKey, forgetKey, storedKey } from "./key.js";
import { events } from "./sse.js";

// Relative to this module, so that the application may live below any path.
const BASE = new URL("..", import.meta.url);

/** What the API says is wrong. */
export class ApiError extends Error {
  constructor(status, { message, code = null, param = null }) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
  }
}

/** Get JSON. */
export async function get(path) {
  return (await request(path)).json();
}

/** Post JSON and get JSON. */
export async function post(path, body, signal = undefined) {
  return (await request(path, body, signal)).json();
}

/** Post JSON and give each chunk of the stream that answers; an error among them is thrown. */
export async function* stream(path, body, signal) {
  const response = await request(path, { ...body, stream: true }, signal);
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(null, chunk.error);
    yield chunk;
  }
  throw new ApiError(null, { message: "the connection ended before the answer did" });
}

async function request(path, body = undefined, signal = undefined) {
  for (;;) {
    const key = storedKey();
    const response = await send(path, key, body, signal);
    if (response.ok) return response;
    const error = await errorOf(response);
    if (response.status !== 401) throw error;
    // Another request may have brought a new key meanwhile.
    if (storedKey() === key) {
      forgetKey();
      if (!(await askForKey(key !== null))) throw error;
    }
  }
}

async function send(path, key, body, signal) {
  const headers = {};
  if (key !== null) headers.authorization = `Bearer ${key}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  try {
    return await fetch(new URL(path, BASE), {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      cache: "no-store",
      credentials: "same-origin",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(null, { message: "the server can't be reached" });
  }
}

async function errorOf(response) {
  const answer = await response.json().catch(() => null);
  const told = answer?.error ?? { message: `the server answered ${response.status}` };
  return new ApiError(response.status, told);
}
