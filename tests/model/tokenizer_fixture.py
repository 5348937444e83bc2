"""A small real tokenizer laid out as Gemma 2's: the same first 473 ids, flags and decoder.

What follows those ids is learned from some of Python's own sources, in about half a second.
"""

import json
import sysconfig
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

PAD, EOS, BOS, UNK, START_OF_TURN, END_OF_TURN = 0, 1, 2, 3, 106, 107
CONTROLS = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
TURNS = CONTROLS[4:]
FIRST_BYTE = 217

_UNUSED = ["<mask>", "<2mass>", "[@BOS@]", *(f"<unused{n}>" for n in range(99))]
_NEWLINES = ["\n" * n for n in range(1, 32)]
_SPACES = ["▁" * n for n in range(2, 32)]
_TABLE = ["table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td"]
_HEADING = ["h1", "h2", "h3", "h4", "h5", "h6", "blockquote"]
_INLINE = ["strong", "em", "b", "i", "u", "s", "sub", "sup", "code"]
_HTML = [
    form % tag
    for group in (_TABLE, _HEADING, _INLINE)
    for form in ("<%s>", "</%s>")
    for tag in group
]
# The tab has a piece of its own in the place of its byte.
_BYTES = ["\t" if byte == 9 else f"<0x{byte:02X}>" for byte in range(256)]
_LAYOUT = [*CONTROLS[:4], *_UNUSED, *TURNS, *_NEWLINES, *_SPACES, *_HTML, *_BYTES]
_SOURCES = ("argparse.py", "ast.py", "calendar.py", "dataclasses.py", "decimal.py", "doctest.py")

# Google's template for Gemma 2, byte for byte.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate "
    "user/assistant/user/assistant/...') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + "
    "'<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)


def write_tokenizer(
    folder: Path,
    *,
    vocab_size: int = 2048,
    merges_controls: bool = False,
    chat_template: str | None = CHAT_TEMPLATE,
) -> None:
    """Write tokenizer.json and tokenizer_config.json.

    Args:
        folder: an existing folder.
        vocab_size: tokens in all, at least 700.
        merges_controls: has merges that put `<end_of_turn>` together from plain characters.
        chat_template: goes into tokenizer_config.json; None leaves it out, as for a base model.
    """
    (folder / "tokenizer.json").write_text(
        _tokenizer_json(vocab_size, merges_controls=merges_controls), encoding="utf-8"
    )
    write_config(folder, chat_template)


def write_config(folder: Path, chat_template: object) -> None:
    config: dict[str, Any] = {
        "add_bos_token": True,
        "add_eos_token": False,
        "additional_special_tokens": list(TURNS),
        "bos_token": "<bos>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "<eos>",
        "model_max_length": 8192,
        "pad_token": "<pad>",
        "tokenizer_class": "GemmaTokenizer",
        "unk_token": "<unk>",
    }
    if chat_template is not None:
        config["chat_template"] = chat_template
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def write_sentencepiece(folder: Path) -> Path:
    """Write tokenizer.model as Google's is, but of 600 pieces of Python's json module."""
    trainer = import_module("sentencepiece").SentencePieceTrainer
    corpus = folder / "corpus.txt"
    corpus.write_text(Path(json.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    trainer.train(
        input=str(corpus),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=600,
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        unk_piece="<unk>",
        control_symbols=["<start_of_turn>", "<end_of_turn>"],
        user_defined_symbols=["<mask>", "\n", "\n\n", "▁▁"],
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
    )
    corpus.unlink()
    return folder / "tokenizer.model"


@cache
def _tokenizer_json(vocab_size: int, *, merges_controls: bool) -> str:
    tokenizer = Tokenizer(_learned(vocab_size, merges_controls=merges_controls))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in CONTROLS])
    tokenizer.add_tokens(
        [AddedToken(token, normalized=False) for token in _UNUSED + _NEWLINES + _SPACES + _HTML]
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", BOS)]
    )
    return tokenizer.to_str()


def _learned(vocab_size: int, *, merges_controls: bool) -> models.BPE:
    learner = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    learner.train_from_iterator(
        _words(merges_controls=merges_controls),
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=_LAYOUT,  # only to claim the first ids
            limit_alphabet=110,  # rarer characters are spelled in bytes
            max_token_length=16,
            show_progress=False,
        ),
    )
    learned = json.loads(learner.to_str())["model"]
    runs = ["▁", *_SPACES]
    merges = [(runs[n - k - 1], runs[k - 1]) for n in range(2, 32) for k in range(1, n)]
    merges += [tuple(pair) for pair in learned["merges"]]
    return models.BPE(
        learned["vocab"], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )


def _words(*, merges_controls: bool) -> Iterator[str]:
    """No piece spans two words, as in SentencePiece."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for name in _SOURCES:
        for line in (library / name).read_text(encoding="utf-8").splitlines():
            yield from ("▁" + word for word in line.split())
    yield from ["é", "ü", "user", "model", "world"] * 50
    if merges_controls:
        yield from ["<end_of_turn>"] * 5000
