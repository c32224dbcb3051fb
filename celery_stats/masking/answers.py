"""What is masked before an answer leaves, and how it becomes valid JSON: one walk does both.

Nothing here relies on the workers: older versions of Celery send in clear what newer ones mask,
and a reply may hold anything that kombu's extended JSON, YAML or pickle can carry. REST
framework's renderer raises on some of it, and the whole answer would be lost.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from datetime import date, time, timedelta
from decimal import Decimal
from functools import partial
from itertools import count
from math import isfinite
from typing import Any
from urllib.parse import quote, unquote
from uuid import UUID

from django.conf import settings
from django.utils.functional import Promise
from django.views.debug import SafeExceptionReporterFilter, get_default_exception_reporter_filter
from rest_framework.utils.encoders import JSONEncoder

from celery_stats.shapes import FIELDS_WITH_TASKS

from .names import is_secret_name
from .text import TextMasker, is_credential

#: Levels of lists and objects inside each other that are passed on (parsers have limits, and
#: Python's writer recurses), and lists and objects of one answer (100 000 tasks have as many).
MAX_LEVELS, MAX_CONTAINERS = 100, 500_000
#: Characters of an object's ``repr`` that are passed on, and of a name that are looked at.
MAX_REPR, MAX_SECRET_NAME = 1000, 100
#: In place of a list or an object that is not passed on.
CUT = "<cut: too deep, too many, or inside of itself>"

Members = dict[Any, Callable[[Any, int], Any]]

# The members of an object that is a pair: {"name": "DB_PASSWORD", "value": "secret"}.
_PAIR_NAMES, _PAIR_VALUES = {"name", "Name", "key", "Key"}, {"value", "Value"}
# The password of a broker URL, or the user if there is none. kombu accepts more than the standard
# for URLs does: a key with slashes, or no scheme. Without it and a colon, it is an e-mail address.
_BROKER_URL = re.compile(r"(?s)^([^:@]*://(?:[^:@]*:)?|[^:@]*:(?!//))(?!:?\**@)(.*)@")
# Python refuses to write integers of more digits than it is set to: at least 640, which is more.
_LONG = 1 << 2048


def mask(
    answers: Mapping[str, Any], *, redact: bool, hide_arguments: bool
) -> dict[str, dict[str, Any] | None]:
    """Return a snapshot's answers as JSON, without what its readers should not see.

    Args:
        answers: field to worker to reply, as it was decoded. It is not modified, but the result
            shares the parts that need no change.
        redact: whether to mask credentials, in brokers and in the arguments of tasks.
        hide_arguments: whether to mask the ``args`` and ``kwargs`` of every task whole, without
            a search in them. It is also for callers that do not show arguments.
    """
    masker = _masker()
    outside, in_tasks, in_others = Walk(), Members(), Members()
    if redact:
        # Outside of arguments and brokers, all credentials are in URLs, which have a colon.
        outside = Walk(masker.mask_text, ":")
        inside = replace(outside, looks_for="", by_name=masker, known_keys=set())
        broker = replace(inside, mask=partial(_mask_broker_url, masker), known_keys=set())
        in_tasks = dict.fromkeys(("args", "kwargs", "error"), inside.convert)
        in_others = {"broker": broker.convert, "error": inside.convert}
    if hide_arguments:
        in_tasks |= dict.fromkeys(("args", "kwargs"), lambda *_: masker.substitute)
    tasks, others = replace(outside, members=in_tasks), replace(outside, members=in_others)
    masked = {}
    for name, replies in answers.items():
        walk = tasks if name in FIELDS_WITH_TASKS else others
        # The names of workers are no names of members, whatever they are.
        workers = None if replies is None else walk.keys(dict(replies))
        masked[name] = workers and {key: walk.convert(workers[key], level=3) for key in workers}
    return masked


def jsonsafe(value: Any) -> Any:
    """Return any value as JSON has it; what is JSON already is returned as the same object.

    Keys that become the same text are numbered (``"1"``, ``"1 (2)"``).
    """
    return Walk().convert(value)


def safe_error(exc: BaseException, urls: Iterable[str] = ()) -> str:
    """Return ``Type: message`` of an exception, fit for a log.

    Args:
        exc: its message may quote a broker URL, or a password alone.
        urls: the broker URLs in use. One string may hold several, joined by ``;``.
    """
    masker, text = _masker(), f"{type(exc).__name__}: {exc}"
    found = {secret for url in ";".join(urls).split(";") for _, secret in _BROKER_URL.findall(url)}
    clear = found | set(map(unquote, found))
    secrets = clear | {quote(secret, safe="") for secret in clear} | {repr(s)[1:-1] for s in clear}
    for secret in sorted(secrets, key=len, reverse=True):  # One may contain another.
        text = text.replace(secret, masker.substitute)
    return masker.mask_text(text)


@dataclass
class Walk:
    """One way through a value, to all that is in it.

    Attributes:
        mask: what becomes of text; it returns the same object if nothing changes.
        looks_for: ASCII text without this is not masked. The empty text masks all of it, and the
            default, which is not ASCII, none.
        by_name: decides about the names of keys; None where none is secret.
        members: key to the function that converts the value under it, at its level.
        path: the ids of the containers around the current value. Depth alone would not do: a list
            that holds itself twice takes 2**100 steps to the hundredth level.
        known_keys: keys that need no change. Few names make up all the keys of an answer.
    """

    mask: Callable[[str], str] = str
    looks_for: str = "\x80"
    by_name: TextMasker | None = None
    members: Members = field(default_factory=Members)
    path: set[int] = field(default_factory=set)
    numbers: Iterator[int] = field(default_factory=lambda: count(1))
    known_keys: set[str] = field(default_factory=set)

    def convert(self, value: Any, level: int = 1) -> Any:
        """Convert a value that, if it is a container, stands at ``level``."""
        kind = type(value)
        if kind is dict or kind is list:
            return self._container(value, level, id(value))
        if kind is str:
            if value.isascii():
                return self.mask(value) if self.looks_for in value else value
            text = value.encode(errors="backslashreplace").decode()  # Lone surrogates are escaped.
            return self.mask(value if text == value else text)
        if kind is int:
            return value if -_LONG < value < _LONG else hex(value)[:MAX_REPR]
        if value is None or kind is bool:
            return value
        if kind is float:
            return value if isfinite(value) else json.dumps(value)  # "NaN", "Infinity"
        plain = _plain(value)
        if type(plain) is not dict and type(plain) is not list:
            return self.convert(plain)
        members = self._container(plain, level, id(value))
        if issubclass(kind, Set) and type(members) is list:
            members.sort(key=repr)  # The same order in each answer.
        return members

    def _container(self, value: Any, level: int, identity: int) -> Any:
        """Convert a dict or a list. ``identity`` is the id of what it was made from, or its own.

        It handles the commonest kinds of values itself: a call for every value would take as long
        as decoding and writing the whole answer, see ``benchmarks/conversion.py``.
        """
        if level > MAX_LEVELS or identity in self.path or next(self.numbers) > MAX_CONTAINERS:
            return CUT
        if type(value) is dict and not self.known_keys.issuperset(value):
            value = self.keys(value)
        result, looks_for, members = value, self.looks_for, self.members
        self.path.add(identity)
        for key, item in value.items() if type(value) is dict else enumerate(value):
            kind = type(item)
            if key in members:
                converted = members[key](item, level + 1)
            elif item is None or kind is bool or (kind is int and -_LONG < item < _LONG):
                continue
            elif kind is dict or kind is list:
                converted = self._container(item, level + 1, id(item))
            elif kind is not str or not item.isascii() or looks_for in item:
                converted = self.convert(item, level + 1)
            else:
                continue
            if converted is not item:
                result = value.copy() if result is value else result
                result[key] = converted
        self.path.remove(identity)
        return self._pairs(result)

    def keys(self, value: dict[Any, Any]) -> dict[str, Any]:
        """Return the same under keys that are text, with what is under secret ones masked."""
        names = [self._key(key) for key in value]
        taken = {name for name, key in zip(names, value, strict=True) if name is key}
        self.known_keys |= taken
        named, numbers = value, count(2)
        if len(taken) < len(value):
            named = {}
            for name, (key, item) in zip(names, value.items(), strict=True):
                unique = name
                while name is not key and unique in taken:
                    unique = f"{name} ({next(numbers)})"
                taken.add(unique)
                named[unique] = item
        if self.by_name is None:
            return named
        is_secret = self.by_name.is_secret
        secret = {name for name in named if is_secret(name)}
        # Whether an object is a pair depends on its values, so it is looked at each time.
        self.known_keys -= secret | _PAIR_VALUES
        if values := _PAIR_VALUES & named.keys():
            pair_names = [named[name] for name in _PAIR_NAMES & named.keys()]
            if any(type(name) is str and is_secret(name) for name in pair_names):
                secret |= values
        hidden = [name for name in secret if is_credential(named[name])]
        return {**named, **dict.fromkeys(hidden, self.by_name.substitute)} if hidden else named

    def _key(self, key: Any) -> str:
        """Return a key as Python's writer has it, or as text where that would refuse it."""
        plain = key if type(key) is str else Walk(path=self.path).convert(key)
        if type(plain) is list or type(plain) is dict:
            plain = _repr(key)
        text: str = self.convert(plain if type(plain) is str else json.dumps(plain))
        return text

    def _pairs(self, items: Any) -> Any:
        """Mask the pairs in a list: [["Authorization", "secret"]], ["--password", "secret"]."""
        if self.by_name is None or type(items) is not list:
            return items
        is_secret, substitute = self.by_name.is_secret, self.by_name.substitute
        masked: dict[int, Any] = {}
        for index, item in enumerate(items):
            if type(item) is list and len(item) == 2 and type(item[0]) is str:
                if "=" not in item[0] and is_secret(item[0]) and is_credential(item[1]):
                    masked[index] = [item[0], substitute]
            elif type(item) is str and item[:1] == "-" and "=" not in item and is_secret(item):
                value = items[index + 1] if index + 1 < len(items) else None
                if is_credential(value) and str(value)[:1] != "-":
                    masked[index + 1] = substitute
        return [masked.get(index, item) for index, item in enumerate(items)] if masked else items


