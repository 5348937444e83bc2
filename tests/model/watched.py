"""Engines whose every step is checked."""

from typing import Any

from model import Engine


def watched(engine: Engine) -> Engine:
    """Have an engine check its integrity after every step."""
    unchecked = engine.step

    def step() -> Any:
        updates = unchecked()
        engine.check_integrity()
        return updates

    engine.step = step  # type: ignore[method-assign]
    return engine
