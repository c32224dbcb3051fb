"""The system checks of ``DRF_CELERY_STATS`` and of the URL.

They import what the settings name, and use no network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import getattr_static
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as CheckWarning
from django.core.exceptions import ImproperlyConfigured
from django.urls import Resolver404, resolve
from rest_framework.authentication import BaseAuthentication
from rest_framework.permissions import AllowAny, IsAuthenticatedOrReadOnly
from rest_framework.settings import api_settings

from .conf import (
    DEFAULTS,
    SETTING,
    SETTINGS,
    WrongSetting,
    import_class,
    read_settings,
    unknown_key,
)
from .control.configuration import find_app
from .permissions import IsSupportUser, can_be_called
from .query import PARAMETERS

#: IsAuthenticatedOrReadOnly is among them, because the endpoint only reads.
OPEN_TO_EVERYONE = (AllowAny.has_permission, IsAuthenticatedOrReadOnly.has_permission)


def check_settings(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Return what is wrong with the settings. Runs in every ``manage.py check``."""
    return list(_mistakes())


def check_urls(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Return a warning if requests to the endpoint's path reach another view."""
    if not getattr(settings, "ROOT_URLCONF", None):  # As in a project that has only workers.
        return []
    # Imported here, because a project without the URL does not need them.
    from .schema import endpoint_path
    from .views import CeleryStatsView

    path = endpoint_path()
    try:
        view = resolve(path).func if path else None
    except Resolver404:
        return []
    if view is None:
        return []
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
    try:
        user_settings = read_settings()
    except WrongSetting as exc:
        yield _error(exc)
        return
    yield from (_error(unknown_key(key)) for key in user_settings if key not in DEFAULTS)
    known = {key: value for key, value in user_settings.items() if key in DEFAULTS}
    values: dict[str, Any] = {}
    for key, setting in SETTINGS.items():
        try:
            values[key] = setting.read(known)
        except WrongSetting as exc:  # noqa: PERF203 - there are few
            yield _error(exc)
    for check, keys in CHECKS.items():
        if values.keys() >= set(keys):
            yield from check(*(values[key] for key in keys))


def _error(exc: WrongSetting) -> CheckMessage:
    return Error(str(exc), hint=exc.hint, id=f"celery_stats.{exc.check}")


def _check_ignored(names: Sequence[str]) -> Iterator[CheckMessage]:
    if own := [name for name in names if name in PARAMETERS]:
        yield Error(
            f"{SETTING}['IGNORED_PARAMETERS'] names {', '.join(own)}, which the endpoint reads.",
            hint="Name only parameters of other parts of the project.",
            id="celery_stats.E009",
        )


def _check_times(timeout: float, deadline: float) -> Iterator[CheckMessage]:
    if timeout > deadline:
        yield Error(
            f"{SETTING}['TIMEOUT'] of {timeout} s exceeds the 'DEADLINE' of {deadline} s.",
            hint="The deadline ends every snapshot: raise it, or lower the timeout.",
            id="celery_stats.E005",
        )


def _check_celery_app(path: str | None) -> Iterator[CheckMessage]:
    try:
        if not find_app(path).conf.worker_enable_remote_control:
            yield CheckWarning(
                "The workers answer nobody, because worker_enable_remote_control is False.",
                hint="Remove this setting of Celery, or set it to True, and restart the workers.",
                id="celery_stats.W005",
            )
    # A module can raise anything when it is imported, SystemExit included.
    except (Exception, SystemExit) as exc:  # noqa: BLE001
        if path is None:  # The project may set the current app after the checks have run.
            return
        yield Error(
            f"{SETTING}['CELERY_APP'] {path!r} does not lead to a Celery app: {exc}.",
            hint="Give the module and the name in it: 'project.celery:app'.",
            id="celery_stats.E006",
        )


def _check_permissions(paths: Sequence[str]) -> Iterator[CheckMessage]:
    permissions, errors = _import("PERMISSION_CLASSES", paths, "has_permission")
    if errors:
        yield from errors
        return
    # Compares the functions, because a subclass may override them.
    decide = [getattr(permission, "has_permission", None) for permission in permissions]
    if IsSupportUser.has_permission in decide:
        yield from _check_user_model()
    if all(function in OPEN_TO_EVERYONE for function in decide):
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
        classes, errors = _import("AUTHENTICATION_CLASSES", paths, "authenticate")
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


def _import(key: str, paths: Sequence[str], method: str) -> tuple[list[Any], list[CheckMessage]]:
    """Return the classes that a setting names, and an error for each that is wrong."""
    classes: list[Any] = []
    errors: list[CheckMessage] = []
    for path in paths:
        try:
            classes.append(import_class(key, path, method))
        except WrongSetting as exc:  # noqa: PERF203 - there are few
            errors.append(_error(exc))
    return classes, errors


#: Each check of values that have the right type, with the keys of these values.
CHECKS: Mapping[Callable[..., Iterator[CheckMessage]], Sequence[str]] = {
    _check_times: ("TIMEOUT", "DEADLINE"),
    _check_celery_app: ("CELERY_APP",),
    _check_permissions: ("PERMISSION_CLASSES",),
    _check_authentication: ("AUTHENTICATION_CLASSES",),
    _check_ignored: ("IGNORED_PARAMETERS",),
}
