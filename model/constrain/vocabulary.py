"""The vocabulary as the compiler wants it: what each token writes, in bytes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from model.tokenizer import GemmaTokenizer

if TYPE_CHECKING:
    from llguidance import LLTokenizer


class _Tokens:
    """What `llguidance.TokenizerWrapper` asks of a tokenizer.

    Control tokens and ids without a token write nothing, so no text leads to them: they are never
    allowed, but the end tokens, where the text may end.
    """

    def __init__(self, tokenizer: GemmaTokenizer, vocab_size: int, end_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = end_ids[0]
        self.bos_token_id = tokenizer.bos_id
        self.tokens = tokenizer.token_bytes(vocab_size)
        for end_id in end_ids:
            self.tokens[end_id] = b""
        self.special_token_ids: list[int] = []

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode_continuation(text)


def compiler_vocabulary(
    tokenizer: GemmaTokenizer, vocab_size: int, end_ids: Sequence[int]
) -> "LLTokenizer":
    """Build the compiler's tree of all tokens.

    Args:
        tokenizer: of the checkpoint.
        vocab_size: rows of the model's logits.
        end_ids: at least one token that ends an answer.
    """
    from llguidance import LLTokenizer, TokenizerWrapper  # noqa: PLC0415 - see the package

    wrapper = TokenizerWrapper(_Tokens(tokenizer, vocab_size, end_ids))
    return LLTokenizer(wrapper, eos_token=list(end_ids))
