"""What is masked before an answer leaves.

Names are judged by Django's own cleanser, so that a project's
``DEFAULT_EXCEPTION_REPORTER_FILTER`` decides here as it does on error pages.
Workers of several Celery versions can share a broker, and the older send in clear
what the newer mask, so nothing here relies on the sender.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

from django.views.debug import SafeExceptionReporterFilter, get_default_exception_reporter_filter

from .jsonsafe import Converter, jsonsafe

# What newer versions of Django look for and older ones do not (AUTH), and what none
# does. A project's own filter is not second-guessed.
_SECRET_TOO = re.compile("AUTH|COOKIE|CREDENTIAL|PWD", re.IGNORECASE)

_USERINFO = re.compile(r"(?<=://)[^\s/?#]+(?=@)")
_PARAMETER = re.compile(r"(?<=[?&])([^\s=&#?]+)=([^\s&#]+)")
# As names stand in a repr: password='...' or 'password': '...'.
_NAME_IN_REPR = re.compile(r"(?<![\w-])([\w-]+)['\"]?\s*[=:]")

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
    return cleanser.url(text)


def _redact(answers: Any, cleanser: _Cleanser) -> Any:
    path: set[int] = set()
    arguments = _ByName(cleanser, cleanser.url, path=path)
    tasks = _Parts(cleanser, path=path, inside={"args": arguments, "kwargs": arguments})
    broker = _ByName(cleanser, cleanser.broker_url, path=path)
    stats = _Parts(cleanser, path=path, inside={"broker": broker})
    fields = {**dict.fromkeys(_TASK_FIELDS, tasks), "stats": stats}
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
    """Masks URLs, and objects that tell secrets in their ``repr``."""

    def __init__(self, cleanser: _Cleanser, **options: Any) -> None:
        super().__init__(**options)
        self.cleanser = cleanser

    def text(self, value: str) -> str:
        return self.cleanser.url(super().text(value))

    def other(self, value: object) -> str:
        text = super().other(value)
        return self.cleanser.substitute if self.cleanser.names_a_secret(text) else text


class _ByName(_Redacting):
    """Masks what stands under names that look secret."""

    def __init__(self, cleanser: _Cleanser, url: Callable[[str], str], **options: Any) -> None:
        super().__init__(cleanser, **options)
        self.url = url

    def text(self, value: str) -> str:
        return self.url(Converter.text(self, value))

    def keys(self, value: dict[Any, Any]) -> dict[str, Any]:
        named = super().keys(value)
        if self.cleanser.by_value:
            return named
        secret = {name for name in named if self.cleanser.is_secret(name)}
        self._known_keys -= secret
        # "credential_provider": null tells that there is none.
        hidden = [name for name in secret if named[name] is not None]
        return {**named, **dict.fromkeys(hidden, self.cleanser.substitute)} if hidden else named


class _Parts(_Redacting):
    """Masks parts of an object whole where their contents cannot be judged by name."""

    def mapping(self, value: dict[Any, Any], level: int, identity: int) -> Any:
        # Not super(): twice for every task, it shows.
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
    """What the project's filter, or Django's, has to say."""

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

    def is_secret(self, name: str) -> bool:
        """Whether a text under this name is masked."""
        verdict = self._verdicts.get(name)
        if verdict is None:
            asked = "text"
            verdict = bool(self._cleanse_setting(name, asked) != asked)
            if self._is_stock and _SECRET_TOO.search(name):
                verdict = True
            self._verdicts[name] = verdict
        return verdict

    def names_a_secret(self, text: str) -> bool:
        """Whether a ``repr`` holds a name that looks secret."""
        return any(self.is_secret(name) for name in _NAME_IN_REPR.findall(text))

    def part(self, name: str, value: Any) -> Any:
        """Mask the arguments of a task or the broker of a worker, if need be, whole."""
        if value is None:
            return None
        # A repr cannot be read safely.
        is_repr = type(value) is str
        if (
            self.is_secret(name)
            or (is_repr and name == "kwargs" and value not in ("", "{}"))
            or (is_repr and name == "args" and self.names_a_secret(value))
        ):
            return self.substitute
        return jsonsafe(self._cleanse_setting(name, value)) if self.by_value else value

    def url(self, text: str) -> str:
        """Mask the credentials in any URLs of a text."""
        if "://" not in text:
            return text
        if "@" in text:
            text = _USERINFO.sub(lambda match: self._userinfo(match[0]), text)
        return self._parameters(text)

    def broker_url(self, text: str) -> str:
        """Mask the credentials in broker URLs; one string may hold several, joined by ``;``.

        kombu takes more than the standard does: a key with slashes, no scheme.
        """
        urls = []
        for url in text.split(";"):
            before, userinfo, after = _split(url)
            urls.append(self._parameters(f"{before}{self._userinfo(userinfo)}{after}"))
        return ";".join(urls)

    def secrets_in(self, urls: str) -> Iterator[str]:
        """The credentials in broker URLs, in each way that they may be written."""
        for url in urls.split(";"):
            user, colon, password = _split(url)[1].partition(":")
            parameters = _PARAMETER.findall(url)
            secrets = [value for name, value in parameters if self.is_secret(name)]
            for secret in filter(None, [password if colon else user, *secrets]):
                clear = unquote(secret)
                yield from (secret, clear, quote(clear, safe=""), repr(clear)[1:-1])

    def _userinfo(self, userinfo: str) -> str:
        user, colon, password = userinfo.partition(":")
        secret = password if colon else user  # Alone, it may be a token.
        if not secret.strip("*"):  # None, or masked by the worker.
            return userinfo
        return f"{user}:{self.substitute}" if colon else self.substitute

    def _parameters(self, text: str) -> str:
        return _PARAMETER.sub(self._parameter, text) if "?" in text else text

    def _parameter(self, match: re.Match[str]) -> str:
        name = match[1]
        return f"{name}={self.substitute}" if self.is_secret(name) else match[0]


def _split(url: str) -> tuple[str, str, str]:
    """A broker URL as what stands before its user and password, these, and the rest."""
    head, at, rest = url.rpartition("@")
    scheme, separator, userinfo = head.partition("://")
    if not separator:
        scheme, userinfo = "", head
    if not separator and ":" not in userinfo:  # me@example.org, say.
        return url, "", ""
    return f"{scheme}{separator}", userinfo, f"{at}{rest}"
