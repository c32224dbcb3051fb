"""What is masked before an answer leaves.

Where a project sets ``DEFAULT_EXCEPTION_REPORTER_FILTER``, that decides about names here as it
does on error pages. Workers of several Celery versions can share a broker, and the older send
in clear what the newer mask, so nothing here relies on the sender.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

from django.conf import settings
from django.views.debug import SafeExceptionReporterFilter, get_default_exception_reporter_filter

from .credentials import Finder, is_secret_name
from .jsonsafe import Converter, jsonsafe

# The names under which lists of objects hold pairs: [{"name": "DB_PASSWORD", "value": "x"}].
_PAIR_NAMES = ("name", "Name", "key", "Key")
_PAIR_VALUES = frozenset(("value", "Value"))

_PARAMETER = re.compile(r"(?<=[?&;])([^\s=&;#?]{1,100})=([^\s&;#]+)")

# What a repr of a dict begins with; Celery cuts long ones at the end.
_DICT_REPR = re.compile(r"\{(?:\}$|[b'\"\d(.])|\.\.\.$")

#: Names, and texts, whose verdict is remembered within one answer; and the length of such a text.
MAX_REMEMBERED = 1000

_TASK_FIELDS = ("active", "scheduled", "reserved", "query_task")


def mask(
    answers: Mapping[str, Mapping[str, Any] | None],
    *,
    redact: bool = True,
    hide_arguments: bool = False,
) -> dict[str, dict[str, Any] | None]:
    """A snapshot's answers as JSON, without what its readers should not see.

    Args:
        answers: Field -> worker -> reply, as decoded from the wire. Not modified, but
            the result shares the parts that need no change.
        redact: Mask credentials, in brokers and in the arguments of tasks.
        hide_arguments: Mask the ``args`` and ``kwargs`` of every task whole.
    """
    cleanser = _Cleanser()
    masked: dict[str, Any] = _redact(answers, cleanser) if redact else jsonsafe(answers)
    if hide_arguments:
        for field in masked.keys() & set(_TASK_FIELDS):
            hidden = {
                worker: _hide(reply, cleanser.substitute)
                for worker, reply in (masked[field] or {}).items()
            }
            masked = {**masked, field: hidden or masked[field]}
    return masked


def safe_error(exc: BaseException, urls: Iterable[str] = ()) -> str:
    """``Type: message`` of an exception, fit for a log.

    Args:
        exc: Its message may quote a broker URL, or a password alone.
        urls: The broker URLs in use; one string may hold several, joined by ``;``.
    """
    cleanser = _Cleanser()
    text = f"{type(exc).__name__}: {exc}"
    secrets = {secret for url in urls for secret in cleanser.secrets_in(url)}
    for secret in sorted(secrets, key=len, reverse=True):  # One may contain another.
        text = text.replace(secret, cleanser.substitute)
    return cleanser.text(text)


def _redact(answers: Any, cleanser: _Cleanser) -> Any:
    path: set[int] = set()
    arguments = _ByName(cleanser, path=path)
    tasks = _Parts(
        cleanser, path=path, inside={"args": arguments, "kwargs": arguments, "error": arguments}
    )
    stats = _Parts(
        cleanser, path=path, inside={"broker": _Broker(cleanser, path=path), "error": arguments}
    )
    fields = {**dict.fromkeys(_TASK_FIELDS, tasks), "revoked": stats, "stats": stats}
    return _Redacting(cleanser, path=path, inside=fields).convert(answers)


def _hide(value: Any, substitute: str) -> Any:
    """Mask the arguments of the tasks in some JSON, however a command wraps tasks."""
    if type(value) is list:
        return [_hide(item, substitute) for item in value]
    if type(value) is not dict:
        return value
    if hidden := value.keys() & {"args", "kwargs"}:
        return {**value, **dict.fromkeys(hidden, substitute)}
    return {key: _hide(item, substitute) for key, item in value.items()}


class _Redacting(Converter):
    """Masks the credentials in text that has a colon, as URLs do."""

    def __init__(self, cleanser: _Cleanser, **options: Any) -> None:
        super().__init__(**options)
        self.cleanser = cleanser

    def text(self, value: str) -> str:
        return self.cleanser.text(value if value.isascii() else super().text(value))

    def other(self, value: object) -> str:
        return self.cleanser.text(super().other(value))


class _ByName(_Redacting):
    """Masks what stands under names that look secret, and the credentials in any text."""

    every_text = True

    def keys(self, value: dict[Any, Any]) -> dict[str, Any]:
        named = super().keys(value)
        # Whether this is a pair depends on the values: it is looked at each time.
        self._known_keys -= _PAIR_VALUES
        if self.cleanser.by_value:
            return named
        secret = {name for name in named if self.cleanser.is_secret(name)}
        self._known_keys -= secret
        if not _PAIR_VALUES.isdisjoint(named):
            pair_names = [named[name] for name in _PAIR_NAMES if type(named.get(name)) is str]
            if any(map(self.cleanser.is_secret, pair_names)):
                # The name of what is masked may stay.
                secret = (secret - set(_PAIR_NAMES)) | (_PAIR_VALUES & named.keys())
        # "credential_provider": null tells that there is none.
        hidden = [name for name in secret if named[name] is not None]
        return {**named, **dict.fromkeys(hidden, self.cleanser.substitute)} if hidden else named

    def sequence(self, value: list[Any], level: int, identity: int) -> Any:
        result = super().sequence(value, level, identity)
        if type(result) is not list or self.cleanser.by_value:
            return result
        masked: dict[int, Any] = {}
        for index, item in enumerate(result):
            kind = type(item)
            if kind is list:
                if len(item) == 2 and self._is_secret_pair(*item):
                    masked[index] = [item[0], self.cleanser.substitute]
            elif kind is str and item[:1] == "-" and index + 1 < len(result):
                # ["--password", "x"]: the arguments of a program.
                following = result[index + 1]
                if self._is_secret_pair(item, following) and str(following)[:1] != "-":
                    masked[index + 1] = self.cleanser.substitute
        if not masked:
            return result
        return [masked.get(index, item) for index, item in enumerate(result)]

    def _key(self, key: Any) -> str:
        return self.cleanser.text(super()._key(key))

    def _is_secret_pair(self, name: Any, value: Any) -> bool:
        if type(name) is not str or value is None or "=" in name:  # --name=value is whole.
            return False
        return self.cleanser.is_secret(name)


class _Broker(_ByName):
    """Masks what kombu takes for a URL, too: without a scheme, and with any password."""

    def text(self, value: str) -> str:
        return self.cleanser.broker_url(Converter.text(self, value))


class _Parts(_Redacting):
    """Masks parts of an object that are text, where ``inside`` sees lists and objects."""

    def mapping(self, value: dict[Any, Any], level: int, identity: int) -> Any:
        # Calls the base class directly: super() is measurably slower here, because this runs
        # three times for each task.
        result = Converter.mapping(self, value, level, identity)
        if type(result) is dict:
            for name in self._inside:
                if name in result:
                    part = result[name]
                    masked = self.cleanser.part(name, part)
                    if masked is not part:
                        result = {**result, name: masked}
        return result


class _Cleanser:
    """What the project's filter has to say about names, or this package where there is none."""

    def __init__(self) -> None:
        stock = SafeExceptionReporterFilter
        project: Any = get_default_exception_reporter_filter()
        if not hasattr(project, "cleanse_setting"):  # It need not be Django's subclass.
            project = stock()
        self._cleanse_setting = project.cleanse_setting
        self._is_stock = type(project) is stock
        # Django's own goes by the name alone, whatever pattern a project gives it, so a
        # verdict holds for all values of a name. A project that overrides the method may
        # go by the value too: it is shown every value, which takes longer.
        self.by_value = type(project).cleanse_setting is not stock.cleanse_setting
        self._verdicts: dict[str, bool] = {}
        self.substitute = str(getattr(project, "cleansed_substitute", stock.cleansed_substitute))
        self._finder = Finder(self.is_secret, self.substitute, by_stem=self._is_stock)
        self._harmless: set[str] = set()

    def text(self, value: str) -> str:
        """Mask the credentials in any text."""
        if value in self._harmless:  # Tasks share most of their arguments.
            return value
        masked = self._finder.mask(value)
        if masked == value and len(self._harmless) < MAX_REMEMBERED > len(value):
            self._harmless.add(value)
        return masked

    def is_secret(self, name: str) -> bool:
        """Whether a text under this name is masked."""
        verdict = self._verdicts.get(name)
        if verdict is None:
            if self._is_stock:
                verdict = is_secret_name(name) or name == settings.SESSION_COOKIE_NAME
            else:
                asked = "text"
                verdict = bool(self._cleanse_setting(name, asked) != asked)
            if len(self._verdicts) < MAX_REMEMBERED:
                self._verdicts[name] = verdict
        return verdict

    def part(self, name: str, value: Any) -> Any:
        """Mask the arguments of a task, the broker of a worker or an error where it is text."""
        if value is None:
            return None
        if not self._is_stock and self.is_secret(name):
            return self.substitute
        if type(value) is str:
            # Celery's repr of keyword arguments. What is none cannot be read safely.
            if name == "kwargs" and value and (self.by_value or not _DICT_REPR.match(value)):
                return self.substitute
            value = self.broker_url(value) if name == "broker" else self.text(value)
        return jsonsafe(self._cleanse_setting(name, value)) if self.by_value else value

    def broker_url(self, text: str) -> str:
        """Mask the credentials in broker URLs; one string may hold several, joined by ``;``.

        kombu takes more than the standard does: a key with slashes, no scheme.
        """
        urls = []
        for url in text.split(";"):
            before, userinfo, after = _split(url)
            urls.append(f"{before}{self._finder.userinfo(userinfo)}{after}")
        return self.text(";".join(urls))

    def secrets_in(self, urls: str) -> Iterator[str]:
        """The credentials in broker URLs, in each way that they may be written."""
        for url in urls.split(";"):
            user, colon, password = _split(url)[1].partition(":")
            parameters = _PARAMETER.findall(url)
            secrets = [value for name, value in parameters if self.is_secret(name)]
            for secret in filter(None, [password if colon else user, *secrets]):
                clear = unquote(secret)
                yield from (secret, clear, quote(clear, safe=""), repr(clear)[1:-1])


def _split(url: str) -> tuple[str, str, str]:
    """A broker URL as what stands before its user and password, these, and the rest."""
    head, at, rest = url.rpartition("@")
    scheme, separator, userinfo = head.partition("://")
    if not separator:
        scheme, userinfo = "", head
    if not separator and ":" not in userinfo:  # me@example.org, say.
        return url, "", ""
    return f"{scheme}{separator}", userinfo, f"{at}{rest}"
