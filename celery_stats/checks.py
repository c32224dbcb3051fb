"""System checks of ``DRF_CELERY_STATS``: they import what it names, and do nothing else."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from difflib import get_close_matches
from inspect import getattr_static
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core import checks
from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string
from rest_framework.authentication import BaseAuthentication
from rest_framework.permissions import (
    OR,
    AllowAny,
    IsAuthenticatedOrReadOnly,
    OperandHolder,
    OperationHolderMixin,
)
from rest_framework.settings import api_settings

from .conf import DEFAULTS, SETTING, TYPES, is_possible_time
from .control.configuration import find_app
from .permissions import IsSupportUser, can_be_called


def check_settings(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    user_settings = getattr(settings, SETTING, {})
    if not isinstance(user_settings, Mapping):
        return [
            Error(
                f"{SETTING} should be a dict, not {user_settings!r}.",
                hint=f"Write it as {SETTING} = {{'TIMEOUT': {DEFAULTS['TIMEOUT']}}}, say.",
                id="celery_stats.E001",
            )
        ]
    return [*_unknown_keys(user_settings), *_values({**DEFAULTS, **user_settings})]


def _unknown_keys(user_settings: Mapping[Any, Any]) -> Iterator[CheckMessage]:
    for key in user_settings:
        if key not in DEFAULTS:
            near = get_close_matches(str(key).upper(), DEFAULTS, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(DEFAULTS)}."
            yield Error(
                f"{SETTING} has an unknown key {key!r}.", hint=hint, id="celery_stats.E002"
            )


def _values(values: Mapping[str, Any]) -> Iterator[CheckMessage]:
    wrong = set()
    for key, (accepts, expected) in TYPES.items():
        if not accepts(values[key]):
            wrong.add(key)
            yield Error(
                f"{SETTING}[{key!r}] should be {expected}, not {values[key]!r}.",
                hint=f"The default is {DEFAULTS[key]!r}.",
                id="celery_stats.E003",
            )
    judges: dict[tuple[str, ...], Callable[..., Iterator[CheckMessage]]] = {
        ("TIMEOUT", "DEADLINE"): _seconds,
        ("CELERY_APP",): _celery_app,
        ("PERMISSION_CLASSES",): _permissions,
        ("AUTHENTICATION_CLASSES",): _authentication,
    }
    for keys, judge in judges.items():
        if wrong.isdisjoint(keys):
            yield from judge(*(values[key] for key in keys))


def _seconds(timeout: float, deadline: float) -> Iterator[CheckMessage]:
    possible = True
    for key, value in {"TIMEOUT": timeout, "DEADLINE": deadline}.items():
        if not is_possible_time(value):
            possible = False
            yield Error(
                f"{SETTING}[{key!r}] should be a positive number of seconds, not {value}.",
                hint=f"The default is {DEFAULTS[key]!r}.",
                id="celery_stats.E004",
            )
    if possible and timeout > deadline:
        yield Error(
            f"{SETTING}['TIMEOUT'] of {timeout} s exceeds the 'DEADLINE' of {deadline} s.",
            hint="The deadline ends every snapshot: raise it, or lower the timeout.",
            id="celery_stats.E005",
        )


def _celery_app(path: str | None) -> Iterator[CheckMessage]:
    if path is None:  # The current app, which the project may set up after the checks.
        return
    try:
        find_app(path)
    # Whatever the module raises when it is imported, SystemExit included.
    except (Exception, SystemExit) as exc:  # noqa: BLE001
        yield Error(
            f"{SETTING}['CELERY_APP'] {path!r} does not lead to a Celery app: {exc}.",
            hint="Give the module and the name in it: 'project.celery:app'.",
            id="celery_stats.E006",
        )


def _permissions(paths: Sequence[str]) -> Iterator[CheckMessage]:
    permissions = yield from _import("PERMISSION_CLASSES", paths, _is_permission)
    if permissions is None:
        return
    if any(map(_asks_the_user_model, permissions)):
        yield from _user_model()
    if all(map(_is_open, permissions)):
        yield checks.Warning(
            f"{SETTING}['PERMISSION_CLASSES'] lets everyone see what the workers are doing.",
            hint=f"The default is {DEFAULTS['PERMISSION_CLASSES']!r}.",
            id="celery_stats.W001",
        )


def _user_model() -> Iterator[CheckMessage]:
    try:
        model = get_user_model()
    except ImproperlyConfigured:  # Which Django's own checks report.
        return
    for name in ("is_staff", "is_support"):
        attribute: Any = getattr_static(model, name, None)
        is_method = callable(attribute) or isinstance(attribute, classmethod)
        # Bound to anything at all: it is looked at, and not called.
        if is_method and not can_be_called(attribute.__get__(model, model)):
            yield checks.Warning(
                f"{model.__name__}.{name}() cannot be called without arguments and "
                "synchronously, so that it lets nobody see what the workers are doing.",
                hint="Make it a field, a property or a plain method without arguments, or set "
                f"{SETTING}['PERMISSION_CLASSES'] to a class of your own.",
                obj=model,
                id="celery_stats.W003",
            )


def _authentication(paths: Sequence[str] | None) -> Iterator[CheckMessage]:
    classes: Sequence[Any] | None = api_settings.DEFAULT_AUTHENTICATION_CLASSES
    source = "REST_FRAMEWORK['DEFAULT_AUTHENTICATION_CLASSES']"
    if paths is not None:
        classes = yield from _import("AUTHENTICATION_CLASSES", paths, _is_authentication)
        source = f"{SETTING}['AUTHENTICATION_CLASSES']"
    if classes is not None and not any(map(_can_challenge, classes)):
        yield checks.Warning(
            f"No class in {source} can send a challenge, so that callers without valid "
            "credentials are answered 403, not 401.",
            hint="Add one that has an authenticate_header(), and put it first: "
            "'rest_framework.authentication.TokenAuthentication', say.",
            id="celery_stats.W002",
        )


def _import(
    key: str, paths: Sequence[str], is_right: Callable[[Any], bool]
) -> Generator[CheckMessage, None, list[Any] | None]:
    """Import a setting's classes; None where one is not to be had."""
    classes = []
    for path in paths:
        try:
            imported = import_string(path)
        # Whatever the module raises when it is imported, SystemExit included.
        except (Exception, SystemExit) as exc:  # noqa: BLE001
            yield Error(
                f"{SETTING}[{key!r}] names {path!r}, which cannot be imported: {exc}.",
                hint="Give the dotted path of a class: module, dot, name.",
                id="celery_stats.E007",
            )
            continue
        if is_right(imported):
            classes.append(imported)
        else:
            yield Error(
                f"{SETTING}[{key!r}] names {path!r}, which is no such class.",
                hint="Give classes as REST framework has them, each by its dotted path.",
                id="celery_stats.E008",
            )
    return classes if len(classes) == len(paths) else None


