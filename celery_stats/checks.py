"""The system checks of ``DRF_CELERY_STATS`` and of the URL.

They import what the settings name, and use no network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from inspect import getattr_static
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as CheckWarning
from django.core.exceptions import ImproperlyConfigured
from django.urls import NoReverseMatch, Resolver404, get_script_prefix, resolve, reverse
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

from .conf import DEFAULTS, SETTING, SETTINGS, is_number
from .control.configuration import find_app
from .permissions import IsSupportUser, can_be_called


def check_settings(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Return what is wrong with the settings. Runs in every ``manage.py check``."""
    return list(_mistakes())


def check_urls(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Return a warning if requests to the endpoint's path reach another view."""
    if not getattr(settings, "ROOT_URLCONF", None):  # As in a project that has only workers.
        return []
    try:
        # resolve() expects a path without the prefix, which FORCE_SCRIPT_NAME sets.
        path = "/" + reverse("celery_stats:snapshot").removeprefix(get_script_prefix())
        view = resolve(path).func
    except (NoReverseMatch, Resolver404):
        return []
    # Imported here, because a project without the URL does not need it.
    from .views import CeleryStatsView

    if issubclass(getattr(view, "cls", object), CeleryStatsView):
        return []
    return [
        CheckWarning(
            f"Requests to {path} do not reach celery_stats, because another URL pattern matches "
            "this path first.",
            hint='Move the line with include("celery_stats.urls") up in urlpatterns, before that '
            "pattern.",
            id="celery_stats.W004",
        )
    ]


def _mistakes() -> Iterator[CheckMessage]:
    user_settings = getattr(settings, SETTING, {})
    if not isinstance(user_settings, Mapping):
        yield Error(
            f"{SETTING} should be a dict, not {user_settings!r}.",
            hint=f"Write it as {SETTING} = {{'TIMEOUT': {DEFAULTS['TIMEOUT']}}}, say.",
            id="celery_stats.E001",
        )
        return
    values = {**DEFAULTS, **user_settings}
    wrong = [key for key, setting in SETTINGS.items() if not setting.accepts(values[key])]
    yield from (_unknown_key(key) for key in user_settings if key not in DEFAULTS)
    yield from (_wrong_value(key, values[key]) for key in wrong)
    if "TIMEOUT" not in wrong and "DEADLINE" not in wrong:
        yield from _check_times(values["TIMEOUT"], values["DEADLINE"])
    if "CELERY_APP" not in wrong:
        yield from _check_celery_app(values["CELERY_APP"])
    if "PERMISSION_CLASSES" not in wrong:
        yield from _check_permissions(values["PERMISSION_CLASSES"])
    if "AUTHENTICATION_CLASSES" not in wrong:
        yield from _check_authentication(values["AUTHENTICATION_CLASSES"])


def _unknown_key(key: Any) -> CheckMessage:
    near = get_close_matches(str(key).upper(), DEFAULTS, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(DEFAULTS)}."
    return Error(f"{SETTING} has an unknown key {key!r}.", hint=hint, id="celery_stats.E002")


def _wrong_value(key: str, value: Any) -> CheckMessage:
    is_out_of_range = is_number(value) and is_number(DEFAULTS[key])
    return Error(
        f"{SETTING}[{key!r}] should be {SETTINGS[key].expected}, not {value!r}.",
        hint=f"The default is {DEFAULTS[key]!r}.",
        id="celery_stats.E004" if is_out_of_range else "celery_stats.E003",
    )


def _check_times(timeout: float, deadline: float) -> Iterator[CheckMessage]:
    if timeout > deadline:
        yield Error(
            f"{SETTING}['TIMEOUT'] of {timeout} s exceeds the 'DEADLINE' of {deadline} s.",
            hint="The deadline ends every snapshot: raise it, or lower the timeout.",
            id="celery_stats.E005",
        )


def _check_celery_app(path: str | None) -> Iterator[CheckMessage]:
    if path is None:  # The project may set the current app after the checks have run.
        return
    try:
        find_app(path)
    # A module can raise anything when it is imported, SystemExit included.
    except (Exception, SystemExit) as exc:  # noqa: BLE001
        yield Error(
            f"{SETTING}['CELERY_APP'] {path!r} does not lead to a Celery app: {exc}.",
            hint="Give the module and the name in it: 'project.celery:app'.",
            id="celery_stats.E006",
        )


def _check_permissions(paths: Sequence[str]) -> Iterator[CheckMessage]:
    permissions, errors = _import(
        "PERMISSION_CLASSES", paths, _is_permission, "a permission class"
    )
    if errors:
        yield from errors
        return
    if any(map(_uses_flags_of_the_user, permissions)):
        yield from _check_user_model()
    if all(map(_lets_everyone_in, permissions)):
        yield CheckWarning(
            f"{SETTING}['PERMISSION_CLASSES'] lets everyone see what the workers are doing.",
            hint=f"The default is {DEFAULTS['PERMISSION_CLASSES']!r}.",
            id="celery_stats.W001",
        )


def _check_user_model() -> Iterator[CheckMessage]:
    try:
        model = get_user_model()
    except ImproperlyConfigured:  # Django's own checks report this.
        return
    for name in ("is_staff", "is_support"):
        attribute: Any = getattr_static(model, name, None)
        is_method = callable(attribute) or isinstance(attribute, classmethod)
        # Bound to the class instead of a user, because only the signature is inspected.
        if is_method and not can_be_called(attribute.__get__(model, model)):
            yield CheckWarning(
                f"{model.__name__}.{name}() cannot be called without arguments and "
                "synchronously, so that it lets nobody see what the workers are doing.",
                hint="Make it a field, a property or a plain method without arguments, or set "
                f"{SETTING}['PERMISSION_CLASSES'] to a class of your own.",
                obj=model,
                id="celery_stats.W003",
            )


def _check_authentication(paths: Sequence[str] | None) -> Iterator[CheckMessage]:
    if paths is None:
        source = "REST_FRAMEWORK['DEFAULT_AUTHENTICATION_CLASSES']"
        classes: Sequence[Any] = api_settings.DEFAULT_AUTHENTICATION_CLASSES
    else:
        source = f"{SETTING}['AUTHENTICATION_CLASSES']"
        classes, errors = _import(
            "AUTHENTICATION_CLASSES", paths, _is_authentication, "an authentication class"
        )
        if errors:
            yield from errors
            return
    # The methods are not called, because they may need a request.
    methods = [getattr(each, "authenticate_header", None) for each in classes]
    if all(method in (None, BaseAuthentication.authenticate_header) for method in methods):
        yield CheckWarning(
            f"No class in {source} can send a challenge, so that callers without valid "
            "credentials are answered 403, not 401.",
            hint="Add one that has an authenticate_header(), and put it first: "
            "'rest_framework.authentication.TokenAuthentication', say.",
            id="celery_stats.W002",
        )


def _import(
    key: str, paths: Sequence[str], is_right: Callable[[Any], bool], expected: str
) -> tuple[list[Any], list[CheckMessage]]:
    """Return the classes that a setting names, and an error for each that is wrong."""
    classes: list[Any] = []
    errors: list[CheckMessage] = []
    for path in paths:
        names = f"{SETTING}[{key!r}] names {path!r}, which"
        try:
            classes.append(import_string(path))
        # A module can raise anything when it is imported, SystemExit included.
        except (Exception, SystemExit) as exc:  # noqa: BLE001
            hint = "Give the dotted path of a class: module, dot, name."
            message = f"{names} cannot be imported: {exc}."
            errors.append(Error(message, hint=hint, id="celery_stats.E007"))
        else:
            if not is_right(classes[-1]):
                hint = "Give classes as REST framework has them, each by its dotted path."
                errors.append(
                    Error(f"{names} is not {expected}.", hint=hint, id="celery_stats.E008")
                )
    return classes, errors


def _is_permission(value: Any) -> bool:
    # Classes combined by & and | have no has_permission() until they are called.
    return callable(value) and (
        isinstance(value, OperationHolderMixin) or hasattr(value, "has_permission")
    )


def _uses_flags_of_the_user(permission: Any) -> bool:
    if isinstance(permission, OperandHolder):
        operands: tuple[Any, ...] = (permission.op1_class, permission.op2_class)
        return any(map(_uses_flags_of_the_user, operands))
    return getattr(permission, "has_permission", None) is IsSupportUser.has_permission


def _lets_everyone_in(permission: Any) -> bool:
    if isinstance(permission, OperandHolder):
        operands = _lets_everyone_in(permission.op1_class), _lets_everyone_in(permission.op2_class)
        operator: Any = permission.operator_class
        return any(operands) if operator is OR else all(operands)
    # Compares the functions, because a subclass may override them. IsAuthenticatedOrReadOnly lets
    # everyone in, because the endpoint only reads.
    return getattr(permission, "has_permission", None) in (
        AllowAny.has_permission,
        IsAuthenticatedOrReadOnly.has_permission,
    )


def _is_authentication(value: Any) -> bool:
    return callable(value) and hasattr(value, "authenticate")
