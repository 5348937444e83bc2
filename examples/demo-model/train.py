"""Train the demo model: a small Gemma 2 on Debian's package lists, on a CPU.

    python examples/demo-model/train.py                      # of a Debian machine's own lists
    python examples/demo-model/train.py --packages saved.txt # of a saved `apt-cache dumpavail`

Writes causal-lm/, classifier/ and metrics.json under --out, and the held-out sample at --sample.
"""

import argparse
import dataclasses
import json
import math
import random
import time
from pathlib import Path

import torch
import wordpieces
from batches import Encoder, Sequence, in_batches, lm_epoch, right_padded, weight_matrix
from checkpoint import lm_config, save_classifier, save_lm
from measure import measure
from packages import Package, load, sample, split, write_sample
from torch import Tensor, nn
from transformers import (
    DynamicCache,
    Gemma2ForCausalLM,
    Gemma2ForSequenceClassification,
    Gemma2Model,
)

HERE = Path(__file__).parent
CLIP_NORM = 1.0


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn."""

    epochs: int
    peak_rate: float
    warm_up: float = 0.04  # share of the steps

    def rate(self, step: int, steps: int) -> float:
        """Linear warm-up, then a cosine down to a twentieth of the peak."""
        warm = max(1, round(self.warm_up * steps))
        if step < warm:
            return self.peak_rate * (step + 1) / warm
        done = (step - warm) / max(1, steps - warm)
        return self.peak_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


class Trainer:
    """AdamW over batches known beforehand, so that the schedule ends where they end."""

    def __init__(self, model: nn.Module, schedule: Schedule, steps: int) -> None:
        self._model, self._schedule, self._steps = model, schedule, steps
        matrices = [p for p in model.parameters() if p.ndim > 1]
        vectors = [p for p in model.parameters() if p.ndim == 1]  # norm weights: no decay
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0}]
        self._optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
        self._step, self._recent, self._start = 0, 0.0, time.monotonic()

    def step(self, loss: Tensor) -> None:
        """One update, and a line of progress every hundred."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._schedule.rate(self._step, self._steps)
        loss.backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), CLIP_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._step += 1
        self._recent = loss.item() if self._step == 1 else 0.98 * self._recent + 0.02 * loss.item()
        if self._step % 100 == 0 or self._step == self._steps:
            spent = time.monotonic() - self._start
            print(f"{self._step}/{self._steps} loss {self._recent:.3f} {spent:.0f} s", flush=True)


def hidden_states(model: Gemma2Model, ids: Tensor) -> tuple[Tensor, int]:
    """Hidden states from the returned column on, after one pass over what all rows start with.

    A third of a sequence is the instruction, the same in every row of a batch: its keys and
    values are computed once and expanded.
    """
    same = (ids == ids[0]).all(dim=0).long().cumprod(dim=0)
    shared = min(int(same.sum()), model.config.sliding_window) - 1
    if shared < 1:
        return model(input_ids=ids, use_cache=False).last_hidden_state, 0
    cache = DynamicCache(config=model.config)
    model(input_ids=ids[:1, :shared], past_key_values=cache)
    for layer in cache.layers:
        layer.keys = layer.keys.expand(len(ids), -1, -1, -1)
        layer.values = layer.values.expand(len(ids), -1, -1, -1)
    return model(input_ids=ids[:, shared:], past_key_values=cache).last_hidden_state, shared


def lm_loss(model: Gemma2ForCausalLM, batch: list[Sequence]) -> Tensor:
    """Weighted cross-entropy, with logits only where a weight asks for them."""
    ids = right_padded([sequence.ids for sequence in batch])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden, start = hidden_states(model.model, ids[:, :-1])
        targets = ids[:, start + 1 :]
        weights = weight_matrix([sequence.weights for sequence in batch])[:, start + 1 :]
        counts = weights > 0
        logits = model.lm_head(hidden[counts]).float()
    cap = float(model.config.final_logit_softcapping or 0.0)
    capped = cap * torch.tanh(logits / cap)
    losses = nn.functional.cross_entropy(capped, targets[counts], reduction="none")
    return (losses * weights[counts]).sum() / weights[counts].sum()


def train_lm(packages: list[Package], encoder: Encoder, schedule: Schedule) -> Gemma2ForCausalLM:
    """The causal LM, from random weights."""
    rng = random.Random(0)
    model = Gemma2ForCausalLM(lm_config())
    batches = [batch for _ in range(schedule.epochs) for batch in lm_epoch(packages, encoder, rng)]
    trainer = Trainer(model, schedule, len(batches))
    for batch in batches:
        trainer.step(lm_loss(model, batch))
    return model


def train_classifier(
    lm: Gemma2ForCausalLM,
    packages: list[Package],
    labels: list[str],
    encoder: Encoder,
    schedule: Schedule,
) -> Gemma2ForSequenceClassification:
    """The sequence classifier, from the LM's backbone."""
    rng = random.Random(1)
    config = lm_config()
    config.num_labels = len(labels)
    model = Gemma2ForSequenceClassification(config)
    model.model.load_state_dict(lm.model.state_dict())
    rows = [encoder.prompt(package) for package in packages]
    targets = torch.tensor([labels.index(package.section) for package in packages])
    lengths = [len(row) for row in rows]
    batches = [batch for _ in range(schedule.epochs) for batch in in_batches(lengths, rng)]
    trainer = Trainer(model, schedule, len(batches))
    for batch in batches:
        ids = right_padded([rows[index] for index in batch])
        last = torch.tensor([lengths[index] - 1 for index in batch])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden, start = hidden_states(model.model, ids)
            logits = model.score(hidden[torch.arange(len(batch)), last - start])
        trainer.step(nn.functional.cross_entropy(logits.float(), targets[batch]))
    return model


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--packages", type=Path, help="a saved `apt-cache dumpavail`")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for the two checkpoints")
    parser.add_argument("--sample", type=Path, default=HERE.parent / "packages.parquet")
    parser.add_argument("--epochs", type=int, default=3, help="of the causal LM")
    parser.add_argument("--rate", type=float, default=3e-3, help="its peak learning rate")
    parser.add_argument("--classifier-epochs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    """Everything, from the package lists to the accuracies."""
    args = arguments()
    start = time.monotonic()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    parts = split(load(args.packages))
    held_out = sample(parts.held_out)
    write_sample(held_out, args.sample)
    tokenizer = wordpieces.train(parts.train)
    encoder = Encoder(tokenizer)
    lm = train_lm(parts.train, encoder, Schedule(args.epochs, args.rate))
    save_lm(lm, tokenizer, args.out / "causal-lm")
    after_lm = time.monotonic()
    labels = sorted({package.section for package in parts.train})
    classifier = train_classifier(
        lm, parts.train, labels, encoder, Schedule(args.classifier_epochs, args.rate / 6)
    )
    save_classifier(classifier, labels, tokenizer, args.out / "classifier")
    seconds = {"lm": after_lm - start, "classifier": time.monotonic() - after_lm}
    result = measure(args.out, parts, held_out)
    result["training_seconds"] = {name: round(spent) for name, spent in seconds.items()}
    print(json.dumps(result, indent=2))
    (args.out / "metrics.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
