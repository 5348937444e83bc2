"""A constraint as the text of a grammar that llguidance reads: Lark's notation with additions."""

import json
import re

from model.constraint import Constraint

# The answer's tokens are the model's choice: a mask holds every token that leads on, not only the
# one that the tokenizer would write forced text with. So an answer is drawn from the model's own
# distribution over valid texts, and what is allowed can be checked against any other definition.
HEADER = '%llguidance {"no_forcing": true}\n'

# Between the parts of JSON: a space, or a line break with its indentation. Where all white space is
# allowed, a small model may write nothing else up to max_tokens.
WHITE_SPACE = r"\x20|\x0A[\x20\x09]{0,24}"

_ERROR_LINE = re.compile(r"^error: (.+)$", re.MULTILINE)
_PLACE = re.compile(r"^at \d+\(\d+\): |failed to compile JSON schema: | \(in regex\)")
# Where the compiler shows the grammar's own text, or its state.
_QUOTE = re.compile(r"\n\s*\d+ \||\n<")
_REASONS = {
    "NoExtensionBias": "no text can meet it",
    "oneOf constraints are not supported.": "oneOf is not supported where its parts may both "
    "hold; use anyOf",
}


def grammar_of(constraint: Constraint) -> str:
    """Return the grammar of a constraint."""
    text = constraint.text
    match constraint.kind:
        case "json_schema":
            assert isinstance(text, str)
            return _json_grammar(json.loads(text))
        case "json_object":
            return _json_grammar({"type": "object"})
        case "regex":
            from llguidance import regex_to_lark  # noqa: PLC0415 - see the package's docstring

            assert isinstance(text, str)
            return f"{HEADER}start: ANSWER\nANSWER: /{regex_to_lark(text)}/\n"
        case "choice":
            # One terminal: the lexer walks the texts as a tree.
            quoted = " | ".join(_quoted(choice) for choice in text)
            return f"{HEADER}start: ANSWER\nANSWER: {quoted}\n"


def reason_of(complaint: str) -> str:
    """Put what llguidance says of a grammar, or of a text, into one line."""
    head = _QUOTE.split(complaint, maxsplit=1)[0]
    if found := _ERROR_LINE.search(complaint):
        head = found[1]
    line = " ".join(_PLACE.sub("", head).split())
    return next((ours for theirs, ours in _REASONS.items() if line.startswith(theirs)), line)


def _quoted(text: str) -> str:
    """Write a text in Lark's quotes: as in JSON, but no control character stands for itself."""
    return json.dumps(text, ensure_ascii=True).replace("\x7f", "\\u007f")


def _json_grammar(schema: dict[str, object]) -> str:
    options = {"x-guidance": {"whitespace_pattern": WHITE_SPACE}}
    return f"{HEADER}start: %json {json.dumps({**schema, **options}, ensure_ascii=False)}\n"
