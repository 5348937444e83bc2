"""Gemma's tokenizer: text to token ids and back, where only we place control tokens.

Text that spells a control token (`<end_of_turn>`, `<bos>`, ...) is encoded as the characters it is
made of, so no prompt can close its turn or open another. Everything else gets the ids that
transformers gives it. The `tokenizers` library is used directly: importing transformers for this
would cost seconds in every process that only turns text into ids.
"""

import json
import re
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from tokenizers import AddedToken, Encoding, Tokenizer

from .chat import Control, SystemPolicy, prompt_pieces, text_fault
from .detokenizer import BYTE_TOKEN, Detokenizer, TokenPieces
from .errors import ChatError, PromptError, TokenizerError

TOKENIZER_FILE = "tokenizer.json"
SENTENCEPIECE_FILE = "tokenizer.model"
CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"

# Control tokens whatever tokenizer.json's own flags say, as far as the vocabulary has them.
ALWAYS_CONTROL = ("<pad>", "<eos>", *Control)
# What stands for a space in tokens; `_refuse_foreign` makes sure that decoding replaces it.
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
# Comes back as it is only where nothing is prepended, lowered, trimmed or lost.
ROUND_TRIP = "Aa  b\n"

Offsets = list[tuple[int, int]]


def load_tokenizer(folder: Path) -> "GemmaTokenizer | None":
    """The tokenizer of a local checkpoint folder; None where it has no tokenizer files.

    Raises:
        TokenizerError: the files can't be read or are not Gemma's.
    """
    if not any((folder / name).is_file() for name in (TOKENIZER_FILE, SENTENCEPIECE_FILE)):
        return None
    return GemmaTokenizer.from_folder(folder)


