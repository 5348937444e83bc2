"""From the label probabilities of tokens to labelled spans, as transformers aggregates them.

The strategies are those of transformers' TokenClassificationPipeline. Gemma's tokenizer knows no
words, so a word is what stands between spaces, which is what the pipeline falls back to.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from torch import Tensor

from .outputs import Entity
from .tasks import Aggregation

Offsets = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class _Word:
    """Neighbouring tokens that have one label."""

    label: str
    score: float
    start: int
    end: int

    @property
    def tag(self) -> str:
        """The label without its `B-` or `I-`."""
        return self.label[2:] if self.label.startswith(("B-", "I-")) else self.label


def entities_of(
    labels: Sequence[str],
    probabilities: Tensor,
    offsets: Offsets,
    text: str,
    aggregation: Aggregation = "simple",
    ignore_labels: Sequence[str] = ("O",),
) -> tuple[Entity, ...]:
    """Find the entities of a text; their spans may begin and end with white space.

    Args:
        labels: L of them, plain or with `B-` and `I-` (`B-` begins a new entity).
        probabilities: [T, L] float32 of each token.
        offsets: T places [start, end) in the text; tokens that cover none are no part of it.
        text: the text.
        aggregation: "none" gives each token by itself; "simple" joins neighbouring tokens of one
            label; the others first give all tokens of a word the label of its "first" token, of the
            "average" of their probabilities, or of the token that is surest of its ("max").
        ignore_labels: what is left out; with "none" as it is, else without `B-` and `I-`.
    """
    places = [n for n, (start, end) in enumerate(offsets) if start < end]
    if aggregation == "none":
        found = _tokens(labels, probabilities, offsets, text, places)
    else:
        groups = [[n] for n in places]
        if aggregation != "simple":
            groups = _words(places, offsets, text)
        words = [_word(labels, probabilities, offsets, group, aggregation) for group in groups]
        found = (_joined(run, text) for run in _runs(words))
    return tuple(entity for entity in found if entity.label not in ignore_labels)


def trimmed(entities: Sequence[Entity]) -> tuple[Entity, ...]:
    """Cut white space off the ends of spans; spans of nothing else are dropped.

    A token may carry the space before its word; the entity is the word.
    """
    kept = []
    for entity in entities:
        text = entity.text.strip()
        if text:
            start = entity.start + entity.text.index(text)
            kept.append(replace(entity, start=start, end=start + len(text), text=text))
    return tuple(kept)


def merged(entities: Sequence[Entity]) -> tuple[Entity, ...]:
    """Choose among entities of overlapping windows: the longer, or of equal ones the surer.

    As the pipeline's `aggregate_overlapping_entities` does.
    """
    kept: list[Entity] = []
    for entity in sorted(entities, key=lambda entity: entity.start):
        if kept and kept[-1].start <= entity.start < kept[-1].end:
            kept[-1] = max(kept[-1], entity, key=lambda one: (one.end - one.start, one.score))
        else:
            kept.append(entity)
    return tuple(kept)


def _tokens(
    labels: Sequence[str], probabilities: Tensor, offsets: Offsets, text: str, places: Sequence[int]
) -> Iterator[Entity]:
    scores, best = (values.tolist() for values in probabilities.max(-1))
    for n in places:
        start, end = offsets[n]
        yield Entity(labels[best[n]], start, end, text[start:end], scores[n], n)


def _words(places: Sequence[int], offsets: Offsets, text: str) -> list[list[int]]:
    """Put tokens together that no space parts.

    transformers also parts the bytes of one character that a space precedes; a word can't end
    within a character.
    """
    words: list[list[int]] = []
    last = -1
    for n in places:
        start, end = offsets[n]
        parted = start == 0 or " " in text[start - 1 : start + 1]
        if words and (not parted or start < last):
            words[-1].append(n)
        else:
            words.append([n])
        last = end
    return words


def _word(
    labels: Sequence[str],
    probabilities: Tensor,
    offsets: Offsets,
    tokens: Sequence[int],
    aggregation: Aggregation,
) -> _Word:
    if aggregation == "average":
        scores = probabilities[list(tokens)].mean(0)
    elif aggregation == "max":
        scores = max((probabilities[n] for n in tokens), key=lambda row: float(row.max()))
    else:
        scores = probabilities[tokens[0]]
    best = int(scores.argmax())
    return _Word(labels[best], float(scores[best]), offsets[tokens[0]][0], offsets[tokens[-1]][1])


def _runs(words: Sequence[_Word]) -> Iterator[list[_Word]]:
    """Part words where the label changes, or begins anew."""
    run: list[_Word] = []
    for word in words:
        if run and (word.tag != run[-1].tag or word.label.startswith("B-")):
            yield run
            run = []
        run.append(word)
    if run:
        yield run


def _joined(run: Sequence[_Word], text: str) -> Entity:
    start, end = run[0].start, run[-1].end
    return Entity(run[0].tag, start, end, text[start:end], fmean(word.score for word in run))
