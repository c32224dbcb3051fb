"""The view: authorise, take the report, answer."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import TooManyFieldsSent
from django.http import Http404
from django.http.response import HttpResponseBase
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

from .conf import WrongSetting, conf, make_instances
from .control.exceptions import CeleryStatsError
from .control.question import CeleryApp, Question
from .exceptions import NoSuchRepresentation, ServiceUnavailable
from .headers import MISSING_WORKERS, encode_worker_names
from .masking.answers import safe_error
from .query import parse_question
from .renderers import METRICS_RENDERERS, OpenMetricsRenderer, PageRenderer, ReportJSONRenderer
from .report import ReportOptions, get_report
from .schema import DESCRIPTION, SUMMARY, published

logger = logging.getLogger(__name__)


class CeleryStatsView(APIView):
    """A snapshot of every Celery worker, as JSON, as a page or as metrics."""

    # OPTIONS shows these to callers. REST framework would show the class's name and docstring.
    name = SUMMARY
    description = DESCRIPTION

    renderer_classes = (ReportJSONRenderer, PageRenderer, *METRICS_RENDERERS)
    # No versions, because NamespaceVersioning would take the namespace ``celery_stats`` for one.
    versioning_class = None

    #: The Celery app, or its dotted path, instead of the setting's: for ``as_view()``.
    celery_app: CeleryApp | None = None

    #: The user that Django's session middleware found, before REST framework replaced
    #: ``request.user``.
    _session_user: Any = None

    #: The error that ``get_authenticators()`` met; ``perform_authentication()`` raises it, because
    #: REST framework handles no exception of ``get_authenticators()``.
    _wrong_setting: WrongSetting | None = None

    def get_authenticators(self) -> list[BaseAuthentication]:
        try:
            paths = conf.authentication_classes
            if paths is None:
                return super().get_authenticators()
            return make_instances("AUTHENTICATION_CLASSES", paths, "authenticate")
        except WrongSetting as exc:
            self._wrong_setting = exc
            return []

    def get_permissions(self) -> list[BasePermission]:
        return make_instances("PERMISSION_CLASSES", conf.permission_classes, "has_permission")

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
        # Django's cache middleware ignores no-store up to 5.2.12, and a middleware of the project
        # may replace the header. The attribute keeps the middleware from storing the response.
        # ``cache_page`` around ``get`` reads it from REST framework's request, the others from
        # Django's.
        requests: list[Any] = [request, request._request]
        for each in requests:
            each._cache_update_cache = False
        return super().finalize_response(request, response, *args, **kwargs)

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:
        if force:  # An error has to be written, even if the query parameters cannot be read.
            return super().perform_content_negotiation(request, force)
        override = api_settings.URL_FORMAT_OVERRIDE
        wanted = self.format_kwarg or (request.query_params.get(override) if override else None)
        try:
            if wanted == "":  # REST framework ignores an empty format.
                raise NotAcceptable
            return super().perform_content_negotiation(request)
        # REST framework raises Http404 where there is no such format.
        except (Http404, NotAcceptable) as exc:
            raise NoSuchRepresentation(wanted, self.get_renderers()) from exc

    def perform_authentication(self, request: Request) -> None:
        if self._wrong_setting is not None:
            raise self._wrong_setting
        self._session_user = getattr(request._request, "user", None)
        # Visitors of the page are logged in to the project by a session, which the classes of the
        # project's API may not read.
        if self._is_page and conf.authentication_classes is None:
            request.authenticators = [*(request.authenticators or ()), SessionAuthentication()]
        super().perform_authentication(request)

    @property
    def _is_page(self) -> bool:
        return isinstance(getattr(self.request, "accepted_renderer", None), PageRenderer)

    @property
    def is_visitor_known(self) -> bool:
        """Whether the visitor has a session, even if the authentication classes refuse it."""
        return bool(getattr(self._session_user, "is_authenticated", False))

    @property
    def visitor_name(self) -> str:
        """The user name of the visitor's session; empty where there is none."""
        return str(self._session_user.get_username()) if self.is_visitor_known else ""

    def handle_exception(self, exc: Exception) -> HttpResponseBase:  # type: ignore[override]
        if isinstance(exc, TooManyFieldsSent):
            # Django raises this where the query parameters are first read: before ``get()``.
            exc = ValidationError({api_settings.NON_FIELD_ERRORS_KEY: ["Too many parameters."]})
        if isinstance(exc, WrongSetting):
            logger.error("No answer: %s", safe_error(exc))
            exc = ServiceUnavailable()
        response = super().handle_exception(exc)
        is_unauthenticated = isinstance(exc, (NotAuthenticated, AuthenticationFailed))
        # The login page sends visitors who are logged in straight back, so that they would be
        # redirected without end.
        if self._is_page and is_unauthenticated and not self.is_visitor_known:
            return redirect_to_login(self.request.get_full_path())
        return response

    @published
    def get(self, request: Request, **kwargs: Any) -> Response:
        # The keyword arguments are those of the path that the project includes the endpoint under.
        question = self._question(request)
        try:
            report = get_report(question, ReportOptions.from_conf(conf, app=self.celery_app))
        except CeleryStatsError as exc:
            raise ServiceUnavailable from exc
        missing = encode_worker_names(report.missing)
        return Response(report, headers={MISSING_WORKERS: missing} if missing else None)

    def _question(self, request: Request) -> Question:
        """Return what the caller asks, and what the metrics and the page need besides."""
        question = parse_question(request.query_params)
        chose_fields = "field" in request.query_params
        renderer = request.accepted_renderer
        if isinstance(renderer, OpenMetricsRenderer):
            fields = question.fields if chose_fields else renderer.fields
            return replace(question, fields=fields, queues=True)
        if isinstance(renderer, PageRenderer):
            return replace(question, queues=not chose_fields)
        return question
