"""The representations of a report: JSON written once for all who share it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory, override_settings
from django.urls import path
from django.views.decorators.clickjacking import xframe_options_exempt
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.test import APIClient, force_authenticate

from celery_stats import views
from celery_stats.conf import conf
from celery_stats.control.question import Question
from celery_stats.renderers import protect
from celery_stats.report import Report, ReportOptions, share_report
from celery_stats.views import CeleryStatsView
from tests.accounts.models import User
from tests.brokers import Broker, MakeBroker, Use

URL = "/api/celery-stats/"


class TestSharedBody:
    @pytest.fixture
    def shared(self, fleet: Broker, monkeypatch: pytest.MonkeyPatch) -> Report:
        """The report of two workers, which all callers share."""
        report = share_report(Question(), ReportOptions.from_conf(conf, app=fleet.app))
        monkeypatch.setattr(views, "share_report", lambda *args, **kwargs: report)
        return report

    def test_callers_who_share__rendered_once(
        self, api: APIClient, shared: Report, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rendered: list[Any] = []
        render = JSONRenderer.render

        def noted(self: JSONRenderer, data: Any, *args: Any) -> Any:
            rendered.append(data)
            return render(self, data, *args)

        monkeypatch.setattr(JSONRenderer, "render", noted)
        bodies = [api.get(URL).content for _ in range(3)]
        assert json.loads(bodies[0]) == shared.answers
        assert bodies == [bodies[0]] * 3
        assert rendered == [shared.answers]

    def test_indented_for_one__compact_for_the_others(
        self, api: APIClient, shared: Report
    ) -> None:
        compact = api.get(URL)
        indented = api.get(URL, HTTP_ACCEPT="application/json; indent=4")
        again = api.get(URL)
        assert compact.content == again.content
        assert b"\n" not in compact.content
        assert indented.content.startswith(b'{\n    "active": {')
        assert indented.json() == compact.json()

    def test_too_large_to_be_indented__compact(
        self, api: APIClient, shared: Report, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("celery_stats.report.MAX_INDENTED", len(shared.json()) - 1)
        assert api.get(URL, HTTP_ACCEPT="application/json; indent=4").content == shared.json()

    def test_error__not_the_shared_body(self, api: APIClient, shared: Report) -> None:
        api.get(URL)
        assert api.get(URL, {"colour": "red"}).json().keys() == {"colour"}

    def test_subclass_with_another_answer__not_the_shared_body(
        self, api: APIClient, shared: Report, support_user: User, rf: RequestFactory
    ) -> None:
        api.get(URL)  # The report keeps the body.

        class Names(CeleryStatsView):
            def get(self, request: Request, **kwargs: Any) -> Response:
                return Response(sorted(super().get(request).data["stats"]))

        request = rf.get(URL)
        force_authenticate(request, support_user)
        assert json.loads(Names.as_view()(request).render().content) == ["one@fleet", "two@fleet"]


#: What a middleware knows that merges policies from a list of its own.
MERGED = {
    **dict.fromkeys(("default-src", "script-src", "style-src", "img-src", "connect-src")),
    **dict.fromkeys(("font-src", "object-src", "frame-src", "media-src", "form-action")),
}


def merging(get_response: Any) -> Any:
    """A middleware that merges the project's policy with that of the response, and is strict."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        merged: dict[str, list[str]] = {name: ["'self'"] for name in MERGED}
        for part in response["Content-Security-Policy"].split(";"):
            name, *sources = part.split()
            assert name in merged, f"unknown directive {name}"
            assert sources, f"{name} has no sources"
            merged[name] += sources
        rendered = "; ".join(" ".join([name, *sources]) for name, sources in merged.items())
        response["Content-Security-Policy"] = rendered
        return response

    return middleware


class TestHeadersOfThePage:
    @pytest.fixture
    def page(self, support_user: User, make_broker: MakeBroker, use: Use) -> Callable[..., Any]:
        use(make_broker())
        client = Client()
        client.force_login(support_user)
        return lambda url=URL: client.get(url, headers={"Accept": "text/html"})

    def test_middleware_that_merges_policies__the_page(
        self, page: Callable[..., Any], settings: Any
    ) -> None:
        settings.MIDDLEWARE = [f"{__name__}.merging", *settings.MIDDLEWARE]
        for query, status in (("", 200), ("?colour=red", 400)):
            response = page(f"{URL}{query}")
            assert response.status_code == status
            assert "script-src 'self' 'self'" in response["Content-Security-Policy"]

    @pytest.mark.parametrize(
        ("middleware", "own", "sent"),
        [
            ([], "DENY", "DENY"),
            ([], "SAMEORIGIN", "SAMEORIGIN"),
            (["django.middleware.clickjacking.XFrameOptionsMiddleware"], "DENY", "DENY"),
            (
                ["django.middleware.clickjacking.XFrameOptionsMiddleware"],
                "sameorigin",
                "SAMEORIGIN",
            ),
        ],
    )
    def test_x_frame_options__as_the_project_sets_them(
        self, page: Callable[..., Any], settings: Any, middleware: list[str], own: str, sent: str
    ) -> None:
        settings.MIDDLEWARE = [*middleware, *settings.MIDDLEWARE]
        settings.X_FRAME_OPTIONS = own
        assert page()["X-Frame-Options"] == sent

    def test_view_that_may_be_framed__no_x_frame_options(self, page: Callable[..., Any]) -> None:
        view = xframe_options_exempt(CeleryStatsView.as_view())
        with override_settings(ROOT_URLCONF=(path("own/", view),)):
            assert "X-Frame-Options" not in page("/own/")

    def test_policy_of_a_subclass__kept(self, page: Callable[..., Any]) -> None:
        class Own(CeleryStatsView):
            def get(self, request: Request, **kwargs: Any) -> Response:
                response = super().get(request)
                response["Content-Security-Policy"] = "default-src 'self'"
                return response

        with override_settings(ROOT_URLCONF=(path("own/", Own.as_view()),)):
            assert page("/own/")["Content-Security-Policy"] == "default-src 'self'"

    @pytest.mark.parametrize(
        ("middleware", "policy", "is_own"),
        [
            ("django.middleware.csp.ContentSecurityPolicyMiddleware", {"default-src": []}, True),
            ("django.middleware.csp.ContentSecurityPolicyMiddleware", {}, False),
            ("csp.middleware.CSPMiddleware", None, True),
            ("django.middleware.common.CommonMiddleware", {"default-src": []}, False),
        ],
    )
    def test_policy_of_the_projects_settings__ours_is_not_sent(
        self, settings: Any, middleware: str, policy: Any, is_own: bool
    ) -> None:
        settings.MIDDLEWARE = [middleware]
        settings.SECURE_CSP = policy
        response = Response()
        protect(response, "/static/page.css")
        assert ("Content-Security-Policy" not in response) is is_own
