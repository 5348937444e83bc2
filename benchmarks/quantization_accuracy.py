"""What fewer bits cost: the demo model's accuracy on its held-out sample, in each arithmetic.

    python benchmarks/quantization_accuracy.py [--rows N] [--out FILE]

The section of each package is found three ways: generated greedily, as the likeliest of all section
names after the prompt, and by the classification head. `agree` is the share of rows on which an
arithmetic answers as float32 does.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.report import TABLE_WIDTH
from model import Engine, EngineConfig, SamplingParams

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
MODELS = EXAMPLES / "demo-model"
PROMPT = "Name the section of this Debian package.\n{package}: {synopsis}"
VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16, plain torch": {"dtype": "bfloat16", "kernels": "plain", "attention": "reference"},
    "bfloat16": {"dtype": "bfloat16"},
    **{
        name: {"dtype": "bfloat16", "quantization": name}
        for name in ("int8", "int4", "bnb-int8", "bnb-nf4")
    },
}
WAYS = ("generated", "label scores", "classification head")


def answers(settings: dict[str, Any], rows: list[dict[str, str]]) -> dict[str, list[str]]:
    """Name each row's section in every way."""
    prompts = [[{"role": "user", "content": PROMPT.format(**row)}] for row in rows]
    labels = sorted({row["section"] for row in rows})
    with Engine(EngineConfig(checkpoint=str(MODELS / "causal-lm"), **settings)) as lm:
        texts = lm.generate(prompts, SamplingParams(max_tokens=8))
        scored = lm.score_labels(prompts, labels)
    with Engine(
        EngineConfig(checkpoint=str(EXAMPLES / "demo-model/classifier"), **settings)
    ) as head:
        classified = head.classify(prompts)
    return {
        "generated": [text.completions[0].text.strip() for text in texts],
        "label scores": [output.label for output in scored],
        "classification head": [output.label for output in classified],
    }


def main() -> None:
    """Answer in every arithmetic, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, help="only so many rows of the sample")
    parser.add_argument("--out", type=Path, help="append JSON lines to this file")
    args = parser.parse_args()
    rows = pq.read_table(EXAMPLES / "packages.parquet").to_pylist()[: args.rows]
    found = {name: answers(settings, rows) for name, settings in VARIANTS.items()}
    table = Table(box=box.MARKDOWN)
    for column in (
        "arithmetic",
        *(f"{way}, %" for way in WAYS),
        *(f"agree, {way}, %" for way in WAYS),
    ):
        table.add_column(column)
    for name, named in found.items():
        right = {way: _share(named[way], [row["section"] for row in rows]) for way in WAYS}
        agree = {way: _share(named[way], found["float32"][way]) for way in WAYS}
        table.add_row(name, *(f"{v:.2f}" for v in (*right.values(), *agree.values())))
        if args.out:
            line = {"arithmetic": name, "rows": len(rows), "accuracy": right, "agree": agree}
            with args.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
    Console(width=TABLE_WIDTH).print(table)


def _share(got: list[str], want: list[str]) -> float:
    return 100 * sum(g == w for g, w in zip(got, want, strict=True)) / len(want)


if __name__ == "__main__":
    main()
