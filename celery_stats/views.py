"""The view: authorise, take the report, answer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from inspect import getattr_static
from typing import Any

from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import TooManyFieldsSent
from django.db import connections, transaction
from django.http import Http404, HttpRequest
from django.http.response import HttpResponseBase
from rest_framework.authentication import SessionAuthentication
from rest_framework.exceptions import (
    AuthenticationFailed,
    NotAcceptable,
    NotAuthenticated,
    ValidationError,
)
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.settings import api_settings
from rest_framework.views import APIView

from .conf import WrongSetting, conf, import_class
from .control.exceptions import CeleryStatsError
from .control.question import CeleryApp, Question
from .exceptions import NoSuchRepresentation, ServiceUnavailable
from .headers import MISSING_WORKERS, encode_worker_names
from .page.pasted import pasted_question
from .query import parse_question
from .renderers import (
    METRICS_RENDERERS,
    OpenMetricsRenderer,
    PageRenderer,
    ReportJSONRenderer,
    ReportResponse,
)
from .report import ReportOptions, reason, share_report
from .schema import DESCRIPTION, SUMMARY, with_schema

logger = logging.getLogger(__name__)


class ClassesOfSetting:
    """The classes that a setting names, until a subclass or ``as_view()`` sets the attribute.

    It has no ``__set__``, so that Python finds an attribute of the view itself first, and that is
    where ``as_view()`` puts its arguments.
    """

    def __init__(self, key: str, method: str) -> None:
        self.key = key
        self.method = method

    def __get__(self, view: APIView | None, owner: type[APIView]) -> Sequence[Any]:
        try:
            paths = getattr(conf, self.key.lower())
            if paths is None:
                defaults: Sequence[Any] = getattr(api_settings, f"DEFAULT_{self.key}")
                return defaults
            return [import_class(self.key, path, self.method) for path in paths]
        except WrongSetting:
            # as_view() looks at the attributes of the class when the URLs are imported. An error
            # there would come before those of the system checks.
            if view is None:
                return ()
            raise


class CeleryStatsView(APIView):
    """A snapshot of every Celery worker, as JSON, as a page or as metrics.

    Class attributes of a subclass and arguments of ``as_view()`` win over the settings.
    """

    # OPTIONS shows these to callers. REST framework would show the class's name and docstring.
    name = SUMMARY
    description = DESCRIPTION

    authentication_classes: Any = ClassesOfSetting("AUTHENTICATION_CLASSES", "authenticate")
    permission_classes: Any = ClassesOfSetting("PERMISSION_CLASSES", "has_permission")
    renderer_classes = (ReportJSONRenderer, PageRenderer, *METRICS_RENDERERS)
    # No versions, because NamespaceVersioning would take the namespace ``celery_stats`` for one.
    versioning_class = None

    #: The Celery app, or its dotted path, instead of the setting's: for ``as_view()``.
    celery_app: CeleryApp | None = None

    #: The user that Django's session middleware found, before REST framework replaced
    #: ``request.user``.
    _session_user: Any = None

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Any:
        view = super().as_view(**initkwargs)
        for alias in connections:
            # With ATOMIC_REQUESTS, a transaction would stay open while the workers are asked.
            transaction.non_atomic_requests(alias)(view)
        return view

    @property
    def default_response_headers(self) -> dict[str, str]:
        return {
            **super().default_response_headers,
            "Cache-Control": "no-store",
            "Vary": "Accept, Authorization, Cookie",
        }

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        try:
            return super().initialize_request(request, *args, **kwargs)
        except WrongSetting:
            # REST framework does not handle errors of this method. perform_authentication() meets
            # this one again.
            return Request(request, parser_context=self.get_parser_context(request))

    def perform_authentication(self, request: Request) -> None:
        self._session_user = getattr(request._request, "user", None)
        authenticators = [*(request.authenticators or self.get_authenticators())]
        # Visitors of the page are logged in to the project by a session, which the classes of the
        # project's API may not read.
        if self._is_page and self._has_default_authentication:
            authenticators.append(SessionAuthentication())
        request.authenticators = authenticators
        super().perform_authentication(request)

    @property
    def _has_default_authentication(self) -> bool:
        """Whether neither the setting nor an attribute names the authentication classes."""
        attribute = getattr_static(self, "authentication_classes")
        return isinstance(attribute, ClassesOfSetting) and conf.authentication_classes is None

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
        elif isinstance(exc, CeleryStatsError):
            logger.warning("No snapshot: %s", reason(exc))
            # Not raised from the cause, because exception handlers log what is chained.
            exc = ServiceUnavailable()
        response = super().handle_exception(exc)
        is_unauthenticated = isinstance(exc, (NotAuthenticated, AuthenticationFailed))
        # The login page sends visitors who are logged in straight back, so that they would be
        # redirected without end.
        if self._is_page and is_unauthenticated and not self.is_visitor_known:
            return redirect_to_login(self.request.get_full_path())
        return response

    @with_schema
    def get(self, request: Request, **kwargs: Any) -> Response:
        # The keyword arguments are those of the path that the project includes the endpoint under.
        question = self._question(request)
        options = ReportOptions.from_conf(conf, app=self.celery_app)
        # Metrics do not show arguments, so these are not searched for credentials.
        if isinstance(request.accepted_renderer, OpenMetricsRenderer):
            options = replace(options, hide_arguments=True)
        report = share_report(question, options)
        missing = encode_worker_names(report.missing)
        return ReportResponse(report, headers={MISSING_WORKERS: missing} if missing else None)

    def _question(self, request: Request) -> Question:
        """Return what the caller asks, and what the metrics and the page need besides."""
        params, renderer = request.query_params, request.accepted_renderer
        if isinstance(renderer, PageRenderer):
            # The form can be sent with nothing but spaces in it.
            pasted = [text for text in params.getlist("task_id") if text.strip()]
            query = params.copy()
            query.setlist("task_id", pasted)
            return parse_question(query, pasted_question)
        question = parse_question(params)
        chose_fields = "field" in params
        if isinstance(renderer, OpenMetricsRenderer):
            fields = question.fields if chose_fields else renderer.fields
            return replace(question, fields=fields, queues=True)
        return question
