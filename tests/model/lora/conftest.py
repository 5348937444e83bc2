from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from model import Engine, EngineConfig
from tests.model.watched import watched

MakeEngine = Callable[..., Engine]


@pytest.fixture
def make() -> Iterator[MakeEngine]:
    """Build float32 engines of a folder that check their integrity after every step."""
    engines: list[Engine] = []

    def build(folder: Path, **changes: Any) -> Engine:
        settings = {"dtype": "float32", "page_size": 4, "max_batch_tokens": 32, "threads": 1}
        settings |= {"max_sequences": 32, "kv_cache_bytes": 16 << 20, **changes}
        engine = watched(Engine(EngineConfig(checkpoint=str(folder), **settings)))
        engines.append(engine)
        return engine

    yield build
    for engine in engines:
        engine.close()
