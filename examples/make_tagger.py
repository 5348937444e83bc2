"""Make examples/tagger: the demo model with a head that finds the package's name in a line of text.

    python examples/make_tagger.py

The backbone is the demo model's own, by a link to its file. Only the head is fitted, some 400
numbers: a logistic regression from the hidden states of the first rows of packages.parquet. The
other rows say how good it is. To be run again whenever the demo model is trained anew.
"""

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import Gemma2Model

HERE = Path(__file__).parent
SOURCE = HERE / "demo-model" / "causal-lm"
TARGET = HERE / "tagger"
LABELS = ["O", "PACKAGE"]
FITTED_ROWS, TEST_ROWS = 400, 400
SHARED = {
    "backbone.safetensors": "model.safetensors",
    "tokenizer.json": "tokenizer.json",
    "tokenizer_config.json": "tokenizer_config.json",
}


def read_lines(count: int) -> list[tuple[str, int]]:
    """Lines `name - synopsis` of the sample, each with the length of its name."""
    rows = pq.read_table(HERE / "packages.parquet").slice(0, count).to_pylist()
    return [(f"{row['package']} - {row['synopsis']}", len(row["package"])) for row in rows]


@torch.no_grad()
def states_and_targets(lines: list[tuple[str, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states [tokens, hidden_size] float32, and whether each token is of the name."""
    # Eager is the attention that applies Gemma 2's softcap.
    backbone = Gemma2Model.from_pretrained(SOURCE, dtype=torch.float32, attn_implementation="eager")
    tokenizer = Tokenizer.from_file(str(SOURCE / "tokenizer.json"))
    states, targets = [], []
    for text, name_length in lines:
        encoding = tokenizer.encode(text)
        states.append(backbone(torch.tensor([encoding.ids])).last_hidden_state[0])
        targets += [start < end <= name_length for start, end in encoding.offsets]
    return torch.cat(states), torch.tensor(targets)


def fit(states: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight [2, hidden_size] and bias [2] of the head, in bfloat16."""
    weight = torch.zeros(len(LABELS), states.shape[1], requires_grad=True)
    bias = torch.zeros(len(LABELS), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = functional.cross_entropy(states @ weight.T + bias, targets.long())
        value = value + 1e-4 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weight.detach().bfloat16(), bias.detach().bfloat16()


def write(weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Write the checkpoint; what it shares with the demo model is linked."""
    TARGET.mkdir(exist_ok=True)
    head = {"score.weight": weight, "score.bias": bias}
    save_file(head, TARGET / "head.safetensors", metadata={"format": "pt"})
    for name, source in SHARED.items():
        (TARGET / name).unlink(missing_ok=True)
        (TARGET / name).symlink_to(os.path.relpath(SOURCE / source, TARGET))
    with safe_open(TARGET / "backbone.safetensors", framework="pt") as backbone:
        places = dict.fromkeys(sorted(backbone.keys()), "backbone.safetensors")
    places |= dict.fromkeys(head, "head.safetensors")
    config = json.loads((SOURCE / "config.json").read_text())
    config["architectures"] = ["Gemma2ForTokenClassification"]
    config["id2label"] = {str(index): label for index, label in enumerate(LABELS)}
    config["label2id"] = {label: index for index, label in enumerate(LABELS)}
    write_json("config.json", config)
    write_json("model.safetensors.index.json", {"metadata": {}, "weight_map": places})


def write_json(name: str, document: dict[str, object]) -> None:
    """Write a file of the checkpoint."""
    (TARGET / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Fit, write, and say how good it is."""
    lines = read_lines(FITTED_ROWS + TEST_ROWS)
    weight, bias = fit(*states_and_targets(lines[:FITTED_ROWS]))
    write(weight, bias)
    states, targets = states_and_targets(lines[FITTED_ROWS:])
    found = (states @ weight.float().T + bias.float()).argmax(dim=1).bool()
    print(
        f"{TARGET}: {(found == targets).float().mean():.2%} of the tokens of other rows are right"
    )


if __name__ == "__main__":
    main()
