"""The representations of a report at one URL: JSON, a page for people, and metrics."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.template.loader import get_template
from django.templatetags.static import static
from django.urls import NoReverseMatch
from django.utils.module_loading import import_string
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.settings import api_settings

from .page.fleet import UNAVAILABLE, page
from .page.messages import error_message, options_message, texts
from .query import MAX_VALUES
from .report import Report

#: The static files of the page.
FILES = (
    *("icon.svg", "page.css", "page.js", "trends.js", "filter.js"),
    "vendored/idiomorph.min.js",
)


#: Control characters, but for the tabs and ends of lines of the templates. Browsers ignore them. A
#: terminal in which somebody looks at the page obeys them.
_REPLACED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class ReportResponse(Response):
    """Sends a report. ``data`` is a copy of its answers, which is made when somebody reads it.

    The callers who share a report share its JSON body as well. Whoever changes ``data`` changes
    this response alone.
    """

    _data: Any = None

    def __init__(self, report: Report, headers: Mapping[str, str] | None = None) -> None:
        self.report = report
        super().__init__(headers=headers)

    @property
    def data(self) -> Any:
        if self._data is None:
            self._data = json.loads(self.report.json())
        return self._data

    @data.setter
    def data(self, data: Any) -> None:
        self._data = data

    @property
    def rendered_content(self) -> Any:
        if self._data is not None or not isinstance(self.accepted_renderer, RENDERERS_OF_REPORTS):
            return super().rendered_content
        self._data = self.report  # These renderers take the report itself, so nothing is copied.
        try:
            return super().rendered_content
        finally:
            self._data = None


class ReportJSONRenderer(JSONRenderer):
    """A report as JSON, written once for all the callers who share it."""

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None
    ) -> bytes:
        """Return the data as JSON: a report, changed answers, an error, or that to OPTIONS."""
        if isinstance(data, Report):
            return data.json(self.get_indent(accepted_media_type or "", renderer_context or {}))
        return super().render(data, accepted_media_type, renderer_context)


class PageRenderer(BaseRenderer):
    """``text/html`` for browsers, and for ``?format=html``."""

    media_type = "text/html"
    format = "html"
    charset = "utf-8"

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None
    ) -> str:
        """Return the page for ``data``: a report, an error, or the answer to OPTIONS."""
        request: Request = renderer_context["request"]
        response: Response = renderer_context["response"]
        visitor = renderer_context["view"].visitor_name
        urls = files()
        protect(response, urls["page_css"])
        if response.status_code == 503:
            name, context = "page", {**UNAVAILABLE, "json_link": json_link(request)}
        elif response.exception:
            context = error_message(data, response.status_code, visitor, log_in_link(request))
            name = "message"
        elif isinstance(response, ReportResponse):
            report = response.report
            link = json_link(request, report.question.task_ids)
            name, context = "page", page(report, json_link=link, visitor=visitor)
        else:
            name, context = "message", options_message(data)
        template = get_template(f"celery_stats/{name}.html")
        html = template.render({**context, "files": urls}, request=request._request)
        return _REPLACED.sub("\N{REPLACEMENT CHARACTER}", html)


def files() -> dict[str, str]:
    """Return the URLs of the app's static files, by name with an underscore for the dot.

    A storage with a manifest does not know them before ``collectstatic`` has run. The page is then
    answered without its styles and scripts, because that is better than an error.
    """
    urls = {}
    for name in FILES:
        path = f"celery_stats/{name}"
        try:
            url = static(path)
        except ValueError:
            url = f"{settings.STATIC_URL}{path}"
        urls[name.rpartition("/")[2].replace(".", "_")] = url
    return urls


def log_in_link(request: Request) -> str:
    """Return the address where the visitor can log in, and come back from; empty without one."""
    try:
        return redirect_to_login(request.get_full_path()).url
    except NoReverseMatch:  # LOGIN_URL names no URL.
        return ""


def json_link(request: Request, task_ids: Sequence[str] = ()) -> str:
    """Return the address of the same query as JSON; empty if no query parameter is the format.

    Args:
        request: the request for the page.
        task_ids: the ids that the page has found in what was pasted. The link holds as many as
            are accepted.
    """
    name = api_settings.URL_FORMAT_OVERRIDE
    if not name:
        return ""
    query = request.query_params.copy()
    query[name] = "json"
    if task_ids:
        query.setlist("task_id", list(task_ids[:MAX_VALUES]))
    return f"?{query.urlencode()}"


def protect(response: Response, static_url: str) -> None:
    """Send the headers of the page, unless the project sends its own.

    Args:
        response: it may have headers of the project, by a decorator of the view, for example.
        static_url: the URL of one of the app's static files.
    """
    if not response.headers.get("Content-Security-Policy") and not has_own_policy():
        response.headers["Content-Security-Policy"] = content_security_policy(static_url)
    # The value that Django's XFrameOptionsMiddleware sends, for projects that do not have it.
    if not getattr(response, "xframe_options_exempt", False):
        response.headers.setdefault("X-Frame-Options", settings.X_FRAME_OPTIONS.upper())


def has_own_policy() -> bool:
    """Whether a middleware sends the project's policy, unless the response has one already."""
    django_6 = "django.middleware.csp.ContentSecurityPolicyMiddleware" in settings.MIDDLEWARE
    is_set_for_django_6 = django_6 and bool(getattr(settings, "SECURE_CSP", None))
    return is_set_for_django_6 or "csp.middleware.CSPMiddleware" in settings.MIDDLEWARE


