"""Labels as the model would write them: the tokens whose likelihood is compared.

In a chat the model's turn starts with the label itself. After plain text, or after an assistant's
message that is to be continued, a space goes before it, as between any two words, unless the prompt
ends in white space already.

A label whose tokens begin another one's ("lib", "libs") could never be less likely than it. In a
chat the end of the turn is then made part of every label, so that whole answers are compared. It
is left out otherwise: how readily a model closes its turn, rather than adding a full stop or a
line, says nothing about the label (on the demo model it takes the accuracy from 76 to 65 %). Plain
text has no such end, so there they are refused. Means over tokens can be compared as they are.
"""

from dataclasses import dataclass
from itertools import pairwise

from .errors import ParameterError
from .tasks import Normalize, ScoreLabels
from .tokenizer import GemmaTokenizer

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LabelTokens:
    """Labels and their tokens.

    Attributes:
        names: the labels.
        plain: their tokens directly after the prompt.
        spaced: their tokens with a space between the prompt and them.
        normalize: how likelihoods of different lengths are compared.
    """

    names: tuple[str, ...]
    plain: tuple[Ids, ...]
    spaced: tuple[Ids, ...]
    normalize: Normalize

    @property
    def longest(self) -> int:
        """Tokens of the longest label."""
        return max(len(ids) for ids in (*self.plain, *self.spaced))

    def task(self, *, spaced: bool) -> ScoreLabels:
        """Give the engine's task; `spaced`: a label after this prompt starts with a space."""
        return ScoreLabels(self.names, self.spaced if spaced else self.plain, self.normalize)


def encode_labels(
    names: tuple[str, ...], normalize: Normalize, tokenizer: GemmaTokenizer, *, chat: bool
) -> LabelTokens:
    """Encode labels.

    Raises:
        ParameterError: two labels can't be told apart.
        PromptError: a label is no text that can be encoded.
    """
    plain = tuple(tuple(tokenizer.encode_continuation(name)) for name in names)
    spaced = tuple(tuple(tokenizer.encode_continuation(f" {name}")) for name in names)
    pair = _beginning(names, plain) or _beginning(names, spaced)
    if pair and normalize == "sum":
        if not chat:
            raise ParameterError(
                f"score_labels: {pair[0]!r} is how {pair[1]!r} begins, so it could never lose; "
                "use normalize: mean, a chat prompt, or other labels"
            )
        end = tokenizer.end_of_turn_id
        assert end is not None, "a chat template writes it"
        plain, spaced = (tuple((*ids, end) for ids in variant) for variant in (plain, spaced))
    return LabelTokens(names, plain, spaced, normalize)


def _beginning(names: tuple[str, ...], ids: tuple[Ids, ...]) -> tuple[str, str] | None:
    """Find a label whose tokens are how another one's begin."""
    order = sorted(zip(ids, names, strict=True))
    for (short, name), (long, other) in pairwise(order):
        if long[: len(short)] == short:
            return name, other
    return None