class GemmaTokenizer:
    """Encodes prompts and decodes answers. Threads may share one; it pickles as its folder.

    Attributes:
        bos_id: the id of `<bos>`.
        end_of_turn_id: the id of `<end_of_turn>`; None in a vocabulary without it.
        control_ids: ids of the tokens that no text is ever encoded to (`<unk>` aside, which stands
            for characters that the vocabulary lacks) and that decoding leaves out.
        has_chat_template: whether the checkpoint was made for Gemma's turns.
        vocab_size: tokens in the vocabulary, added ones included; a model may have more rows.
    """

    def __init__(self, tokenizer: Tokenizer, template: str | None, folder: Path) -> None:
        """Take over `tokenizer`; `template` is the checkpoint's chat template, if it has one."""
        self._tokenizer = tokenizer
        self._folder = folder
        _refuse_foreign(tokenizer, folder)
        controls = _mark_controls(tokenizer, template or "")
        self.control_ids = frozenset(controls.values())
        self.bos_id = controls[Control.BOS]
        self.end_of_turn_id = controls.get(Control.END_OF_TURN)
        self.has_chat_template = (
            Control.START_OF_TURN in (template or "") and set(Control) <= controls.keys()
        )
        self.vocab_size = int(tokenizer.get_vocab_size(with_added_tokens=True))
        self._controls = controls
        self._forbidden = self.control_ids - {tokenizer.token_to_id("<unk>")}
        spellings = "|".join(map(re.escape, sorted(controls, key=len, reverse=True)))
        self._control_spelling = re.compile(f"(?=({spellings}))")
        self._pieces = {skip: TokenPieces(tokenizer, skip_special=skip) for skip in (True, False)}

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Read the tokenizer files of a local checkpoint folder; see `load_tokenizer`."""
        return cls(_read_tokenizer(folder), _read_template(folder), folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_folder, (self._folder,)

    def encode_text(self, text: str, *, add_bos: bool = True) -> list[int]:
        """Ids of a plain text prompt, after exactly one `<bos>`. Empty text gives that alone.

        Raises:
            PromptError: it is no text, or holds NUL or half a character.
        """
        ids = self._encode(_checked(text, "prompt"))
        return [self.bos_id, *ids] if add_bos else ids

    def encode_batch(self, texts: Sequence[str], *, add_bos: bool = True) -> list[list[int]]:
        """`encode_text` of each, on all cores.

        Raises:
            PromptError: naming the first text that can't be used.
        """
        inputs = [_checked(text, f"prompts[{n}]") for n, text in enumerate(texts)]
        encodings = self._tokenizer.encode_batch_fast(inputs, add_special_tokens=False)
        start = [self.bos_id] if add_bos else []
        return [
            start + (ids if self._forbidden.isdisjoint(ids) else self._encode(text))
            for text, ids in zip(inputs, (encoding.ids for encoding in encodings), strict=True)
        ]

    def encode_with_offsets(self, text: str) -> tuple[list[int], Offsets]:
        """Ids as `encode_text` gives them, and the characters [start, end) each one stands for.

        The offsets of `<bos>` are (0, 0). Each token of a character spelled in bytes has the
        offsets of the whole character.

        Raises:
            PromptError: as `encode_text`.
        """
        ids, offsets = [self.bos_id], [(0, 0)]
        for start, encoding in self._encodings(_checked(text, "prompt")):
            ids += encoding.ids
            offsets += [(start + left, start + right) for left, right in encoding.offsets]
        return ids, offsets

    def encode_continuation(self, text: str) -> list[int]:
        """Ids of text that goes on after a prompt: no `<bos>`, and no space that is not in it.

        Raises:
            PromptError: as `encode_text`.
        """
        return self._encode(_checked(text, "continuation"))

    def encode_messages(
        self,
        messages: object,
        *,
        system: SystemPolicy = "reject",
        continue_final: bool | None = None,
    ) -> list[int]:
        """Ids of a conversation, ready for the model's turn; see `chat.prompt_pieces`.

        Raises:
            ChatError: the messages break a rule, or the checkpoint was not made for turns.
        """
        if not self.has_chat_template:
            raise ChatError(
                "this checkpoint has no chat template of Gemma's kind, so it takes no messages; "
                "use plain text prompts, or an instruction-tuned checkpoint (gemma-2-...-it)"
            )
        ids: list[int] = []
        for piece in prompt_pieces(messages, system=system, continue_final=continue_final):
            if isinstance(piece, Control):
                ids.append(self._controls[piece])
            else:
                ids += self._encode(piece)
        return ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Text of token ids. Ids past the vocabulary add nothing."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=skip_special))

    def detokenizer(self, *, skip_special: bool = True) -> Detokenizer:
        """A decoder for one sequence whose tokens come one by one."""
        return Detokenizer(self._pieces[skip_special])

    def piece(self, token_id: int) -> bytes:
        """What a token stands for: its text in UTF-8, or one byte; nothing past the vocabulary."""
        piece = self._pieces[False][token_id]
        return piece.encode() if isinstance(piece, str) else bytes(() if piece is None else [piece])

    def token_bytes(self, size: int) -> list[bytes]:
        """What each id in [0, size) writes: UTF-8, or one byte of byte fallback.

        Control tokens and ids without a token write nothing.
        """
        written = [b""] * size
        for token, token_id in self._tokenizer.get_vocab(with_added_tokens=True).items():
            if token_id < size and token_id not in self.control_ids:
                byte = BYTE_TOKEN.fullmatch(token)
                written[token_id] = (
                    bytes([int(byte[1], 16)]) if byte else token.replace(SPACE, " ").encode()
                )
        return written

    def _encode(self, text: str) -> list[int]:
        (_, whole), *more = self._encodings(text)
        ids: list[int] = whole.ids
        for _, encoding in more:
            ids += encoding.ids
        return ids

    def _encodings(self, text: str) -> list[tuple[int, Encoding]]:
        """Encodings that make up the text without control tokens, each with where it starts.

        That is one, unless the vocabulary has merges that put a control token together from plain
        characters; then the text is cut after the first character of each spelling of one.
        """
        whole = self._tokenizer.encode(text, add_special_tokens=False)
        if self._forbidden.isdisjoint(whole.ids):
            return [(0, whole)]
        cuts = [match.start() + 1 for match in self._control_spelling.finditer(text)]
        starts = [0, *cuts]
        parts = [text[start:end] for start, end in zip(starts, [*cuts, len(text)], strict=True)]
        encodings = self._tokenizer.encode_batch(parts, add_special_tokens=False)
        return list(zip(starts, encodings, strict=True))


def _checked(text: str, name: str) -> str:
    if fault := text_fault(text):
        raise PromptError(f"{name} {fault}")
    return text


def _read_tokenizer(folder: Path) -> Tokenizer:
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        return _convert_sentencepiece(folder)
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the library raises plain Exception
        raise TokenizerError(f"{path} can't be read as a tokenizer: {error}") from None


def _convert_sentencepiece(folder: Path) -> Tokenizer:
    """Let transformers turn tokenizer.model, which Google's own files come with, into ours."""
    path = folder / SENTENCEPIECE_FILE
    if not path.is_file():
        raise TokenizerError(f"{folder} has neither {TOKENIZER_FILE} nor {SENTENCEPIECE_FILE}")
    if find_spec("sentencepiece") is None:
        raise TokenizerError(
            f"{path} can't be read without the sentencepiece package; `pip install sentencepiece`, "
            f"or put the {TOKENIZER_FILE} of the same model beside it"
        )
    from transformers import GemmaTokenizer as Converter  # noqa: PLC0415 - it takes seconds

    try:
        converted = Converter.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # noqa: BLE001 - a damaged file surfaces as almost any exception
        raise TokenizerError(f"{path} can't be converted: {error}") from None
    tokenizer: Tokenizer = converted.backend_tokenizer
    return tokenizer


