"""Makes valid JSON of whatever a worker sends.

Workers answer in the serializer of their app, so a reply may hold anything that kombu's extended
JSON, YAML or pickle can carry. REST framework's renderer raises on some of it (bytes that are not
UTF-8, NaN, lone surrogates, keys that are tuples), and the whole answer would be lost.
"""

from __future__ import annotations

import json
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

#: Levels of lists and objects inside each other that are passed on, because parsers have limits
#: of their own, and Python's writer recurses.
MAX_LEVELS = 100
#: Characters of an object's ``repr`` that are passed on.
MAX_REPR = 1000

CYCLIC = "<cut: cyclic>"
TOO_DEEP = f"<cut: deeper than {MAX_LEVELS} levels>"

# Integers up to this are written without a test. The interpreter's limit on the digits of an
# integer is at least 640, which is more:
# https://docs.python.org/3/library/stdtypes.html#int-max-str-digits
_LONG = 1 << 2048

_encode = JSONEncoder().default


def jsonsafe(value: Any) -> Any:
    """Return any value as None, bool, int, finite float, str, list or dict with keys of text.

    What is JSON already is returned as it is, the same object: that keeps an answer of 10 000
    tasks cheap. So converting twice changes nothing. Keys that become the same text are numbered
    (``"1"``, ``"1 (2)"``), so that nothing is lost. The value is not modified, and may share
    parts with the result.
    """
    return Converter().convert(value)


class Converter:
    """One conversion. Subclasses change what becomes of text, keys and containers on the way.

    ``container`` handles the commonest kinds of values itself: a call for every value would take
    as long as decoding and writing the whole answer, see ``benchmarks/conversion.py``.
    """

    #: ASCII text without this is passed on without a call of ``text``. ASCII text never holds
    #: the default, and always holds the empty text.
    looks_for = "\x80"

    def __init__(
        self, *, inside: Mapping[str, Converter] | None = None, path: set[int] | None = None
    ) -> None:
        """
        Args:
            inside: key to the converter of the lists and objects under that key.
            path: ids of the containers around the current value, shared by all converters of one
                conversion. Depth alone would not do: a list that holds itself twice takes 2**100
                steps to the hundredth level.
        """
        self._inside: Mapping[Any, Converter] = inside or {}
        self._path = set() if path is None else path
        #: Keys that need no change. Few names make up all the keys of an answer.
        self._known_keys: set[str] = set()

    def text(self, value: str) -> str:
        """Convert a text; see ``looks_for``."""
        return _utf8(value)

    def other(self, value: object) -> str:
        """Write an object that JSON has no kind for: the first characters of its ``repr``."""
        try:
            return _first_characters(repr(value))
        except Exception:  # noqa: BLE001 - the object's own code may raise anything
            return f"<unprintable {type(value).__name__}>"

    def keys(self, value: dict[Any, Any]) -> dict[str, Any]:
        """Return the same under keys that are text; those that are text keep their names."""
        names = [self._key(key) for key in value]
        taken = {name for name, key in zip(names, value, strict=True) if name is key}
        self._known_keys |= taken
        if len(taken) == len(value):
            return value
        numbers = count(2)
        result = {}
        for name, (key, item) in zip(names, value.items(), strict=True):
            unique = name
            while name is not key and unique in taken:
                unique = f"{name} ({next(numbers)})"
            taken.add(unique)
            result[unique] = item
        return result

    def convert(self, value: Any, level: int = 1) -> Any:
        """Convert a value that, if it is a container, stands at ``level``."""
        kind = type(value)
        if kind is dict or kind is list:
            return self.container(value, level, id(value))
        if kind is str:
            return self.text(value)
        if kind is int:
            return _integer(value)
        if value is None or kind is bool:
            return value
        if kind is float:
            return value if isfinite(value) else json.dumps(value)  # "NaN", "Infinity"

        plain = self._plain(value)
        if type(plain) is not dict and type(plain) is not list:
            return self.convert(plain)
        members = self.container(plain, level, id(value))
        return _in_order(members) if issubclass(kind, Set) and type(members) is list else members

    def container(self, value: Any, level: int, identity: int) -> Any:
        """Convert a dict or a list with all that is in it; to a text if it is cyclic or too deep.

        Args:
            level: how many containers there are from the outermost to this one.
            identity: the id of what the container was made from, or of the container itself.
        """
        if level > MAX_LEVELS:
            return TOO_DEEP
        if identity in self._path:
            return CYCLIC
        if type(value) is dict and not self._known_keys.issuperset(value):
            value = self.keys(value)
        pairs = value.items() if type(value) is dict else enumerate(value)
        result = value
        looks_for = self.looks_for
        self._path.add(identity)
        for key, item in pairs:
            kind = type(item)
            if kind is str:
                if item.isascii() and looks_for not in item:
                    continue
                converted = self.text(item)
            elif item is None or kind is bool or (kind is int and -_LONG < item < _LONG):
                continue
            else:
                inside = self._inside.get(key, self)
                if kind is dict or kind is list:
                    converted = inside.container(item, level + 1, id(item))
                else:
                    converted = inside.convert(item, level + 1)
            if converted is not item:
                if result is value:
                    result = value.copy()
                result[key] = converted
        self._path.remove(identity)
        return result

    def _key(self, key: Any) -> str:
        """Return a key as Python's writer has it, or as text where that would refuse it."""
        if type(key) is str:
            return _utf8(key)
        plain = Converter(path=self._path).convert(key)
        if type(plain) is list or type(plain) is dict:
            plain = _utf8(self.other(key))
        return plain if type(plain) is str else json.dumps(plain)

    def _plain(self, value: Any) -> Any:
        """Return the value as one of the exact types that ``convert`` knows."""
        kind = type(value)  # Not isinstance(): a proxy tells a class that it is not of.
        try:
            for bases, plain in _PLAIN:
                if issubclass(kind, bases):
                    return plain(value)
        except Exception:  # noqa: BLE001 - the code of a mapping or a time zone may raise anything
            return self.other(value)
        return self.other(value)


def _utf8(value: str) -> str:
    """Return a text with its lone surrogates escaped, because UTF-8 cannot carry them."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode(errors="backslashreplace").decode()
    return value


def _integer(value: int) -> int | str:
    """Return a long integer, as hexadecimal text where the interpreter refuses its digits."""
    try:
        str(value)
    except ValueError:
        return _first_characters(hex(value))
    return value


def _in_order(values: Any) -> Any:
    """Return the values of a set in an order that does not change from answer to answer."""
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=repr)


def _first_characters(text: str) -> str:
    return text if len(text) <= MAX_REPR else f"{text[:MAX_REPR]}..."


def _as_rest_framework(value: Any) -> Any:
    try:
        encoded = _encode(value)
    except ValueError:  # A time with a zone, or a signalling NaN.
        return str(value)
    # Decimals are written as floats. One that is too large for a float stays exact, as text.
    exceeds = type(encoded) is float and isinf(encoded) and value.is_finite()
    return str(value) if exceeds else encoded


_PLAIN: tuple[tuple[tuple[type, ...], Callable[[Any], Any]], ...] = (
    ((str,), str.__str__),
    ((int,), int.__index__),
    ((float,), float.__float__),
    ((bytes, bytearray, memoryview), lambda value: bytes(value).decode(errors="backslashreplace")),
    ((Mapping,), dict),
    ((list, tuple, deque, Set), list),
    ((date, time, timedelta, Decimal, UUID, Promise), _as_rest_framework),
)
