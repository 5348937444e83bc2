from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from model import Engine, EngineConfig
from model.engine.watchdog import OnStuck
from tests.model.helpers import oracle
from tests.model.tokenizer_fixture import write_tokenizer
from tests.model.watched import watched
from tests.model.ways import Way

MakeEngine = Callable[..., Engine]
Children = Callable[[], set[int]]
LABELS = {"id2label": {0: "O", 1: "B-NAME", 2: "I-NAME"}}
CHECKPOINTS: dict[str, tuple[str, dict[str, Any]]] = {
    "lm": ("Gemma2ForCausalLM", {}),
    "classifier": ("Gemma2ForSequenceClassification", LABELS),
    "tagger": ("Gemma2ForTokenClassification", LABELS),
    # With heads of a size that every backend takes.
    "lm-32": ("Gemma2ForCausalLM", {"head_dim": 32}),
    "classifier-32": ("Gemma2ForSequenceClassification", {"head_dim": 32, **LABELS}),
    "tagger-32": ("Gemma2ForTokenClassification", {"head_dim": 32, **LABELS}),
    # With tokenizer files, and the vocabulary that they need.
    "text-lm": ("Gemma2ForCausalLM", {"vocab_size": 2048}),
    "text-tagger": ("Gemma2ForTokenClassification", {"vocab_size": 2048, **LABELS}),
}


def settings_of(way: Way, name: str = "lm") -> dict[str, Any]:
    """What `make` needs to build an engine that computes in this way."""
    return {
        "name": name if way.attention == "reference" else f"{name}-32",
        "dtype": str(way.dtype).removeprefix("torch."),
        "kernels": way.kernels,
        "attention": way.attention,
        # As written for a CPU, FlexAttention looks at every page.
        "kv_cache_bytes": 1 << 19,
    }


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny random checkpoints; those called text-* have a tokenizer."""
    root = tmp_path_factory.mktemp("checkpoints")
    for name, (architecture, changes) in CHECKPOINTS.items():
        oracle(architecture, seed=5, qk_scale=2.0, **changes).save_pretrained(root / name)
        if name.startswith("text"):
            write_tokenizer(root / name, vocab_size=2048)
    return {name: root / name for name in CHECKPOINTS}


@pytest.fixture
def make(folders: dict[str, Path]) -> Iterator[MakeEngine]:
    """Build float32 engines that check their integrity after every step."""
    engines: list[Engine] = []

    def build(name: str = "lm", on_stuck: OnStuck | None = None, **changes: Any) -> Engine:
        settings = {"dtype": "float32", "page_size": 4, "max_batch_tokens": 32, "threads": 1}
        settings |= {"max_sequences": 32, "kv_cache_bytes": 64 << 20, **changes}
        config = EngineConfig(checkpoint=str(folders[name]), **settings)
        engine = watched(Engine(config, on_stuck=on_stuck))
        engines.append(engine)
        return engine

    yield build
    for engine in engines:
        engine.close()


@pytest.fixture
def children() -> Children:
    """Give the processes that this test has started so far and that have not ended.

    Those of earlier tests, such as an S3 server that a session shares, are not among them.
    """

    def running() -> set[int]:
        return {child.pid for child in psutil.Process().children() if child.is_running()}

    before = running()
    return lambda: running() - before
