// Server-sent events out of a stream of bytes.

/**
 * Give the data of each event.
 *
 * Chunks may be cut anywhere, within a character or between the \r and \n of a line's end. An event
 * whose blank line never came is left out, as the specification of EventSource says.
 * @param {ReadableStream<Uint8Array>} body
 */
export async function* events(body) {
  const parser = new EventParser();
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.add(value);
    }
  } finally {
    // Of no effect after the end; before it, the connection is closed and the server stops.
    reader.cancel().catch(() => {});
  }
}

/** Takes bytes, gives the data of the events that they complete. */
export class EventParser {
  #decoder = new TextDecoder(); // drops a byte order mark, as it should
  #line = "";
  #afterReturn = false;
  #data = [];

  /** @param {Uint8Array} bytes */
  *add(bytes) {
    const text = this.#decoder.decode(bytes, { stream: true });
    if (!text) return;
    const halved = this.#afterReturn && text.startsWith("\n"); // its \r has ended the line already
    this.#afterReturn = text.endsWith("\r");
    const lines = (halved ? text.slice(1) : text).split(/\r\n|\n|\r/);
    lines[0] = this.#line + lines[0];
    this.#line = lines.pop();
    for (const line of lines) {
      const data = this.#take(line);
      if (data !== null) yield data;
    }
  }

  #take(line) {
    if (line === "") {
      const data = this.#data;
      this.#data = [];
      return data.length ? data.join("\n") : null;
    }
    const [, field, value = ""] = /^([^:]*)(?:: ?(.*))?$/s.exec(line);
    if (field === "data") this.#data.push(value);
    return null;
  }
}
