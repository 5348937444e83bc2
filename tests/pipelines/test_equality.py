import math
import struct
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.equality import differing_rows, plain

NAN = float("nan")
floats = st.none() | st.floats(allow_nan=False) | st.sampled_from([0.0, -0.0, NAN])
KINDS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "int": (pa.int64(), st.none() | st.integers(-2, 2)),
    "text": (pa.string(), st.none() | st.text(max_size=2)),
    "float": (pa.float64(), floats),
    "list": (pa.list_(pa.float64()), st.none() | st.lists(floats, max_size=2)),
}


def bits(value: Any) -> Any:
    """What two equal values have in common."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else struct.pack("<d", value)
    return [bits(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_exactly_the_rows_that_differ_are_named(kind: str, data: st.DataObject) -> None:
    arrow, values = KINDS[kind]
    left = data.draw(st.lists(values, min_size=1, max_size=12))
    changes = data.draw(st.dictionaries(st.integers(0, len(left) - 1), values, max_size=3))
    right = [changes.get(row, value) for row, value in enumerate(left)]
    cut = data.draw(st.integers(0, len(left)))
    chunks = pa.chunked_array([left[:cut], left[cut:]], arrow)
    expected = [row for row in range(len(left)) if bits(left[row]) != bits(right[row])]
    assert differing_rows(chunks, pa.chunked_array([right], arrow)) == expected


def test_dictionaries_are_compared_by_what_they_stand_for() -> None:
    left = pa.chunked_array([pa.DictionaryArray.from_arrays([0, 1, None], ["a", "b"])])
    right = pa.chunked_array([pa.DictionaryArray.from_arrays([1, 0, 0], ["b", "a"])])
    assert differing_rows(plain(left), plain(right)) == [2]


def test_what_python_cannot_hold_is_compared_too() -> None:
    far = pa.array([2**62, 5], pa.int64()).view(pa.timestamp("us"))
    near = pa.array([2**62 - 1, 5], pa.int64()).view(pa.timestamp("us"))
    assert differing_rows(pa.chunked_array([far]), pa.chunked_array([far])) == []
    assert differing_rows(pa.chunked_array([far]), pa.chunked_array([near])) == [0]


def test_a_signed_zero_in_a_list_is_another_value() -> None:
    left = pa.chunked_array([[None, [0.0, -0.0], [NAN]]], pa.list_(pa.float64()))
    right = pa.chunked_array([[None, [0.0, 0.0], [NAN]]], pa.list_(pa.float64()))
    assert differing_rows(left, right) == [1]
    assert differing_rows(left, left) == []
