from __future__ import annotations

import json
import math
import pickle
from collections import ChainMap, OrderedDict, UserDict, deque, namedtuple
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.renderers import JSONRenderer

from celery_stats.masking.jsonsafe import CYCLIC, MAX_LEVELS, MAX_REPR, TOO_DEEP, jsonsafe

Point = namedtuple("Point", "x y")


class Colour(Enum):
    RED = 1


class Word(str, Enum):
    YES = "yes"


class Number(IntEnum):
    ONE = 1


class Half(float):
    def __repr__(self) -> str:
        return "half"


class Plain:
    def __repr__(self) -> str:
        return "<Plain>"


class Liar:
    """Says that it is a dict, as lazy objects and mocks do."""

    __class__ = property(lambda self: dict)

    def __repr__(self) -> str:
        return "<Liar>"


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class Broken(Mapping[str, int]):
    def __getitem__(self, key: str) -> int:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("no")

    def __len__(self) -> int:
        return 1

    def __repr__(self) -> str:
        return "<Broken>"


class BrokenZone(tzinfo):
    def utcoffset(self, when: datetime | None) -> timedelta | None:
        raise RuntimeError("no")

    def __repr__(self) -> str:
        return "<BrokenZone>"


def strict(data: bytes) -> Any:
    """Parse JSON as the standard has it."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(data.decode(), parse_constant=refuse)


def render(value: Any) -> Any:
    """What a client reads of a value, through REST framework's renderer."""
    return strict(JSONRenderer().render({"value": value}))["value"]


def nested(levels: int, innermost: Any = None) -> Any:
    value = innermost
    for level in range(levels, 0, -1):
        value = [value] if level % 2 else {"a": value}
    return value


UTC = timezone.utc
LONG = 10**5000


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (float("-inf"), "-Infinity"),
        (Half(0.5), 0.5),
        (Half("nan"), "NaN"),
        (b"caf\xc3\xa9 \xff", "café \\xff"),
        (bytearray(b"\xfe"), "\\xfe"),
        (memoryview(b"ab"), "ab"),
        ("a\ud800b", "a\\ud800b"),
        ({"\udfff": 1}, {"\\udfff": 1}),
        ({"b", "a"}, ["a", "b"]),
        (frozenset({10, 9}), [9, 10]),
        ({1, "a", None}, ["a", 1, None]),
        ({frozenset({2, 1}), frozenset({0})}, [[0], [1, 2]]),
        ((1, (2,)), [1, [2]]),
        (deque([1, 2]), [1, 2]),
        (Point(1, 2), [1, 2]),
        (OrderedDict(a=(1,)), {"a": [1]}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (ChainMap({"a": 1}, {"a": 2}), {"a": 1}),
        (UserDict(a=b"x"), {"a": "x"}),
        ({1: 2, None: 3, True and "t": 4}, {"1": 2, "null": 3, "t": 4}),
        ({False: 0, 1.5: 1}, {"false": 0, "1.5": 1}),
        ({float("inf"): 0, b"k": 1, UUID(int=1): 2}, {"Infinity": 0, "k": 1, str(UUID(int=1)): 2}),
        ({(1, "a"): 0, frozenset(): 1}, {"(1, 'a')": 0, "frozenset()": 1}),
        (datetime(2024, 1, 2, 3, 4, 5, 678901), "2024-01-02T03:04:05.678901"),
        (datetime(2024, 1, 2, tzinfo=UTC), "2024-01-02T00:00:00Z"),
        (date(2024, 1, 2), "2024-01-02"),
        (time(1, 2, 3), "01:02:03"),
        (time(1, 2, 3, tzinfo=UTC), "01:02:03+00:00"),
        (timedelta(minutes=1.5), "90.0"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Decimal("1.5"), 1.5),
        (Decimal("NaN"), "NaN"),
        (Decimal("sNaN"), "sNaN"),
        (Decimal("-Infinity"), "-Infinity"),
        (Decimal("1e400"), "1E+400"),
        (gettext_lazy("Monday"), "Monday"),
        (mark_safe("<b>"), "<b>"),
        (Word.YES, "yes"),
        (Number.ONE, 1),
        (Colour.RED, "<Colour.RED: 1>"),
        (Plain(), "<Plain>"),
        (PurePosixPath("/x"), "PurePosixPath('/x')"),
        (range(3), "range(0, 3)"),
        (1j, "1j"),
        (Unprintable(), "<unprintable Unprintable>"),
        (Broken(), "<Broken>"),
        (Liar(), "<Liar>"),
        (2**700, 2**700),
        (2**2100, 2**2100),
        (LONG, hex(LONG)[:MAX_REPR] + "..."),
        (-LONG, hex(-LONG)[:MAX_REPR] + "..."),
        (KeyError("\ud800"), "KeyError('\\ud800')"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_jsonsafe__odd_value(value: Any, expected: Any) -> None:
    converted = jsonsafe({"value": [value]})["value"][0]
    assert converted == expected
    assert type(converted) is type(expected)
    assert render(converted) == expected


def test_jsonsafe__what_only_breaks_in_use() -> None:
    moment = datetime(2024, 1, 2, tzinfo=BrokenZone())
    assert "BrokenZone" in jsonsafe(moment)
    released = memoryview(b"x")
    released.release()
    assert jsonsafe(released).startswith("<released memory")


def test_jsonsafe__long_repr_is_cut() -> None:
    class Long:
        def __repr__(self) -> str:
            return "x" * 5000

    assert jsonsafe(Long()) == "x" * MAX_REPR + "..."


def test_jsonsafe__keys_of_one_text_are_all_kept() -> None:
    value = {1: "int", b"1": "bytes", "1": "str", "1 (2)": "taken", 1.5: "float", "1.5": "str"}
    converted = jsonsafe(value)
    assert converted["1"] == converted["1.5"] == "str"
    assert converted["1 (2)"] == "taken"
    assert sorted(converted.values()) == sorted(value.values())
    assert list(converted.values()) == list(value.values())


def test_jsonsafe__many_keys_of_one_text() -> None:
    class Same:
        def __repr__(self) -> str:
            return "same"

    assert len(jsonsafe({Same(): n for n in range(20_000)})) == 20_000


def test_jsonsafe__names_seen_before_do_not_hide_others() -> None:
    # Names that need no change are remembered: the second object must still be looked at.
    assert jsonsafe([{"a": 1}, {"a": 1, b"b": 2}, {"a": 1, "\ud800": 3}]) == [
        {"a": 1},
        {"a": 1, "b": 2},
        {"a": 1, "\\ud800": 3},
    ]


@pytest.mark.parametrize("make", [list, dict, OrderedDict, deque])
def test_jsonsafe__cycle_is_cut(make: Any) -> None:
    value = make()
    if isinstance(value, dict):
        value.update(one=value, two=[value])
        expected: Any = {"one": CYCLIC, "two": [CYCLIC]}
    else:
        value.extend([value, {"in": value}])
        expected = [CYCLIC, {"in": CYCLIC}]
    assert render(jsonsafe(value)) == expected


def test_jsonsafe__many_ways_round_a_cycle() -> None:
    # By depth alone this would take 2**100 steps.
    value: list[Any] = []
    value += [value, {"again": value}]
    assert jsonsafe([value, value]) == [[CYCLIC, {"again": CYCLIC}]] * 2


def test_jsonsafe__same_object_twice_is_no_cycle() -> None:
    shared = {"a": (1,)}
    assert jsonsafe([shared, shared, {"b": shared}]) == [{"a": [1]}, {"a": [1]}, {"b": {"a": [1]}}]


def test_jsonsafe__hundred_levels_pass() -> None:
    value = nested(MAX_LEVELS, "end")
    assert jsonsafe(value) is value


def test_jsonsafe__the_next_level_is_cut() -> None:
    assert jsonsafe(nested(MAX_LEVELS + 1, "end")) == nested(MAX_LEVELS, TOO_DEEP)


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: (v,), lambda v: {"a": v}])
def test_jsonsafe__depth_without_end(wrap: Any) -> None:
    value = None
    for _ in range(100_000):
        value = wrap(value)
    assert TOO_DEEP in json.dumps(jsonsafe(value))
    assert jsonsafe({"key": {(value if isinstance(value, tuple) else 1): 1}})