def content_security_policy(static_url: str) -> str:
    """Return a policy under which nothing runs, loads or is sent but the app's own files.

    It is a second protection against names with HTML in them, besides escaping. If ``static_url``
    names a host, this host is allowed for the files. The policy has only directives that are
    known to middlewares which merge it with the project's. X-Frame-Options stands for
    ``frame-ancestors``. ``base-uri`` is left out, because the page has no base element.
    """
    url = urlsplit(static_url)
    origins = f"'self' {url.scheme or 'https'}://{url.netloc}" if url.netloc else "'self'"
    return (
        f"default-src 'none'; script-src {origins}; style-src {origins}; img-src {origins}; "
        "connect-src 'self'; form-action 'self'"
    )


class OpenMetricsRenderer(BaseRenderer):
    """``application/openmetrics-text`` for scrapers, and for ``?format=openmetrics``."""

    # Has no version, so that it also matches an Accept header that names none.
    media_type = "application/openmetrics-text"
    format = "openmetrics"
    charset = "utf-8"
    content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    #: The fields that the metrics need. A scrape asks the workers for no others.
    fields = ("active", "scheduled", "reserved", "revoked", "stats")

    #: The function that writes the metrics. It is imported when it is called, because its module
    #: needs prometheus-client, which projects without the extra do not have.
    writer = "celery_stats.metrics.openmetrics"

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None
    ) -> bytes:
        """Return the metrics of a report, or an error or the answer to OPTIONS as plain text."""
        response: Response = renderer_context["response"]
        if isinstance(response, ReportResponse):
            response.headers["Content-Type"] = self.content_type
            text: bytes = import_string(self.writer)(response.report)
            return text
        response.headers["Content-Type"] = "text/plain; charset=utf-8"
        lines = [f"{name}: {text}" if name else str(text) for name, text in texts(data)]
        return "".join(f"{' '.join(line.split())}\n" for line in lines).encode("utf-8", "replace")


class PrometheusRenderer(OpenMetricsRenderer):
    """Prometheus' own text format 0.0.4, for scrapers that do not know OpenMetrics."""

    media_type = "text/plain; version=0.0.4"
    content_type = "text/plain; version=0.0.4; charset=utf-8"
    writer = "celery_stats.metrics.prometheus"


#: The renderers of the extra ``metrics``; empty if prometheus-client is not installed, so that
#: REST framework answers 406 for their formats.
METRICS_RENDERERS: tuple[type[OpenMetricsRenderer], ...] = (
    (OpenMetricsRenderer, PrometheusRenderer) if find_spec("prometheus_client") else ()
)

#: Those that write a report, and not what ``Response.data`` says of it.
RENDERERS_OF_REPORTS = (ReportJSONRenderer, PageRenderer, OpenMetricsRenderer)
