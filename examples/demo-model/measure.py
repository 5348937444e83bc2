"""Accuracy of the written checkpoints on the held-out sample, with transformers alone.

    python examples/demo-model/measure.py

Both run from their files, hence on weights rounded to bf16, with eager attention: once computing
in float32 and once in bfloat16. The section is found three ways: generated greedily, as the label
with the highest likelihood after the prompt, and by the classification head.
"""

import argparse
import collections
import json
from pathlib import Path

import torch
from packages import Package, Split, load, sample, section_prompt, split
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

BATCH = 64
MAX_ANSWER_TOKENS = 6
HERE = Path(__file__).parent


class Prompts:
    """The sample's section prompts as left-padded batches."""

    def __init__(self, folder: Path, rows: list[Package]) -> None:
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
        self._chats = [[{"role": "user", "content": section_prompt(row)}] for row in rows]

    def batches(self) -> list[dict[str, Tensor]]:
        """Ids and attention masks, in the rows' order."""
        return [
            dict(
                self.tokenizer.apply_chat_template(
                    self._chats[start : start + BATCH],
                    add_generation_prompt=True,
                    padding=True,
                    padding_side="left",
                    return_dict=True,
                    return_tensors="pt",
                )
            )
            for start in range(0, len(self._chats), BATCH)
        ]


def generated(folder: Path, prompts: Prompts, dtype: torch.dtype) -> list[str]:
    """Greedy answers."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    model.generation_config.cache_implementation = None
    answers: list[str] = []
    for batch in prompts.batches():
        ids = model.generate(**batch, do_sample=False, max_new_tokens=MAX_ANSWER_TOKENS)
        new = ids[:, batch["input_ids"].shape[1] :]
        answers += prompts.tokenizer.batch_decode(new, skip_special_tokens=True)
    return answers


def label_scores(
    folder: Path, prompts: Prompts, labels: list[str], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Log-likelihood of each label after each prompt: [rows, labels], and tokens per label."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    tokens = [prompts.tokenizer.encode(label, add_special_tokens=False) for label in labels]
    for one in tokens:
        clash = [other for other in tokens if other != one and other[: len(one)] == one]
        if clash:
            raise ValueError(f"label tokens {one} start other labels': {clash}")
    # A label of one token needs only the prompt's last logits, and all those are one pass.
    heads = sorted({tuple(label[:-1]) for label in tokens})
    scores = torch.cat(
        [_batch_label_scores(model, batch, tokens, heads) for batch in prompts.batches()]
    )
    return scores, torch.tensor([len(label) for label in tokens])


def _batch_label_scores(
    model: torch.nn.Module,
    batch: dict[str, Tensor],
    tokens: list[list[int]],
    heads: list[tuple[int, ...]],
) -> Tensor:
    rows = len(batch["input_ids"])
    scores = torch.zeros(rows, len(tokens))
    for head in heads:
        ids = torch.cat([batch["input_ids"], torch.tensor(head).long().expand(rows, -1)], dim=1)
        mask = torch.cat([batch["attention_mask"], torch.ones(rows, len(head)).long()], dim=1)
        kept = len(head) + 1  # from the prompt's last position on
        logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=kept).logits
        logs = logits.float().log_softmax(-1)
        for index, label in enumerate(tokens):
            if tuple(label[:-1]) == head:
                scores[:, index] = sum(logs[:, at, token] for at, token in enumerate(label))
    return scores


def classified(folder: Path, prompts: Prompts, dtype: torch.dtype) -> list[str]:
    """The classification head's answers."""
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager"
    )
    best = torch.cat([model(**batch).logits.argmax(-1) for batch in prompts.batches()])
    return [model.config.id2label[index] for index in best.tolist()]


@torch.inference_mode()
def measure(folder: Path, parts: Split, rows: list[Package]) -> dict[str, object]:
    """Everything metrics.json holds but the training time."""
    counts = collections.Counter(package.section for package in parts.train)
    majority, _ = counts.most_common(1)[0]
    seen = {package.synopsis for package in parts.train}
    labels = sorted(counts)
    prompts = Prompts(folder / "causal-lm", rows)
    fresh = [row.synopsis not in seen for row in rows]
    result: dict[str, object] = {
        "rows": len(rows),
        "labels": len(labels),
        "train_packages": len(parts.train),
        "validation_packages": len(parts.validation),
        "held_out_packages": len(parts.held_out),
        "majority_section": majority,
        "majority_baseline": _accuracy([majority] * len(rows), rows),
        "rows_with_a_synopsis_not_in_train": sum(fresh),
    }
    for dtype in (torch.float32, torch.bfloat16):
        scores, lengths = label_scores(folder / "causal-lm", prompts, labels, dtype)
        answers = {
            "generate": generated(folder / "causal-lm", prompts, dtype),
            "label_scores_sum": [labels[i] for i in scores.argmax(-1)],
            "label_scores_mean": [labels[i] for i in (scores / lengths).argmax(-1)],
            "classifier": classified(folder / "classifier", prompts, dtype),
        }
        name = str(dtype).removeprefix("torch.")
        result[f"accuracy_{name}"] = {how: _accuracy(got, rows) for how, got in answers.items()}
        result[f"accuracy_{name}_synopsis_not_in_train"] = {
            how: _accuracy(
                [answer for answer, new in zip(got, fresh, strict=True) if new],
                [row for row, new in zip(rows, fresh, strict=True) if new],
            )
            for how, got in answers.items()
        }
    return result


def _accuracy(answers: list[str], rows: list[Package]) -> float:
    right = sum(answer == row.section for answer, row in zip(answers, rows, strict=True))
    return round(right / len(rows), 4)


def main() -> None:
    """Print the measurements of checkpoints that are already there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--packages", type=Path, help="a saved `apt-cache dumpavail`")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the two checkpoints")
    parser.add_argument("--validation", action="store_true", help="not the sample: for tuning")
    args = parser.parse_args()
    parts = split(load(args.packages))
    rows = parts.validation if args.validation else sample(parts.held_out)
    print(json.dumps(measure(args.out, parts, rows), indent=2))


if __name__ == "__main__":
    main()
