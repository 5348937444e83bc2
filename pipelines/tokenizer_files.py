"""The tokenizer of a checkpoint, as it travels to the tasks that read and tokenize.

They may run on nodes that hold no weights, so they get the tokenizer's files, not the checkpoint.
"""

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from model.errors import TokenizerError
from model.tokenizer import (
    CONFIG_FILE,
    SENTENCEPIECE_FILE,
    TEMPLATE_FILE,
    TOKENIZER_FILE,
    GemmaTokenizer,
    load_tokenizer,
)

NAMES = (TOKENIZER_FILE, SENTENCEPIECE_FILE, CONFIG_FILE, TEMPLATE_FILE)


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """The files of a tokenizer; equal if their digests are.

    Attributes:
        digest: SHA-256 of names and contents.
        contents: name to bytes.
    """

    digest: str
    contents: dict[str, bytes] = field(compare=False, repr=False)

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Read those that a checkpoint folder has."""
        contents = {n: (folder / n).read_bytes() for n in NAMES if (folder / n).is_file()}
        digest = hashlib.sha256()
        for name, data in contents.items():
            digest.update(f"{name} {len(data)}\n".encode() + data)
        return cls(digest.hexdigest(), contents)

    def load(self) -> GemmaTokenizer:
        """Give the tokenizer; a process makes it once.

        Raises:
            TokenizerError: there are no files of one, or they are not Gemma's.
        """
        return _load(self)


@lru_cache(maxsize=1)
def _load(files: TokenizerFiles) -> GemmaTokenizer:
    with TemporaryDirectory() as folder:
        for name, data in files.contents.items():
            Path(folder, name).write_bytes(data)
        tokenizer = load_tokenizer(Path(folder))
    if tokenizer is None:
        raise TokenizerError(
            f"the checkpoint has no {TOKENIZER_FILE} or {SENTENCEPIECE_FILE}, so no text can be "
            "read with it: add the file of the Gemma 2 that it was tuned from"
        )
    return tokenizer
