"""The settings of ``DRF_CELERY_STATS``: each has its default, its type and its check in one place.

A setting is read from ``django.conf.settings`` at each use, so that ``override_settings`` works
and nothing is remembered between requests. Its value is checked at each use as well, because a
project may silence the system checks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from threading import TIMEOUT_MAX
from typing import Any, Generic, TypeVar

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from .control.exceptions import CeleryStatsError

SETTING = "DRF_CELERY_STATS"

T = TypeVar("T")


class WrongSetting(CeleryStatsError, ImproperlyConfigured):
    """``DRF_CELERY_STATS`` cannot be used as it is. Requests are answered 503.

    Attributes:
        check: the id of the system check that reports this.
        hint: what that check recommends.
    """

    def __init__(self, message: str, check: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.check = check
        self.hint = hint


class Setting(Generic[T]):
    """One key of ``DRF_CELERY_STATS``, as a property of :class:`Conf` that is not cached.

    Attributes:
        key: the property's name in capitals.
        default: the value where the project sets none.
        accepts: whether a value can be used.
        expected: what is accepted, in words that follow "should be".
    """

    key: str

    def __init__(self, default: T, accepts: Callable[[Any], bool], expected: str) -> None:
        self.default = default
        self.accepts = accepts
        self.expected = expected

    def __set_name__(self, owner: type[Conf], name: str) -> None:
        self.key = name.upper()

    def __get__(self, instance: Conf, owner: type[Conf]) -> T:
        """Return the value that the project set, or the default.

        Raises:
            WrongSetting: the value cannot be used, or a key is unknown.
        """
        user_settings = read_settings()
        for unknown in user_settings.keys() - SETTINGS.keys():
            # Not ignored, because it may be a misspelt key that was meant to hide something.
            raise unknown_key(unknown)
        return self.read(user_settings)

    def read(self, user_settings: Mapping[Any, Any]) -> T:
        """Return the value in the project's settings, or the default.

        Raises:
            WrongSetting: the value cannot be used.
        """
        value: T = user_settings.get(self.key, self.default)
        if not self.accepts(value):
            is_out_of_range = _is_number(value) and _is_number(self.default)
            raise WrongSetting(
                f"{SETTING}[{self.key!r}] should be {self.expected}, not {value!r}.",
                "E004" if is_out_of_range else "E003",
                f"The default is {self.default!r}.",
            )
        return value


def read_settings() -> Mapping[Any, Any]:
    """Return what the project has set.

    Raises:
        WrongSetting: it is not a dict.
    """
    user_settings = getattr(settings, SETTING, {})
    if not isinstance(user_settings, Mapping):
        message = f"{SETTING} should be a dict, not {user_settings!r}."
        hint = f"Write it as {SETTING} = {{'TIMEOUT': {DEFAULTS['TIMEOUT']}}}, say."
        raise WrongSetting(message, "E001", hint)
    return user_settings


def unknown_key(key: Any) -> WrongSetting:
    """Return the error for a key that is none of the settings."""
    near = get_close_matches(str(key).upper(), SETTINGS, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(SETTINGS)}."
    return WrongSetting(f"{SETTING} has an unknown key {key!r}.", "E002", hint)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_seconds(value: Any) -> bool:
    # NaN fails both comparisons. The standard library cannot wait longer than TIMEOUT_MAX.
    return _is_number(value) and 0 < value <= TIMEOUT_MAX


def _is_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(text, str) for text in value)


class Conf:
    """Typed access to the settings."""

    #: Dotted path of the Celery app (``"project.celery:app"``); None: the current app.
    celery_app = Setting[str | None](
        None, lambda value: value is None or isinstance(value, str), "a dotted path or None"
    )

    #: Seconds of silence after which workers that have not answered are given up.
    timeout = Setting[float](1.0, _is_seconds, "a positive number of seconds")

    #: Seconds that a snapshot may take in all, connecting included.
    deadline = Setting[float](5.0, _is_seconds, "a positive number of seconds")

    #: Dotted paths of REST framework permission classes.
    permission_classes = Setting[Sequence[str]](
        ["celery_stats.permissions.IsSupportUser"], _is_texts, "a list of dotted paths"
    )

    #: Dotted paths of REST framework authentication classes; None: the defaults of the project.
    authentication_classes = Setting[Sequence[str] | None](
        None, lambda value: value is None or _is_texts(value), "a list of dotted paths or None"
    )

    #: Names of query parameters that other parts of the project read. They are ignored here.
    ignored_parameters = Setting[Sequence[str]]((), _is_texts, "a list of names")

    #: Whether credentials are masked.
    redact = Setting[bool](True, lambda value: isinstance(value, bool), "True or False")

    #: Whether the ``args`` and ``kwargs`` of every task are masked whole.
    hide_arguments = Setting[bool](False, lambda value: isinstance(value, bool), "True or False")


conf = Conf()

#: Each setting by its key.
SETTINGS: dict[str, Setting[Any]] = {
    setting.key: setting for setting in vars(Conf).values() if isinstance(setting, Setting)
}

DEFAULTS: dict[str, Any] = {key: setting.default for key, setting in SETTINGS.items()}


def import_class(key: str, path: str, method: str) -> Any:
    """Return the class that one item of the setting ``key`` names.

    Raises:
        WrongSetting: it cannot be imported, or calling it gives nothing that has ``method``.
    """
    names = f"{SETTING}[{key!r}] names {path!r}, which"
    try:
        found = import_string(path)
    # A module can raise anything when it is imported, SystemExit included.
    except (Exception, SystemExit) as exc:
        message = f"{names} cannot be imported: {type(exc).__name__}: {exc}."
        hint = "Give the dotted path of a class: module, dot, name."
        raise WrongSetting(message, "E007", hint) from exc
    try:
        # Classes that are combined by & and | have the method only after they were called.
        is_right = callable(getattr(found(), method))
    except (TypeError, AttributeError):
        is_right = False
    if not is_right:
        message = f"{names} is not a class that has {method}() and is made without arguments."
        hint = "Give classes as REST framework has them, each by its dotted path."
        raise WrongSetting(message, "E008", hint)
    return found
