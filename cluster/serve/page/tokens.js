// Tokens as the API tells them, and which part of a text each of them makes.

const encoder = new TextEncoder();

/** The tokens of a chat's chunk, as {label, bytes, logprob, top}; see `Overlay`. */
export function chatTokens(logprobs) {
  return (logprobs?.content ?? []).map((token) => ({
    label: token.token,
    bytes: token.bytes,
    logprob: token.logprob,
    top: token.top_logprobs.map((other) => ({ label: other.token, logprob: other.logprob })),
  }));
}

/** The tokens of a completion's chunk; the first one of a prompt has no log-probability. */
export function completionTokens(logprobs) {
  return (logprobs?.tokens ?? []).map((label, place) => ({
    label,
    bytes: bytesOf(label),
    logprob: logprobs.token_logprobs[place],
    top: Object.entries(logprobs.top_logprobs?.[place] ?? {}).map(([other, logprob]) => ({
      label: other,
      logprob,
    })),
  }));
}

function bytesOf(label) {
  if (!/^bytes:(\\x[0-9a-f]{2})+$/.test(label)) return [...encoder.encode(label)];
  return label.match(/[0-9a-f]{2}(?=\\|$)/g).map((digits) => parseInt(digits, 16));
}

/**
 * Lays tokens over the text that they make.
 *
 * Text may come later than its tokens: a character that several tokens make, or what might become a
 * stop string, is held back. Control tokens make no text, and what follows a stop string is cut off.
 */
export class Overlay {
  #tokens = [];
  #text = "";

  /** Add what a chunk brings; give the pieces that are certain now, as {text, tokens}. */
  add(text, tokens) {
    this.#text += text;
    this.#tokens.push(...tokens);
    return this.#take(false);
  }

  /** Give the rest, when nothing comes any more. */
  end() {
    return this.#take(true);
  }

  #take(ended) {
    const pieces = [];
    while (this.#tokens.length) {
      const { count, text, whole } = this.#next();
      if (text && this.#text.startsWith(text)) {
        pieces.push(this.#piece(text, count));
      } else if (!ended && (!whole || text.startsWith(this.#text))) {
        break;
      } else if (ended && this.#text && text.startsWith(this.#text)) {
        pieces.push(this.#piece(this.#text, count)); // cut off by a stop string
      } else {
        pieces.push(this.#piece("", 1));
      }
    }
    if (this.#text && !this.#tokens.length) pieces.push(this.#piece(this.#text, 0));
    return pieces;
  }

  #piece(text, count) {
    this.#text = this.#text.slice(text.length);
    return { text, tokens: this.#tokens.splice(0, count) };
  }

  /** The fewest tokens that end where a character does. */
  #next() {
    const bytes = [];
    let count = 0;
    while (count < this.#tokens.length) {
      bytes.push(...this.#tokens[count].bytes);
      count += 1;
      if (endsWhole(bytes)) return { count, text: decode(bytes), whole: true };
    }
    return { count, text: decode(bytes), whole: false };
  }
}

function decode(bytes) {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(new Uint8Array(bytes));
}

/** Whether bytes of UTF-8 do not end within a character. */
function endsWhole(bytes) {
  for (let back = 1; back <= Math.min(3, bytes.length); back += 1) {
    const byte = bytes[bytes.length - back];
    if (byte < 0x80) return true;
    if (byte >= 0xc0) return back >= (byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2);
  }
  return true;
}
