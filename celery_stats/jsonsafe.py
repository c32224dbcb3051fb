"""The one place where whatever a worker sends becomes valid JSON.

Workers answer in the serializer of their app, so a reply may hold anything that
kombu's extended JSON, YAML or pickle can carry. REST framework's renderer raises
on some of it (bytes that are not UTF-8, NaN, lone surrogates, keys that are
tuples) and the rest of the answer would be lost with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Set
from datetime import date, time, timedelta
from decimal import Decimal
from itertools import count
from math import isfinite, isinf
from typing import Any
from uuid import UUID

from django.utils.functional import Promise
from rest_framework.utils.encoders import JSONEncoder

#: Levels of lists and objects inside each other that are passed on: parsers have
#: limits of their own, and Python's writer recurses.
MAX_LEVELS = 100
#: Characters of an object's ``repr`` that are passed on.
MAX_REPR = 1000

CYCLIC = "<cut: cyclic>"
TOO_DEEP = f"<cut: deeper than {MAX_LEVELS} levels>"

# The interpreter's limit on the digits of integers is at least 640, which is more
# than this: https://docs.python.org/3/library/stdtypes.html#int-max-str-digits
_LONG = 1 << 2048

_encode = JSONEncoder().default


def jsonsafe(value: Any) -> Any:
    """Any value as None, bool, int, finite float, str, list or str-keyed dict.

    What is JSON already is returned as it is, the same object: that keeps an
    answer of 10 000 tasks cheap. Idempotent. Keys that become the same text are
    numbered (``"1"``, ``"1 (2)"``), so that nothing is lost. The value is not
    modified, and may share parts with the result.
    """
    return Converter().convert(value)


class Converter:
    """One conversion; subclasses change what becomes of text and of keys on the way.

    The loops spell out the commonest cases: a call for every value would take as long
    as decoding and writing the whole answer, see ``benchmarks/conversion.py``.
    """

    #: Whether ``text`` is asked about text without a colon, too, if it is long or has a space
    #: or an equals sign.
    every_text = False

    def __init__(
        self, *, inside: Mapping[str, Converter] | None = None, path: set[int] | None = None
    ) -> None:
        """
        Args:
            inside: Key -> the converter of lists and objects under that key.
            path: Shared by the converters of one conversion.
        """
        self._inside = inside or {}
        #: The ids of the containers around the current one. Depth alone would not do: a
        #: list that holds itself twice takes 2**100 steps to the hundredth level.
        self._path = set() if path is None else path
        #: Keys that need no change. Few names make up all the keys of an answer.
        self._known_keys: set[str] = set()

    def text(self, value: str) -> str:
        """Convert text that has a colon or is not ASCII; see ``every_text`` for other text."""
        return value if value.isascii() else _utf8(value)

    def other(self, value: object) -> str:
        """Write an object that JSON has no kind for: its ``repr``, cut to a bearable length."""
        try:
            return _cut(repr(value))
        except Exception:  # noqa: BLE001 - the object's own code may raise anything
            return f"<unprintable {type(value).__name__}>"

    def keys(self, value: dict[Any, Any]) -> dict[str, Any]:
        """The same under keys that are text; those that are text already keep their names."""
        names = [self._key(key) for key in value]
        taken = {name for name, key in zip(names, value, strict=True) if name is key}
        self._known_keys |= taken
        if len(taken) == len(value):
            return value
        numbers = count(2)
        result = {}
        for name, (key, item) in zip(names, value.items(), strict=True):
            unique = name
            if name is not key:
                while unique in taken:
                    unique = f"{name} ({next(numbers)})"
                taken.add(unique)
            result[unique] = item
        return result

    def convert(self, value: Any, level: int = 1) -> Any:
        """Convert a value that, if it is a container, stands at ``level``."""
        kind = type(value)
        if kind is dict:
            return self.mapping(value, level, id(value))
        if kind is list:
            return self.sequence(value, level, id(value))
        if kind is str:
            skip = value.isascii() and ":" not in value and not self.every_text
            return value if skip else self.text(value)
        if kind is int:
            return value if -_LONG < value < _LONG else _integer(value)
        if value is None or kind is bool:
            return value
        if kind is float:
            return value if isfinite(value) else _not_finite(value)

        plain = self._plain(value)
        if type(plain) is dict:
            return self.mapping(plain, level, id(value))
        if type(plain) is list:
            converted = self.sequence(plain, level, id(value))
            in_order = issubclass(kind, Set) and type(converted) is list
            return _in_order(converted) if in_order else converted
        return self.convert(plain)

    def mapping(self, value: dict[Any, Any], level: int, identity: int) -> Any:
        """Convert an object, as JSON has it.

        Args:
            identity: The id of what the dict was made from, itself perhaps.
        """
        if level > MAX_LEVELS:
            return TOO_DEEP
        if identity in self._path:
            return CYCLIC
        on_path = False
        colons_only = not self.every_text
        source = value if self._known_keys.issuperset(value) else self.keys(value)
        result = source
        for key, item in source.items():
            kind = type(item)
            if kind is str:
                if (
                    item.isascii()
                    and ":" not in item
                    and (colons_only or (len(item) < 20 and "=" not in item and " " not in item))
                ):
                    continue
                converted = self.text(item)
            elif item is None or kind is bool or (kind is int and -_LONG < item < _LONG):
                continue
            else:
                if not on_path:
                    self._path.add(identity)
                    on_path = True
                inside = self._inside.get(key, self)
                if kind is dict:
                    converted = inside.mapping(item, level + 1, id(item))
                elif kind is list:
                    converted = inside.sequence(item, level + 1, id(item))
                else:
                    converted = inside.convert(item, level + 1)
            if converted is not item:
                if result is source:
                    result = source.copy()
                result[key] = converted
        if on_path:
            self._path.remove(identity)
        return result

    def sequence(self, value: list[Any], level: int, identity: int) -> Any:
        if level > MAX_LEVELS:
            return TOO_DEEP
        if identity in self._path:
            return CYCLIC
        on_path = False
        colons_only = not self.every_text
        result = value
        for index, item in enumerate(value):
            kind = type(item)
            if kind is str:
                if (
                    item.isascii()
                    and ":" not in item
                    and (colons_only or (len(item) < 20 and "=" not in item and " " not in item))
                ):
                    continue
                converted = self.text(item)
            elif kind is int and -_LONG < item < _LONG:
                continue
            else:
                if not on_path:
                    self._path.add(identity)
                    on_path = True
                if kind is dict:
                    converted = self.mapping(item, level + 1, id(item))
                else:
                    converted = self.convert(item, level + 1)
            if converted is not item:
                if result is value:
                    result = value.copy()
                result[index] = converted
        if on_path:
            self._path.remove(identity)
        return result

    def _key(self, key: Any) -> str:
        """A key as Python's writer has it, or as text where that would refuse it."""
        if type(key) is str:  # Names, not text: nothing but their encoding matters.
            return key if key.isascii() else _utf8(key)
        plain = Converter(path=self._path).convert(key)
        if type(plain) is list or type(plain) is dict:
            plain = _utf8(self.other(key))
        if plain is None:
            return "null"
        return str(plain).lower() if type(plain) is bool else str(plain)

    def _plain(self, value: Any) -> Any:
        """The value as one of the exact types that ``convert`` knows."""
        kind = type(value)  # Not isinstance(): proxies lie about their class.
        try:
            for bases, plain in _PLAIN:
                if issubclass(kind, bases):
                    return plain(value)
        except Exception:  # noqa: BLE001 - so may a mapping's or a time zone's
            return self.other(value)
        return self.other(value)