def _read_template(folder: Path) -> str | None:
    """The text of the chat template, searched and never run; named ones are taken together."""
    if (path := folder / TEMPLATE_FILE).is_file():
        return path.read_text(encoding="utf-8", errors="replace")
    path = folder / CONFIG_FILE
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TokenizerError(f"{path} is not valid JSON: {error}") from None
    template = config.get("chat_template") if isinstance(config, dict) else None
    return None if template is None else str(template)


def _refuse_foreign(tokenizer: Tokenizer, folder: Path) -> None:
    """Make sure that it works as Gemma's does where the rest of this module relies on it."""
    # Some fine-tunes' files carry the settings of their training batches.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # Its pickled state is the only view of the decoder's parts that the library gives.
    state = json.loads(tokenizer.decoder.__getstate__()) if tokenizer.decoder else {}
    parts = {part["type"] for part in state.get("decoders", [])}
    try:
        ids = tokenizer.encode(ROUND_TRIP, add_special_tokens=False).ids
        same = tokenizer.decode(ids) == ROUND_TRIP
    except Exception:  # noqa: BLE001 - the library raises plain Exception
        same = False
    if not same or tokenizer.token_to_id(Control.BOS) is None or not _by_token(parts):
        raise TokenizerError(
            f"the tokenizer in {folder} is not Gemma's (BPE with byte fallback, spaces kept as ▁, "
            "nothing prepended, <bos>); use the tokenizer files of the Gemma 2 it was tuned from"
        )


def _by_token(decoder_parts: set[str]) -> bool:
    """Whether the decoder works on one token at a time, apart from runs of bytes."""
    return {"Replace", "ByteFallback"} <= decoder_parts <= {"Replace", "ByteFallback", "Fuse"}


def _mark_controls(tokenizer: Tokenizer, template: str) -> dict[str, int]:
    """Have every control token split up in text and left out of decoded text; return their ids.

    They are what tokenizer.json flags as special, what the chat template writes, and the few that
    are always ones.
    """
    added = tokenizer.get_added_tokens_decoder().values()
    names = {token.content for token in added if token.special or _writes(template, token.content)}
    names |= {name for name in ALWAYS_CONTROL if tokenizer.token_to_id(name) is not None}
    tokenizer.add_special_tokens([AddedToken(n, normalized=False) for n in sorted(names)])
    tokenizer.encode_special_tokens = True
    ids = {str(name): tokenizer.token_to_id(name) for name in names}
    return {name: id_ for name, id_ in ids.items() if id_ is not None}


def _writes(template: str, token: str) -> bool:
    # Runs of newlines are added tokens as well, but no control tokens.
    return bool(token.strip()) and token in template
