"""The view as users of REST framework use it: attributes, arguments, responses, handlers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test import Client, override_settings
from django.urls import path
from django.views.debug import ExceptionReporter
from rest_framework.authentication import SessionAuthentication, TokenAuthentication
from rest_framework.authtoken.models import Token
from rest_framework.exceptions import APIException
from rest_framework.permissions import AllowAny, BasePermission, IsAdminUser
from rest_framework.renderers import BrowsableAPIRenderer, JSONRenderer
from rest_framework.response import Response
from rest_framework.settings import api_settings
from rest_framework.test import APIClient
from rest_framework.throttling import BaseThrottle

from celery_stats import CeleryStatsError, get_report
from celery_stats.shapes import FIELDS
from celery_stats.views import CeleryStatsView
from tests.accounts.models import User
from tests.brokers import Broker, MakeBroker, Use
from tests.processes import free_port

URL = "/own/"
HTML = {"Accept": "text/html"}


class Nobody(BasePermission):
    def has_permission(self, request: Any, view: Any) -> bool:
        return False


class Never(BaseThrottle):
    def allow_request(self, request: Any, view: Any) -> bool:
        return False


class TightenedView(CeleryStatsView):
    permission_classes = (IsAdminUser, Nobody)


class TokensOnlyView(CeleryStatsView):
    authentication_classes = (TokenAuthentication,)


class ThrottledView(CeleryStatsView):
    throttle_classes = (Never,)


@pytest.fixture
def workerless(make_broker: MakeBroker, use: Use) -> Broker:
    return use(make_broker())


@pytest.fixture
def session(support_user: User) -> Client:
    support_user.is_staff = True
    support_user.save()
    client = Client()
    client.force_login(support_user)
    return client


def at(view: Callable[..., Any]) -> override_settings:
    """A project that has this view at the path ``own/``."""
    return override_settings(ROOT_URLCONF=(path("own/", view),))


class TestClasses:
    """Attributes of the class and arguments of ``as_view()`` win over the settings."""

    @pytest.mark.parametrize(
        "view",
        [
            TightenedView.as_view(),
            CeleryStatsView.as_view(permission_classes=[Nobody]),
            TightenedView.as_view(permission_classes=[IsAdminUser, Nobody]),
        ],
    )
    @pytest.mark.parametrize("headers", [{}, HTML])
    def test_permission_classes__instead_of_the_setting(
        self, session: Client, view: Any, headers: dict[str, str], settings: Any
    ) -> None:
        settings.DRF_CELERY_STATS = {
            **settings.DRF_CELERY_STATS,
            "PERMISSION_CLASSES": ["rest_framework.permissions.AllowAny"],
        }
        with at(view):
            assert session.get(URL, headers=headers).status_code == 403

    def test_permission_classes__may_also_open_it(
        self, client: Client, db: None, workerless: Broker
    ) -> None:
        with at(CeleryStatsView.as_view(permission_classes=[AllowAny])):
            assert client.get(URL).status_code == 200

    @pytest.mark.parametrize(
        "setting", [None, ["rest_framework.authentication.SessionAuthentication"]]
    )
    @pytest.mark.parametrize(
        "view",
        [
            TokensOnlyView.as_view(),
            CeleryStatsView.as_view(authentication_classes=[TokenAuthentication]),
            # The defaults, but named.
            CeleryStatsView.as_view(
                authentication_classes=[*api_settings.DEFAULT_AUTHENTICATION_CLASSES][:1]
            ),
        ],
    )
    def test_authentication_classes__nothing_is_added(
        self, session: Client, view: Any, setting: Any, settings: Any
    ) -> None:
        settings.DRF_CELERY_STATS = {
            **settings.DRF_CELERY_STATS,
            "AUTHENTICATION_CLASSES": setting,
        }
        with at(view):
            assert session.get(URL).status_code == 401
            # The page says that the session does not count.
            assert session.get(URL, headers=HTML).status_code == 401

    def test_authentication_classes__in_place_of_defaults_without_sessions(
        self, session: Client, workerless: Broker, settings: Any
    ) -> None:
        token = "rest_framework.authentication.TokenAuthentication"
        settings.REST_FRAMEWORK = {"DEFAULT_AUTHENTICATION_CLASSES": [token]}
        with at(CeleryStatsView.as_view(authentication_classes=[SessionAuthentication])):
            assert session.get(URL).status_code == 200
        with at(CeleryStatsView.as_view()):
            assert session.get(URL).status_code == 401
            assert session.get(URL, headers=HTML).status_code == 200

    def test_subclass_that_asks_for_the_user_first__the_user(
        self, session: Client, workerless: Broker
    ) -> None:
        seen: list[str] = []

        class Noting(CeleryStatsView):
            def initial(self, request: Any, *args: Any, **kwargs: Any) -> None:
                seen.append(request.user.username)
                super().initial(request, *args, **kwargs)

        with at(Noting.as_view()):
            assert session.get(URL).status_code == 200
        assert seen == ["support"]

    @pytest.mark.parametrize(
        "view", [ThrottledView.as_view(), CeleryStatsView.as_view(throttle_classes=[Never])]
    )
    def test_throttle_classes(self, session: Client, view: Any) -> None:
        with at(view):
            assert session.get(URL).status_code == 429

    def test_class_attributes__the_classes_of_the_settings(self, settings: Any) -> None:
        """As a test of the project may read them, which looks for open views."""
        settings.DRF_CELERY_STATS = {
            "PERMISSION_CLASSES": ["rest_framework.permissions.IsAdminUser"]
        }
        assert CeleryStatsView.permission_classes == [IsAdminUser]
        assert CeleryStatsView.authentication_classes == [
            TokenAuthentication,
            SessionAuthentication,
        ]

    def test_wrong_setting__the_urls_can_be_imported(self, session: Client, settings: Any) -> None:
        settings.DRF_CELERY_STATS = {"TIMEOUT": "1"}
        with at(CeleryStatsView.as_view(permission_classes=[IsAdminUser])):
            assert session.get(URL).status_code == 503


class ForcedToChangeThePassword(BasePermission):
    """A default of some projects, which concerns every view."""

    def has_permission(self, request: Any, view: Any) -> bool:
        return not request.user.username.startswith("new-")


def test_default_permission_classes__apply_where_they_are_named(
    db: None, workerless: Broker, settings: Any
) -> None:
    defaults = [f"{__name__}.ForcedToChangeThePassword"]
    settings.REST_FRAMEWORK = {
        **settings.REST_FRAMEWORK,
        "DEFAULT_PERMISSION_CLASSES": defaults,
    }
    client = APIClient()
    client.force_authenticate(User.objects.create_user("new-ada", is_staff=True))
    assert client.get("/api/celery-stats/").status_code == 200
    settings.DRF_CELERY_STATS = {
        **settings.DRF_CELERY_STATS,
        "PERMISSION_CLASSES": [*defaults, "celery_stats.permissions.IsSupportUser"],
    }
    assert client.get("/api/celery-stats/").status_code == 403
    client.force_authenticate(User.objects.create_user("ada", is_staff=True))
    assert client.get("/api/celery-stats/").status_code == 200
    client.force_authenticate(User.objects.create_user("plain"))
    assert client.get("/api/celery-stats/").status_code == 403


class TestData:
    """``response.data`` is a plain dict, as in every other view."""

    def test_data__the_six_keys(self, api: APIClient, fleet: Broker, use: Use) -> None:
        use(fleet)
        response = api.get("/api/celery-stats/")
        assert type(response.data) is dict
        assert list(response.data) == list(FIELDS)
        assert list(response.data["stats"]) == ["one@fleet", "two@fleet"]
        assert response.data == response.json()

    @pytest.mark.parametrize("kind", ["application/json", "text/html"])
    def test_other_renderers__take_it(
        self, session: Client, workerless: Broker, kind: str
    ) -> None:
        renderers = [JSONRenderer, BrowsableAPIRenderer]
        with at(CeleryStatsView.as_view(renderer_classes=renderers)):
            response = session.get(URL, headers={"Accept": kind})
        assert response.status_code == 200
        assert b"query_task" in response.content
        assert response["Content-Type"].startswith(kind)

    def test_changed__in_that_response_alone(
        self, api: APIClient, session: Client, fleet: Broker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        report = get_report(app=fleet.app)
        monkeypatch.setattr("celery_stats.views.share_report", lambda *args: report)
        before = report.json()

        class Changed(CeleryStatsView):
            def get(self, *args: Any, **kwargs: Any) -> Response:
                response = super().get(*args, **kwargs)
                response.data["stats"]["one@fleet"]["pid"] = "changed"
                response.data["more"] = 7
                return response

        with at(Changed.as_view()):
            changed = session.get(URL).json()
        assert changed["stats"]["one@fleet"]["pid"] == "changed"
        assert changed["more"] == 7
        assert report.json() == before
        assert api.get("/api/celery-stats/").content == before
        assert isinstance(report.answers["stats"]["one@fleet"]["pid"], int)


@pytest.mark.django_db(transaction=True)
def test_atomic_requests__no_transaction_while_workers_are_asked(
    monkeypatch: pytest.MonkeyPatch, workerless: Broker
) -> None:
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    open_transactions: list[bool] = []
    report = get_report(app=workerless.app)

    def noted(*args: Any) -> Any:
        open_transactions.append(connection.in_atomic_block)
        return report

    monkeypatch.setattr("celery_stats.views.share_report", noted)
    client = APIClient()
    user = User.objects.create_user("ada", is_staff=True)
    client.credentials(HTTP_AUTHORIZATION=f"Token {Token.objects.create(user=user).key}")
    assert client.get("/api/celery-stats/").status_code == 200
    assert open_transactions == [False]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("kind", "hidden"), [("json", False), ("openmetrics", True)])
def test_metrics__arguments_are_not_searched(
    monkeypatch: pytest.MonkeyPatch, workerless: Broker, kind: str, hidden: bool
) -> None:
    seen: list[bool] = []
    report = get_report(app=workerless.app)

    def noted(question: Any, options: Any) -> Any:
        seen.append(options.hide_arguments)
        return report

    monkeypatch.setattr("celery_stats.views.share_report", noted)
    client = APIClient()
    user = User.objects.create_user("ada", is_staff=True)
    client.credentials(HTTP_AUTHORIZATION=f"Token {Token.objects.create(user=user).key}")
    assert client.get(f"/api/celery-stats/?format={kind}").status_code == 200
    assert seen == [hidden]


def standardized(exc: Exception, context: Any) -> Response | None:
    """An exception handler with bodies of another shape, which logs what it gets."""
    if not isinstance(exc, APIException):
        return None
    logging.getLogger(__name__).error("Handled", exc_info=exc)
    detail = str(exc.detail) if isinstance(exc.detail, str) else "A parameter is wrong."
    error = {"code": exc.default_code, "detail": detail, "attr": None}
    return Response({"type": "server_error", "errors": [error]}, status=exc.status_code)


class TestErrors:
    PASSWORD = "hunter2"

    @pytest.fixture
    def down(self, make_broker: MakeBroker, use: Use) -> Broker:
        url = f"redis://:{self.PASSWORD}@127.0.0.1:{free_port()}/0"
        return use(make_broker(broker_url=url))

    def test_503__one_line_of_ours(
        self, api: APIClient, down: Broker, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert api.get("/api/celery-stats/").status_code == 503
        (line,) = [r for r in caplog.records if r.name.startswith("celery_stats")]
        assert line.getMessage().startswith("No snapshot: BrokerUnavailable: ")
        assert line.exc_info is None

    def test_503_under_another_handler__nothing_chained(
        self, api: APIClient, down: Broker, settings: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        settings.REST_FRAMEWORK = {
            **settings.REST_FRAMEWORK,
            "EXCEPTION_HANDLER": f"{__name__}.standardized",
        }
        response = api.get("/api/celery-stats/")
        assert response.status_code == 503
        assert response.json()["type"] == "server_error"
        (logged,) = [r for r in caplog.records if r.name == __name__]
        error = logged.exc_info[1] if logged.exc_info else None
        assert error is not None
        assert error.__traceback__ is None
        assert error.__cause__ is None
        assert error.__context__ is None

    def test_metrics_under_another_handler__lines_of_text(
        self, api: APIClient, down: Broker, settings: Any
    ) -> None:
        settings.REST_FRAMEWORK = {
            **settings.REST_FRAMEWORK,
            "EXCEPTION_HANDLER": f"{__name__}.standardized",
        }
        response = api.get("/api/celery-stats/?format=openmetrics")
        assert response.content.decode() == (
            "type: server_error\n"
            "code: service_unavailable\n"
            "The Celery broker is unavailable. Try again shortly.\n"
            "attr: None\n"
        )

    def test_page_under_another_handler__texts(
        self, api: APIClient, down: Broker, settings: Any
    ) -> None:
        settings.REST_FRAMEWORK = {
            **settings.REST_FRAMEWORK,
            "EXCEPTION_HANDLER": f"{__name__}.standardized",
        }
        response = api.get("/api/celery-stats/?colour=red", headers=HTML)
        assert response.status_code == 400
        page = response.content.decode()
        assert "A parameter is wrong." in page
        assert "&#x27;" not in page  # the quotes of a dict that is written by Python

    def test_error_report_of_django__no_password(self, down: Broker, rf: Any) -> None:
        """Where a project lets the exception out of a view of its own."""
        with pytest.raises(CeleryStatsError) as raised:
            get_report(app=down.app)
        # Without the frame of this test, which knows the password.
        reporter = ExceptionReporter(rf.get("/"), raised.type, raised.value, raised.tb.tb_next)
        assert "share_report" in reporter.get_traceback_html()
        assert self.PASSWORD not in reporter.get_traceback_html()
        assert self.PASSWORD not in reporter.get_traceback_text()
