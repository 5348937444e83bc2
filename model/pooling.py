"""From a head's outputs to labels, scores and spans of text."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .outputs import Entity

OUTSIDE = "O"


@dataclass(frozen=True, slots=True)
class Scores:
    """The labels of a head and how its outputs become scores.

    Attributes:
        labels: in the order of the head's outputs.
        problem_type: as in the checkpoint's config: "multi_label_classification" scores each
            label by a sigmoid, "regression" reports the output itself; all else is a softmax.
    """

    labels: tuple[str, ...]
    problem_type: str | None = None

    def of(self, logits: Tensor) -> Tensor:
        """Return the scores of logits [labels]."""
        if self.problem_type == "multi_label_classification":
            return logits.sigmoid()
        if self.problem_type == "regression":
            return logits
        return logits.softmax(-1)


def last_real_position(tokens: Sequence[int], pad_id: int | None) -> int:
    """Return the rightmost position whose token is not pad; 0 if all are, the last without a pad.

    As transformers' GenericForSequenceClassification pools (the attention mask plays no part).
    """
    for position in range(len(tokens) - 1, -1, -1):
        if tokens[position] != pad_id:
            return position
    return 0


def entities_of(
    labels: Sequence[str],
    scores: Sequence[float],
    offsets: Sequence[tuple[int, int]],
    text: str,
) -> tuple[Entity, ...]:
    """Join neighbouring tokens of one label to entities; the score is their mean.

    Labels may be plain or carry `B-` and `I-` (`B-` begins a new entity, as in CoNLL-2003); `O`
    is no entity, and so is a token that covers no text.
    """
    entities: list[Entity] = []
    spans: list[tuple[str, int, int, list[float]]] = []
    previous = OUTSIDE
    for label, score, (start, end) in zip(labels, scores, offsets, strict=True):
        name = label.removeprefix("B-").removeprefix("I-") if start < end else OUTSIDE
        if name != OUTSIDE and name == previous and not label.startswith("B-"):
            kind, begin, _, collected = spans[-1]
            spans[-1] = (kind, begin, end, [*collected, score])
        elif name != OUTSIDE:
            spans.append((name, start, end, [score]))
        previous = name
    for name, start, end, collected in spans:
        # A token may carry the space before its word; the entity is the word.
        word = text[start:end].strip()
        if word:
            at = text.index(word, start)
            mean = sum(collected) / len(collected)
            entities.append(Entity(name, at, at + len(word), word, mean))
    return tuple(entities)
