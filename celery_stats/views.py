"""Authorise, take the snapshot, answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from celery import Celery
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

from .conf import conf
from .control.exceptions import CeleryStatsError
from .exceptions import ServiceUnavailable
from .query import parse_question
from .renderers import (
    METRICS_RENDERERS,
    OpenMetricsRenderer,
    PageRenderer,
    SharedJSONRenderer,
)
from .report import Report, get_report
from .schema import schema

MISSING_HEADER = "Celery-Stats-Missing"

#: Bytes of the header's value: proxies refuse answers with headers of more than a few
#: kilobytes. What does not fit is counted in a last item, ``+<number>``.
MAX_MISSING = 4000

# Printable ASCII, but for what would end a name or be taken for an escape.
_AS_IS = "".join(chr(c) for c in range(0x21, 0x7F) if chr(c) not in ",%+\\")


def missing_header(workers: Mapping[str, Any]) -> str:
    """Return the names of silent workers, comma-separated and percent-encoded where needed."""
    names = [quote(name, safe=_AS_IS, errors="backslashreplace") for name in workers]
    length = 0
    for kept, name in enumerate(names):
        length += len(name) + 1
        if length > MAX_MISSING:
            return ",".join([*names[:kept], f"+{len(names) - kept}"])
    return ",".join(names)


class CeleryStatsView(APIView):
    """A snapshot of every Celery worker; see ``schema.py`` for the details."""

    renderer_classes = (SharedJSONRenderer, PageRenderer, *METRICS_RENDERERS)
    # The project's versions are those of its own API: the namespace is none of them.
    versioning_class = None

    #: The Celery app, or its dotted path, instead of the setting's: for ``as_view()``.
    celery_app: Celery | str | None = None

    #: Whom Django takes the visitor for; REST framework puts its own verdict in that place.
    _visitor: Any = None

    #: What was answered, for the page.
    snapshot: Report | None = None

    def get_authenticators(self) -> list[BaseAuthentication]:
        paths = conf.authentication_classes
        if paths is None:
            return super().get_authenticators()
        return [import_string(path)() for path in paths]

    def get_permissions(self) -> list[BasePermission]:
        return [import_string(path)() for path in conf.permission_classes]

    @property
    def default_response_headers(self) -> dict[str, str]:
        return {**super().default_response_headers, "Cache-Control": "no-store"}

    @property
    def _is_page(self) -> bool:
        return isinstance(getattr(self.request, "accepted_renderer", None), PageRenderer)

    def perform_authentication(self, request: Request) -> None:
        self._visitor = getattr(request._request, "user", None)
        # Whoever looks at the page is logged in to the project, not to its API.
        if self._is_page and conf.authentication_classes is None:
            request.authenticators = [*(request.authenticators or ()), SessionAuthentication()]
        super().perform_authentication(request)

    def handle_exception(self, exc: Exception) -> HttpResponseBase:  # type: ignore[override]
        if isinstance(exc, Http404):  # what negotiation makes of a format that there is not
            exc = NotAcceptable()
        if isinstance(exc, TooManyFieldsSent):
            # Django counts the parameters when they are first read, which is before ``get``.
            exc = ValidationError({api_settings.NON_FIELD_ERRORS_KEY: ["Too many parameters."]})
        response = super().handle_exception(exc)
        # Someone logged in whom the project's classes do not take would come back from the
        # login page again and again.
        known = getattr(self._visitor, "is_authenticated", False)
        refused = isinstance(exc, (NotAuthenticated, AuthenticationFailed))
        if self._is_page and refused and not known:
            return redirect_to_login(self.request.get_full_path())
        return response

    @schema
    def get(self, request: Request, **kwargs: Any) -> Response:  # of the path it is under
        question = parse_question(request.query_params)
        renderer, narrowed = request.accepted_renderer, "field" in request.query_params
        if isinstance(renderer, OpenMetricsRenderer):
            fields = question.fields if narrowed else renderer.fields
            question = replace(question, fields=fields, queues=True)
        elif isinstance(renderer, PageRenderer):
            question = replace(question, queues=not narrowed)
        try:
            report = get_report(question, conf, app=self.celery_app)
        except CeleryStatsError as exc:
            raise ServiceUnavailable from exc
        self.snapshot = report
        headers = {MISSING_HEADER: missing_header(report.missing)} if report.missing else None
        return Response(report.data, headers=headers)
