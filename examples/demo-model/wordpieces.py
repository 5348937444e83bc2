"""A tokenizer like Gemma's: BPE over "▁"-for-space text with byte fallback, same special ids.

Ids 0 to 472 are laid out as in Gemma 2 (special tokens, <unused..>, the turn markers, runs of
newlines and of spaces, a few HTML tags, the 256 bytes). Pieces learned from the training split
follow.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from packages import SECTION_PROMPT, SYNOPSIS_PROMPT, Package
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

VOCAB_SIZE = 4096
PAD, EOS, BOS, END_OF_TURN = 0, 1, 2, 107

SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<2mass>", "[@BOS@]"]
SPECIAL += [f"<unused{n}>" for n in range(99)]
SPECIAL += ["<start_of_turn>", "<end_of_turn>"]
NEWLINES = ["\n" * n for n in range(1, 32)]
SPACES = ["▁" * n for n in range(2, 32)]
TABLE = ["table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td"]
HEADING = ["h1", "h2", "h3", "h4", "h5", "h6", "blockquote"]
INLINE = ["strong", "em", "b", "i", "u", "s", "sub", "sup", "code"]
GROUPS = (TABLE, HEADING, INLINE)
HTML = [form % tag for group in GROUPS for form in ("<%s>", "</%s>") for tag in group]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]

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


def words(packages: Iterable[Package]) -> Iterator[str]:
    """What the pieces are learned from. No piece spans two words, as in SentencePiece."""
    instructions = (SECTION_PROMPT + " " + SYNOPSIS_PROMPT).replace("\n", " ").split(" ")
    for package in packages:
        yield package.name
        yield package.section
        first, *rest = package.synopsis.split()
        yield from (first, "▁" + first)  # it starts an answer, and follows "name: " in a prompt
        yield from ("▁" + word for word in rest)
        yield from (":", "▁-", "user", "model")
        yield instructions[0]
        yield from ("▁" + word for word in instructions if "{" not in word)


def train(packages: Iterable[Package]) -> Tokenizer:
    """Learn the pieces and assemble the tokenizer."""
    layout = SPECIAL + NEWLINES + SPACES + HTML + BYTES
    learner = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    learner.train_from_iterator(
        words(packages),
        trainers.BpeTrainer(
            vocab_size=VOCAB_SIZE,
            special_tokens=layout,  # only to claim the first ids
            limit_alphabet=160,  # rarer characters are spelled in bytes
            max_token_length=16,
            show_progress=False,
        ),
    )
    learned = json.loads(learner.to_str())["model"]
    runs = ["▁", *SPACES]
    spaces = [(runs[n - k - 1], runs[k - 1]) for n in range(2, 32) for k in range(1, n)]
    merges = spaces + [tuple(pair) for pair in learned["merges"]]
    tokenizer = Tokenizer(
        models.BPE(learned["vocab"], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in NEWLINES + HTML])
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    # No space is left for it to split at; Gemma's file has it, and so has transformers' class.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", BOS)]
    )
    return tokenizer


def write(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json."""
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    turns = ["<start_of_turn>", "<end_of_turn>"]
    config = names | {
        "add_bos_token": True,
        "add_eos_token": False,
        "additional_special_tokens": turns,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 8192,
        "tokenizer_class": "GemmaTokenizer",
    }
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    _dump(config, folder / "tokenizer_config.json")
    _dump(names | {"additional_special_tokens": turns}, folder / "special_tokens_map.json")


def _dump(document: dict[str, object], path: Path) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