def _utf8(value: str) -> str:
    """Text with lone surrogates, which UTF-8 cannot carry, escaped."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode(errors="backslashreplace").decode()
    return value


def _integer(value: int) -> int | str:
    """A long integer, in hexadecimal text where the interpreter refuses its digits."""
    try:
        str(value)
    except ValueError:
        return _cut(hex(value))
    return value


def _not_finite(value: float) -> str:
    if isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return "NaN"


def _in_order(values: Any) -> Any:
    """What was a set, in an order that does not change from answer to answer."""
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=repr)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_REPR else f"{text[:MAX_REPR]}..."


def _bytes(value: bytes | bytearray | memoryview) -> str:
    return bytes(value).decode(errors="backslashreplace")


def _as_rest_framework(value: Any) -> Any:
    try:
        encoded = _encode(value)
    except ValueError:  # A time with a zone, a signalling NaN.
        return str(value)
    # Decimals are written as floats; one that is too large for it stays exact.
    exceeds = type(encoded) is float and isinf(encoded) and value.is_finite()
    return str(value) if exceeds else encoded


_PLAIN: tuple[tuple[tuple[type, ...], Callable[[Any], Any]], ...] = (
    ((str,), str.__str__),
    ((int,), int.__index__),
    ((float,), float.__float__),
    ((bytes, bytearray, memoryview), _bytes),
    ((Mapping,), dict),
    ((list, tuple, deque, Set), list),
    ((date, time, timedelta, Decimal, UUID, Promise), _as_rest_framework),
)
