"""Scores of a sequence classification head against transformers' own pipeline."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, pipeline

from model import Engine, EngineConfig
from model.outputs import ClassificationOutput
from model.pooling import Scores
from model.tasks import FunctionToApply
from tests.model.helpers import oracle
from tests.model.tokenizer_fixture import write_tokenizer

TEXTS = ["", "libssl-dev - toolkit", "Gr\u00fc\u00dfe \U0001f642", "line\nline " * 9]
KINDS: dict[str, dict[str, Any]] = {
    "single": {"problem_type": "single_label_classification", "num_labels": 3},
    "multi": {"problem_type": "multi_label_classification", "num_labels": 3},
    "regression": {"problem_type": "regression", "num_labels": 1},
    "regressions": {"problem_type": "regression", "num_labels": 2},
    "nothing said": {"num_labels": 4},
    "one label": {"num_labels": 1},
}


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_pipeline(kind: str, tmp_path: Path) -> None:
    changes = {"vocab_size": 2048, **KINDS[kind]}
    reference = oracle("Gemma2ForSequenceClassification", seed=5, **changes)
    reference.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    theirs: Any = pipeline(
        "text-classification", model=reference, tokenizer=AutoTokenizer.from_pretrained(tmp_path)
    )
    settings = {"dtype": "float32", "threads": 1, "kv_cache_bytes": 1 << 20}
    with Engine(EngineConfig(checkpoint=str(tmp_path), **settings)) as engine:
        for function in ("default", "sigmoid", "softmax", "none"):
            outputs = engine.classify(TEXTS, function_to_apply=function)
            asked = {} if function == "default" else {"function_to_apply": function}
            for text, output in zip(TEXTS, outputs, strict=True):
                best = output.best(len(output.scores))
                check(best, theirs(text, top_k=None, **asked))
                check(output.best(2), theirs(text, top_k=2, **asked))
                (top,) = theirs(text, **asked)
                assert (output.label, output.score) == (
                    top["label"],
                    pytest.approx(top["score"], abs=1e-5),
                )


def check(ours: Any, theirs: list[dict[str, Any]]) -> None:
    assert [item.label for item in ours] == [item["label"] for item in theirs]
    assert [item.score for item in ours] == pytest.approx(
        [item["score"] for item in theirs], abs=1e-5
    )


@pytest.mark.parametrize(
    ("function", "expected"),
    [("sigmoid", [0.5, 0.880797]), ("softmax", [0.119203, 0.880797]), ("none", [0.0, 2.0])],
)
def test_functions(function: FunctionToApply, expected: list[float]) -> None:
    logits = torch.tensor([0.0, 2.0])
    for problem in (None, "regression", "multi_label_classification"):
        scores = Scores(("a", "b"), problem).of(logits, function)
        assert scores.tolist() == pytest.approx(expected, abs=1e-5)


def test_labels_are_in_the_order_of_the_head_or_of_their_scores() -> None:
    output = ClassificationOutput.of(3, ["a", "b", "c"], [0.2, 0.5, 0.3], [0.0, 1.0, 0.5])
    assert (output.label, output.score) == ("b", 0.5)
    assert [item.label for item in output.best(None)] == ["a", "b", "c"]
    assert [item.label for item in output.best(2)] == ["b", "c"]