def _is_permission(value: Any) -> bool:
    # Classes put together with & and | have no has_permission() before they are called.
    return callable(value) and (
        isinstance(value, OperationHolderMixin) or hasattr(value, "has_permission")
    )


def _asks_the_user_model(permission: Any) -> bool:
    if isinstance(permission, OperandHolder):
        operands: tuple[Any, ...] = (permission.op1_class, permission.op2_class)
        return any(map(_asks_the_user_model, operands))
    function = getattr(permission, "has_permission", None)
    return function is IsSupportUser.has_permission


def _is_open(permission: Any) -> bool:
    if isinstance(permission, OperandHolder):
        operands = _is_open(permission.op1_class), _is_open(permission.op2_class)
        operator: Any = permission.operator_class
        return any(operands) if operator is OR else all(operands)
    # The functions are compared: a subclass may decide for itself. As the endpoint only
    # reads, read-only for everyone is open to everyone.
    return getattr(permission, "has_permission", None) in (
        AllowAny.has_permission,
        IsAuthenticatedOrReadOnly.has_permission,
    )


def _is_authentication(value: Any) -> bool:
    return callable(value) and hasattr(value, "authenticate")


def _can_challenge(authentication: Any) -> bool:
    # Not called: it may need a request.
    header = getattr(authentication, "authenticate_header", None)
    return header not in (None, BaseAuthentication.authenticate_header)
