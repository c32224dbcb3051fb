"""Authorise, take the snapshot, answer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import TooManyFieldsSent
from django.http import Http404
from django.http.response import HttpResponseBase
from django.utils.module_loading import import_string
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.exceptions import (
    AuthenticationFailed,
    NotAcceptable,
    NotAuthenticated,
    ValidationError,
)
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.settings import api_settings
from rest_framework.views import APIView

from .conf import SETTING, WrongSetting, conf
from .control.exceptions import CeleryStatsError
from .control.question import CeleryApp
from .exceptions import ServiceUnavailable
from .headers import MISSING_WORKERS, encode_worker_names
from .query import parse_question
from .redaction import safe_error
from .renderers import (
    METRICS_RENDERERS,
    OpenMetricsRenderer,
    PageRenderer,
    ReportJSONRenderer,
)
from .report import ReportOptions, get_report
from .schema import DESCRIPTION, SUMMARY, published

logger = logging.getLogger(__name__)


def _instances(key: str, paths: Sequence[str], method: str) -> list[Any]:
    """Return an object of each class that a setting names.

    Args:
        key: the setting.
        paths: its value.
        method: what each of the objects has.

    Raises:
        WrongSetting: one of them cannot be imported or made, or is of another kind.
    """
    made = []
    for path in paths:
        try:
            instance = import_string(path)()
        # Whatever the module raises when it is imported, SystemExit included.
        except (Exception, SystemExit) as exc:
            raise WrongSetting(
                f"{SETTING}[{key!r}] names {path!r}: {type(exc).__name__}: {exc}"
            ) from exc
        if not callable(getattr(instance, method, None)):
            raise WrongSetting(f"{SETTING}[{key!r}] names {path!r}, which has no {method}().")
        made.append(instance)
    return made


class CeleryStatsView(APIView):
    """A snapshot of every Celery worker; see ``schema.py`` for the details."""

    # What OPTIONS tells callers, instead of the class's name and docstring.
    name = SUMMARY
    description = DESCRIPTION

    renderer_classes = (ReportJSONRenderer, PageRenderer, *METRICS_RENDERERS)
    # The project's versions are those of its own API: the namespace is none of them.
    versioning_class = None

    #: The Celery app, or its dotted path, instead of the setting's: for ``as_view()``.
    celery_app: CeleryApp | None = None

    #: Whom Django takes the visitor for; REST framework puts its own verdict in that place.
    _visitor: Any = None

    #: What is wrong with the settings of the authentication.
    _wrong_setting: WrongSetting | None = None

    def get_authenticators(self) -> list[BaseAuthentication]:
        try:
            paths = conf.authentication_classes
            if paths is None:
                return super().get_authenticators()
            return _instances("AUTHENTICATION_CLASSES", paths, "authenticate")
        except WrongSetting as exc:
            # REST framework calls this before it handles exceptions, so this one is raised
            # by perform_authentication().
            self._wrong_setting = exc
            return []

    def get_permissions(self) -> list[BasePermission]:
        return _instances("PERMISSION_CLASSES", conf.permission_classes, "has_permission")

    @property
    def default_response_headers(self) -> dict[str, str]:
        return {
            **super().default_response_headers,
            "Cache-Control": "no-store",
            "Vary": "Accept, Authorization, Cookie",
        }

    def finalize_response(
        self, request: Request, response: Response, *args: Any, **kwargs: Any
    ) -> Response:
        # Django's cache middleware ignores no-store up to 5.2.12, and a middleware of the
        # project may replace the header. cache_page around ``get`` marks REST framework's
        # request, everything else Django's own.
        requests: list[Any] = [request, request._request]
        for each in requests:
            each._cache_update_cache = False
        return super().finalize_response(request, response, *args, **kwargs)

    @property
    def _is_page(self) -> bool:
        return isinstance(getattr(self.request, "accepted_renderer", None), PageRenderer)

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:
        try:
            return super().perform_content_negotiation(request, force)
        except (Http404, NotAcceptable) as exc:
            # REST framework answers 404 to a format that does not exist, and names none.
            raise NotAcceptable(self._what_is_on_offer(request)) from exc

    def _what_is_on_offer(self, request: Request) -> str:
        """Why no representation fits the request, and which ones there are."""
        # Two of them may have the same format, each for a media type of its own.
        formats = [(str(kind.format), kind.media_type) for kind in self.get_renderers()]
        override = api_settings.URL_FORMAT_OVERRIDE
        wanted = self.format_kwarg or (request.query_params.get(override) if override else None)
        offer = ", ".join(f"{name} ({media_type})" for name, media_type in formats)
        if not wanted:
            return f"The Accept header excludes every format on offer: {offer}."
        if wanted not in dict(formats):
            return f"There is no such format. On offer are: {offer}."
        return f"The Accept header excludes the format {wanted}. On offer are: {offer}."

    def perform_authentication(self, request: Request) -> None:
        if self._wrong_setting is not None:
            raise self._wrong_setting
        self._visitor = getattr(request._request, "user", None)
        # Whoever looks at the page is logged in to the project, not to its API.
        if self._is_page and conf.authentication_classes is None:
            request.authenticators = [*(request.authenticators or ()), SessionAuthentication()]
        super().perform_authentication(request)

    @property
    def is_visitor_known(self) -> bool:
        """Whether somebody is logged in to the project, whatever its API makes of them."""
        return bool(getattr(self._visitor, "is_authenticated", False))

    @property
    def visitor_name(self) -> str:
        """The name of who is logged in to the project; empty for nobody."""
        return str(self._visitor.get_username()) if self.is_visitor_known else ""

    def handle_exception(self, exc: Exception) -> HttpResponseBase:  # type: ignore[override]
        if isinstance(exc, TooManyFieldsSent):
            # Django counts the parameters when they are first read, which is before ``get``.
            exc = ValidationError({api_settings.NON_FIELD_ERRORS_KEY: ["Too many parameters."]})
        if isinstance(exc, WrongSetting):
            logger.error("No answer: %s", safe_error(exc))
            exc = ServiceUnavailable()
        response = super().handle_exception(exc)
        # Someone logged in whom the project's classes do not take would come back from the
        # login page again and again.
        refused = isinstance(exc, (NotAuthenticated, AuthenticationFailed))
        if self._is_page and refused and not self.is_visitor_known:
            return redirect_to_login(self.request.get_full_path())
        return response

    @published
    def get(self, request: Request, **kwargs: Any) -> Response:  # of the path it is under
        question = parse_question(request.query_params)
        renderer, narrowed = request.accepted_renderer, "field" in request.query_params
        if isinstance(renderer, OpenMetricsRenderer):
            fields = question.fields if narrowed else renderer.fields
            question = replace(question, fields=fields, queues=True)
        elif isinstance(renderer, PageRenderer):
            question = replace(question, queues=not narrowed)
        try:
            options = ReportOptions.from_conf(conf, app=self.celery_app)
            report = get_report(question, options)
        except CeleryStatsError as exc:
            raise ServiceUnavailable from exc
        missing = encode_worker_names(report.missing)
        return Response(report, headers={MISSING_WORKERS: missing} if missing else None)