def _repr(value: Any) -> str:
    try:
        return repr(value)[:MAX_REPR]
    except Exception:  # noqa: BLE001 - the object's own code may raise anything
        return f"<unprintable {type(value).__name__}>"


def _plain(value: Any) -> Any:
    """Return a value as one of the exact types that ``Walk.convert`` knows."""
    kind = type(value)  # Not isinstance(): a proxy tells a class that it is not of.
    try:
        return next(plain(value) for bases, plain in _PLAIN if issubclass(kind, bases))
    except Exception:  # noqa: BLE001 - also StopIteration; a mapping or zone may raise anything
        return _repr(value)


_PLAIN: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int.__index__),
    (float, float.__float__),
    ((bytes, bytearray, memoryview), lambda value: bytes(value).decode(errors="backslashreplace")),
    (Mapping, dict),
    ((list, tuple, deque, Set), list),
    (Decimal, lambda value: float(value) if value.adjusted() < 308 else str(value)),
    (time, str),  # REST framework refuses one with a zone.
    ((date, timedelta, UUID, Promise), JSONEncoder().default),
)


def _masker() -> TextMasker:
    """Return what masks one answer.

    A project's ``DEFAULT_EXCEPTION_REPORTER_FILTER`` decides about names as it does on Django's
    error pages, if it changes which names are secret. It need not be a subclass of Django's.
    """
    stock: Any = SafeExceptionReporterFilter
    project: Any = get_default_exception_reporter_filter()
    is_changed = hasattr(project, "cleanse_setting") and (
        type(project).cleanse_setting is not stock.cleanse_setting
        or project.hidden_settings is not stock.hidden_settings
    )

    def is_secret(name: str) -> bool:
        name = name[:MAX_SECRET_NAME]
        if is_changed:
            return bool(project.cleanse_setting(name, "text") != "text")
        return is_secret_name(name) or name == settings.SESSION_COOKIE_NAME

    substitute = getattr(project, "cleansed_substitute", stock.cleansed_substitute)
    return TextMasker(is_secret, str(substitute))


def _mask_broker_url(masker: TextMasker, text: str) -> str:
    """Return broker URLs without their passwords; one text may hold several, joined by ``;``."""
    urls = text.split(";")
    masked = [_BROKER_URL.sub(lambda url: f"{url[1]}{masker.substitute}@", url) for url in urls]
    return masker.mask_text(";".join(masked))
