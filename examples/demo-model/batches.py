"""Training sequences as token ids with a loss weight per token, and batches of similar length."""

import random
from typing import NamedTuple

import torch
from packages import Package, section_prompt, synopsis_prompt
from tokenizers import Tokenizer
from torch import Tensor
from wordpieces import BOS, END_OF_TURN, EOS, PAD

BATCH_TOKENS = 3072
# Sequences sorted by length at a time: long enough for tight padding, short enough to shuffle.
POOL = 4096

# How much predicting a token counts. The answers are what is asked for; the text of the
# prompts is learned as well, since it is where a small model meets most of its English.
ANSWER_WEIGHT, PROMPT_WEIGHT = 1.0, 0.4
# In an epoch every package is asked for its section, every other one for its synopsis (which the
# section prompts teach as well), and every eighth is plain text, for prompts without turns.
SYNOPSIS_EVERY = 2
PLAIN_EVERY = 8


class Sequence(NamedTuple):
    """Token ids, and for each how much the loss of predicting it counts."""

    ids: list[int]
    weights: list[float]


class Encoder:
    """Turns packages into sequences, in the format of the chat template."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._user = [BOS, *self._ids("<start_of_turn>user\n")]
        self._model = [END_OF_TURN, *self._ids("\n<start_of_turn>model\n")]

    def section(self, package: Package) -> Sequence:
        """The instruction that asks for the section, with its answer."""
        return self._turns(section_prompt(package), package.section)

    def synopsis(self, package: Package) -> Sequence:
        """The instruction that asks for the synopsis, with its answer."""
        return self._turns(synopsis_prompt(package), package.synopsis)

    def plain(self, package: Package) -> Sequence:
        """`name - synopsis`, outside any turn."""
        ids = [BOS, *self._ids(f"{package.name} - {package.synopsis}"), EOS]
        return Sequence(ids, [0.0] + [ANSWER_WEIGHT] * (len(ids) - 1))

    def prompt(self, package: Package) -> list[int]:
        """The section instruction up to where the answer starts: the classifier's input."""
        return self._prompt(section_prompt(package))[0]

    def _turns(self, prompt: str, answer: str) -> Sequence:
        head, weights = self._prompt(prompt)
        tail = [*self._ids(answer), END_OF_TURN]
        return Sequence(head + tail, weights + [ANSWER_WEIGHT] * len(tail))

    def _prompt(self, prompt: str) -> tuple[list[int], list[float]]:
        # A newline is a token of its own, so the parts can be encoded one by one.
        instruction, _, content = prompt.partition("\n")
        fixed = [*self._user, *self._ids(instruction + "\n")]
        varying = self._ids(content)
        weights = [0.0] * len(fixed) + [PROMPT_WEIGHT] * len(varying) + [0.0] * len(self._model)
        return fixed + varying + self._model, weights

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def lm_epoch(packages: list[Package], encoder: Encoder, rng: random.Random) -> list[list[Sequence]]:
    """One epoch of the causal LM. All sequences of a batch start with the same instruction."""
    batches: list[list[Sequence]] = []
    for encode, every in (
        (encoder.section, 1),
        (encoder.synopsis, SYNOPSIS_EVERY),
        (encoder.plain, PLAIN_EVERY),
    ):
        chosen = [encode(package) for package in rng.sample(packages, len(packages) // every)]
        order = in_batches([len(sequence.ids) for sequence in chosen], rng)
        batches += [[chosen[index] for index in batch] for batch in order]
    rng.shuffle(batches)
    return batches


def in_batches(lengths: list[int], rng: random.Random) -> list[list[int]]:
    """Shuffled batches of indices: similar lengths, at most BATCH_TOKENS with padding."""
    order = rng.sample(range(len(lengths)), len(lengths))
    batches: list[list[int]] = []
    for start in range(0, len(order), POOL):
        batch: list[int] = []
        # Ascending, so the index at hand is of the longest sequence in its batch.
        for index in sorted(order[start : start + POOL], key=lengths.__getitem__):
            if batch and (len(batch) + 1) * lengths[index] > BATCH_TOKENS:
                batches.append(batch)
                batch = []
            batch.append(index)
        batches.append(batch)
    rng.shuffle(batches)
    return batches


def right_padded(rows: list[list[int]]) -> Tensor:
    """Token ids as one matrix. Causal attention never looks right, so no mask is needed."""
    width = max(map(len, rows))
    return torch.tensor([row + [PAD] * (width - len(row)) for row in rows])


def weight_matrix(rows: list[list[float]]) -> Tensor:
    """Loss weights as one matrix; padding counts nothing."""
    width = max(map(len, rows))
    return torch.tensor([row + [0.0] * (width - len(row)) for row in rows])