def test_jsonsafe__input_is_left_alone() -> None:
    value = {"a": [b"x", {"b": {1, 2}}], 1: (float("nan"),)}
    before = pickle.dumps(value)
    jsonsafe(value)
    assert pickle.dumps(value) == before


def test_jsonsafe__unchanged_parts_are_the_same_objects() -> None:
    value = {"same": {"a": ["x", 1, None, True, 1.5, "é", "a:b"]}, "odd": {"a": b"x"}}
    converted = jsonsafe(value)
    assert converted == {"same": value["same"], "odd": {"a": "x"}}
    assert converted["same"] is value["same"]


# Any value that a pickled, YAML or extended JSON reply can hold.
any_text = st.text(st.characters(exclude_categories=[]))  # lone surrogates too
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**2000).map(lambda n: n**9)
    | st.floats()
    | any_text
    | st.binary()
    | st.complex_numbers()
    | st.decimals()
    | st.uuids()
    | st.datetimes(timezones=st.none() | st.timezones())
    | st.dates()
    | st.times(timezones=st.none() | st.just(UTC))
    | st.timedeltas()
    | st.sampled_from([Colour.RED, Word.YES, Number.ONE, Plain])
    | st.sampled_from([Plain, Unprintable, Broken]).map(lambda kind: kind())
    | any_text.map(KeyError)
)
hashable = st.recursive(
    scalars.filter(lambda value: _is_hashable(value)),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.tuples(inner, inner)
        | st.lists(inner, max_size=5).map(deque)
        | st.sets(hashable, max_size=5)
        | st.dictionaries(hashable, inner, max_size=5)
        | st.dictionaries(any_text, inner, max_size=5).map(OrderedDict)
        | st.dictionaries(any_text, inner, max_size=5).map(MappingProxyType)
    ),
    max_leaves=25,
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except (TypeError, ValueError):  # A signalling NaN cannot be hashed.
        return False
    return True


def exact(value: Any) -> bool:
    """Whether nothing but the exact types of JSON is in a value."""
    if type(value) is dict:
        return all(type(key) is str and exact(item) for key, item in value.items())
    if type(value) is list:
        return all(map(exact, value))
    if type(value) is float:
        return math.isfinite(value)
    return value is None or type(value) in (bool, int, str)


@given(anything)
def test_jsonsafe__anything_becomes_strict_json(value: Any) -> None:
    converted = jsonsafe(value)
    assert exact(converted)
    assert render(converted) == converted
    json.dumps(converted, allow_nan=False).encode()


@given(anything)
def test_jsonsafe__is_idempotent(value: Any) -> None:
    converted = jsonsafe(value)
    assert jsonsafe(converted) is converted


@given(json_values)
def test_jsonsafe__json_is_not_touched(value: Any) -> None:
    assert jsonsafe(value) is value
    assert json.loads(json.dumps(value)) == value


@given(st.dictionaries(hashable, st.integers()))
def test_jsonsafe__no_entry_is_lost(value: Any) -> None:
    assert list(jsonsafe(value).values()) == list(value.values())
