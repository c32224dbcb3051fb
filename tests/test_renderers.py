"""The representations of a report: JSON written once for all who share it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import RequestFactory
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.test import APIClient, force_authenticate

from celery_stats import views
from celery_stats.conf import conf
from celery_stats.control.question import Question
from celery_stats.report import Report, ReportOptions, share_report
from celery_stats.views import CeleryStatsView
from tests.accounts.models import User
from tests.brokers import Broker

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
