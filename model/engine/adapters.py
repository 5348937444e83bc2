"""The adapters that an engine keeps, by the names that requests call them."""

from collections.abc import Iterable

from model.batch import BASE
from model.errors import ParameterError


class AdapterNames:
    """Turns names into the numbers that batches have of adapters."""

    def __init__(self, names: Iterable[str]) -> None:
        self._numbers = {name: number for number, name in enumerate(names)}

    def number(self, name: str | None) -> int:
        """Return the number of an adapter; BASE for None.

        Raises:
            ParameterError: there is no such adapter.
        """
        if name is None:
            return BASE
        if name not in self._numbers:
            known = ", ".join(self._numbers) or "none"
            raise ParameterError(f"there is no adapter {name!r}; this engine has {known}")
        return self._numbers[name]
