"""What is masked before an answer leaves.

Where a project sets ``DEFAULT_EXCEPTION_REPORTER_FILTER``, that filter decides about names here
as it does on Django's error pages. Nothing here relies on the workers to mask anything, because
workers of several Celery versions can share a broker, and the older ones send in clear what the
newer ones mask.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote

from django.conf import settings
from django.views.debug import SafeExceptionReporterFilter, get_default_exception_reporter_filter

from .jsonsafe import Converter, jsonsafe
from .names import is_secret_name
from .text import MAX_REMEMBERED, TextMasker

#: Fields of an answer whose replies hold tasks.
FIELDS_WITH_TASKS = {"active", "scheduled", "reserved", "query_task"}

# The members of an object that is a pair: {"name": "DB_PASSWORD", "value": "secret"}.
_PAIR_NAMES = ("name", "Name", "key", "Key")
_PAIR_VALUES = frozenset(("value", "Value"))

# A parameter of a broker URL: redis://host/0?password=secret.
_PARAMETER = re.compile(r"(?<=[?&;])([^\s=&;#?]{1,100})=([^\s&;#]+)")

# What the repr of a dict begins with: {'a': 1}, {} or "...", as Celery cuts long ones.
_DICT_REPR = re.compile(r"\{(?:\}$|[b'\"\d(.])|\.\.\.$")


def mask(
    answers: Mapping[str, Mapping[str, Any] | None],
    *,
    redact: bool = True,
    hide_arguments: bool = False,
) -> dict[str, dict[str, Any] | None]:
    """Return a snapshot's answers as JSON, without what its readers should not see.

    Args:
        answers: field to worker to reply, as it was decoded. It is not modified, but the result
            shares the parts that need no change.
        redact: whether to mask credentials, in brokers and in the arguments of tasks.
        hide_arguments: whether to mask the ``args`` and ``kwargs`` of every task whole.
    """
    rules = _Rules()
    masked = _mask_credentials(answers, rules) if redact else dict(jsonsafe(answers))
    if hide_arguments:
        for field in masked.keys() & FIELDS_WITH_TASKS:
            masked[field] = masked[field] and {
                worker: _hide_arguments(reply, rules.substitute)
                for worker, reply in masked[field].items()
            }
    return masked


def safe_error(exc: BaseException, urls: Iterable[str] = ()) -> str:
    """Return ``Type: message`` of an exception, fit for a log.

    Args:
        exc: its message may quote a broker URL, or a password alone.
        urls: the broker URLs in use. One string may hold several, joined by ``;``.
    """
    rules = _Rules()
    text = f"{type(exc).__name__}: {exc}"
    secrets = {secret for url in urls for secret in rules.secrets_in(url)}
    for secret in sorted(secrets, key=len, reverse=True):  # One may contain another.
        text = text.replace(secret, rules.substitute)
    return rules.mask_text(text)


def _hide_arguments(value: Any, substitute: str) -> Any:
    """Mask ``args`` and ``kwargs`` in each task of a worker's reply.

    A dict with one of these keys is a task, however deep it stands, and is not searched further.
    """
    if type(value) is list:
        return [_hide_arguments(item, substitute) for item in value]
    if type(value) is not dict:
        return value
    if hidden := value.keys() & {"args", "kwargs"}:
        return {**value, **dict.fromkeys(hidden, substitute)}
    return {key: _hide_arguments(item, substitute) for key, item in value.items()}


def _mask_credentials(answers: Mapping[str, Any], rules: _Rules) -> dict[str, Any]:
    """Return the answers as JSON, with the credentials in them masked."""
    path: set[int] = set()
    arguments = _ArgumentConverter(rules, path)
    broker = _BrokerConverter(rules, path)
    tasks = _MaskingConverter(rules, path, dict.fromkeys(("args", "kwargs", "error"), arguments))
    statistics = _MaskingConverter(rules, path, {"broker": broker, "error": arguments})
    return {
        field: (tasks if field in FIELDS_WITH_TASKS else statistics).convert(workers, level=2)
        for field, workers in answers.items()
    }


class _MaskingConverter(Converter):
    """Masks the credentials in text that has a colon, and the members named in ``inside``.

    Outside of these members there are ids, names of tasks and queues, times and numbers. The only
    credentials among them are those in URLs, and every URL has a colon.

    The converters in ``inside`` get members that are lists and objects. This one masks members
    that are text: the arguments of a task can be reprs, and an error is one sentence.
    """

    looks_for = ":"

    def __init__(
        self, rules: _Rules, path: set[int], inside: Mapping[str, Converter] | None = None
    ) -> None:
        super().__init__(inside=inside, path=path)
        self.rules = rules
        self._harmless = rules.harmless

    def text(self, value: str) -> str:
        if value in self._harmless:  # Tasks share most of their arguments.
            return value
        return self.rules.mask_text(Converter.text(self, value))

    def other(self, value: object) -> str:
        return self.rules.mask_text(super().other(value))

    def container(self, value: Any, level: int, identity: int) -> Any:
        # Calls the base class directly, because super() is measurably slower here: this runs
        # three times for each task.
        result = Converter.container(self, value, level, identity)
        if type(result) is dict:
            for name in self._inside:
                if (member := result.get(name)) is not None:
                    masked = self.rules.mask_member(name, member)
                    if masked is not member:
                        result = {**result, name: masked}
        return result


class _ArgumentConverter(_MaskingConverter):
    """Masks what stands under secret names, and the credentials in any text."""

    looks_for = ""

    def keys(self, value: dict[Any, Any]) -> dict[str, Any]:
        named = super().keys(value)
        if self.rules.filter_sees_values:
            return named
        secret = {name for name in named if self.rules.is_secret(name)}
        # Whether an object is a pair depends on its values, so it is looked at each time.
        self._known_keys -= secret | _PAIR_VALUES
        if pair_values := _PAIR_VALUES & named.keys():
            pair_names = [text for name in _PAIR_NAMES if type(text := named.get(name)) is str]
            if any(map(self.rules.is_secret, pair_names)):
                # The name of what is masked may stay, though "key" is a secret name.
                secret = (secret - set(_PAIR_NAMES)) | pair_values
        # "credential_provider": null tells that there is none.
        hidden = [name for name in secret if named[name] is not None]
        return {**named, **dict.fromkeys(hidden, self.rules.substitute)} if hidden else named

    def container(self, value: Any, level: int, identity: int) -> Any:
        result = Converter.container(self, value, level, identity)  # As above.
        if type(result) is not list or self.rules.filter_sees_values:
            return result
        masked: dict[int, Any] = {}
        for index, item in enumerate(result):
            kind = type(item)
            if kind is list:
                # [["Authorization", "secret"]]: a list of pairs.
                if len(item) == 2 and self._is_secret_pair(*item):
                    masked[index] = [item[0], self.rules.substitute]
            elif kind is str and item[:1] == "-" and index + 1 < len(result):
                # ["--password", "secret"]: the arguments of a program.
                following = result[index + 1]
                if self._is_secret_pair(item, following) and str(following)[:1] != "-":
                    masked[index + 1] = self.rules.substitute
        return [masked.get(index, item) for index, item in enumerate(result)] if masked else result

    def _key(self, key: Any) -> str:
        return self.rules.mask_text(super()._key(key))

    def _is_secret_pair(self, name: Any, value: Any) -> bool:
        # "--password=secret" holds both, and has been masked as a text.
        is_pair = type(name) is str and value is not None and "=" not in name
        return is_pair and self.rules.is_secret(name)


class _BrokerConverter(_ArgumentConverter):
    """Masks all texts as broker URLs, which kombu reads with any password and without a scheme."""

    def text(self, value: str) -> str:
        return self.rules.mask_broker_url(Converter.text(self, value))


class _Rules(TextMasker):
    """How one answer is masked: by the project's filter, or by this package where there is none.

    Attributes:
        filter_sees_values: whether the project's filter is given every value, because it may
            decide by the value. Django's own filter decides by the name alone.
    """

    def __init__(self) -> None:
        stock = SafeExceptionReporterFilter
        project: Any = get_default_exception_reporter_filter()
        if not hasattr(project, "cleanse_setting"):  # It need not be a subclass of Django's.
            project = stock()
        self._cleanse_setting = project.cleanse_setting
        self._is_stock = type(project) is stock
        # A filter that overrides this method may go by the value. One that only replaces Django's
        # pattern of names does not, and one verdict holds for all values of a name.
        self.filter_sees_values = type(project).cleanse_setting is not stock.cleanse_setting
        super().__init__(
            is_secret=lru_cache(MAX_REMEMBERED)(self._decide),
            substitute=str(getattr(project, "cleansed_substitute", stock.cleansed_substitute)),
            has_stems=self._is_stock,
        )

    def _decide(self, name: str) -> bool:
        """Return whether what stands under this name is masked."""
        if self._is_stock:
            return is_secret_name(name) or name == settings.SESSION_COOKIE_NAME
        return bool(self._cleanse_setting(name, "text") != "text")

    def mask_member(self, name: str, value: Any) -> Any:
        """Return the arguments of a task, the broker of a worker or an error, masked.

        Lists and objects have been masked before; only the filter of a project may change them.
        """
        if not self._is_stock and self.is_secret(name):
            return self.substitute
        if type(value) is str:
            # Celery sends long keyword arguments as the repr of a dict. A text that is no such
            # repr may be a value without its name, so it is masked as a whole.
            is_repr = _DICT_REPR.match(value) and not self.filter_sees_values
            if name == "kwargs" and value and not is_repr:
                return self.substitute
            value = self.mask_broker_url(value) if name == "broker" else self.mask_text(value)
        return jsonsafe(self._cleanse_setting(name, value)) if self.filter_sees_values else value

    def mask_broker_url(self, text: str) -> str:
        """Return broker URLs without their passwords; one text may hold several, joined by ``;``.

        kombu accepts more than the standard for URLs does: a key with slashes, or no scheme.
        """
        urls = []
        for url in text.split(";"):
            before, userinfo, after = _split_broker_url(url)
            urls.append(f"{before}{self.mask_userinfo(userinfo)}{after}")
        return self.mask_text(";".join(urls))

    def secrets_in(self, urls: str) -> Iterator[str]:
        """Yield the credentials in broker URLs, in each way that they may be written."""
        for url in urls.split(";"):
            user, colon, password = _split_broker_url(url)[1].partition(":")
            parameters = _PARAMETER.findall(url)
            secrets = [value for name, value in parameters if self.is_secret(name)]
            for secret in filter(None, [password if colon else user, *secrets]):
                clear = unquote(secret)
                yield from (secret, clear, quote(clear, safe=""), repr(clear)[1:-1])


def _split_broker_url(url: str) -> tuple[str, str, str]:
    """Return what stands before the user and password of a broker URL, these, and the rest."""
    head = url.rpartition("@")[0]
    start = head.find("://") + 3 if "://" in head else 0
    if not start and ":" not in head:  # An e-mail address: me@example.org.
        return url, "", ""
    return url[:start], head[start:], url[len(head) :]
