"""What a replica gives back to the driver: a row for each unit, with the receipt of its part."""

from collections.abc import Iterator

import pyarrow as pa

from .commit import Receipt
from .plan import Unit


def make_reply(unit: Unit, receipt: Receipt | None) -> pa.Table:
    """Tell of one unit; without a receipt it was given up."""
    data = receipt and receipt.to_json()
    return pa.table({"unit": [unit.key], "receipt": pa.array([data], pa.binary())})


def read_replies(replies: pa.Table) -> Iterator[Receipt | Unit]:
    """Give each unit's receipt, or the unit if it was given up."""
    for unit, receipt in zip(replies["unit"], replies["receipt"], strict=True):
        data = receipt.as_py()
        yield Unit.from_key(unit.as_py()) if data is None else Receipt.from_json(data)
