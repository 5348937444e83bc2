"""The README's commands for heads and hidden states do what their rows promise."""

import json
from pathlib import Path
from typing import Any

import pytest

from .readme_commands import run, shown


def answer(row: str, folder: Path) -> Any:
    finished = run(shown(row), folder)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def test_token_classification(tmp_path: Path) -> None:
    (entity,) = answer("Token classification", tmp_path)
    assert (entity["label"], entity["text"]) == ("PACKAGE", "gnome-chess")
    assert (entity["start"], entity["end"]) == (0, 11)
    assert 0.5 < entity["score"] <= 1


def test_sequence_classification(tmp_path: Path) -> None:
    found = answer("Sequence classification", tmp_path)
    assert found["label"] == "games"
    scores = [item["score"] for item in found["label_scores"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) > 1  # each by itself
    assert found["label_score"] == scores[0]


def test_longer_texts(tmp_path: Path) -> None:
    found = answer("Longer texts", tmp_path)
    assert found["prompt_tokens"] > 128
    assert found["windows"] > 2
    assert found["error"] is None
    assert len(found["label_scores"]) == 1


def test_hidden_states_and_embeddings(tmp_path: Path) -> None:
    vector = answer("Hidden states and embeddings", tmp_path)
    assert len(vector) == 192
    assert max(map(abs, vector)) > 1
    # Numbers of half precision: eleven bits each.
    assert all(x == pytest.approx(x, abs=0) and (x * 2**24).is_integer() for x in vector)
