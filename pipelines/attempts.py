"""How often units were begun, noted beside the output, so that a later run knows.

A note is there from before its unit is computed until its part is. One that stays was made by a
process that died, or by a run that did.
"""

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from .errors import StorageError
from .locations import STORE_ERRORS
from .plan import Unit
from .storage import Store

FOLDER = "_job/attempts"
DELETE_THREADS = 16
NOTE = re.compile(r"(\d+-\d+-\d+)-(\d+)")


def note(store: Store, unit: Unit, attempt: int) -> None:
    """Note that a unit's attempt of this number, from 1 on, is about to be made.

    Raises:
        StorageError: the store does not take it.
    """
    try:
        store.put_if_absent(_name(unit, attempt), b"")
    except STORE_ERRORS as error:
        raise StorageError(f"{store.url} can't be written any more: {error}") from error


def forget(store: Store, unit: Unit, attempts: Iterable[int]) -> None:
    """Take notes back: of a unit that is committed, or an attempt that was not seen to fail."""
    for attempt in attempts:
        store.delete(_name(unit, attempt))


def noted(store: Store) -> dict[Unit, int]:
    """Give each unit's number of attempts so far, where it is not 0."""
    counts: dict[Unit, int] = {}
    for match in filter(None, map(NOTE.fullmatch, store.names(FOLDER))):
        unit = Unit.from_key(match[1])
        counts[unit] = max(counts.get(unit, 0), int(match[2]))
    return counts


def forget_all(store: Store, notes: Iterable[tuple[Unit, Iterable[int]]]) -> None:
    """Take many notes back at once; one that stays does no harm."""
    with ThreadPoolExecutor(DELETE_THREADS) as pool:
        for unit, attempts in notes:
            pool.submit(forget, store, unit, attempts)


def _name(unit: Unit, attempt: int) -> str:
    return f"{FOLDER}/{unit.key}-{attempt}"
