"""The endpoint's contract: requests by REST framework's client, answers of real workers."""

from __future__ import annotations

from typing import Any

import pytest
from django.http import Http404
from django.test import override_settings
from rest_framework.authtoken.models import Token
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.test import APIClient

from celery_stats.query import PARAMETERS
from celery_stats.shapes import FIELDS
from tests.accounts.models import User
from tests.brokers import Broker, MakeBroker, Use

URL = "/api/celery-stats/"


@pytest.fixture
def workerless(make_broker: MakeBroker, use: Use) -> Broker:
    return use(make_broker())


def client_of(user: User) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Token {Token.objects.create(user=user).key}")
    return client


class TestAccess:
    @pytest.mark.django_db
    def test_without_token__401_and_a_challenge(self, client: APIClient) -> None:
        response = client.get(URL)
        assert response.status_code == 401
        assert response["WWW-Authenticate"] == "Token"
        assert set(response.json()) == {"detail"}

    @pytest.mark.django_db
    def test_unknown_token__401(self) -> None:
        client = APIClient(HTTP_AUTHORIZATION="Token 0123456789")
        assert client.get(URL).status_code == 401

    @pytest.mark.parametrize(
        ("flags", "status"),
        [
            ({}, 403),
            ({"is_support": True}, 200),
            ({"is_staff": True}, 200),
            ({"is_support": True, "is_active": False}, 401),
            ({"is_superuser": True}, 403),
        ],
    )
    def test_token_of_user__by_flags(
        self, db: None, workerless: Broker, flags: dict[str, bool], status: int
    ) -> None:
        user = User.objects.create_user("somebody", **flags)
        assert client_of(user).get(URL).status_code == status

    def test_session_of_support_user__200(self, workerless: Broker, support_user: User) -> None:
        client = APIClient()
        client.force_login(support_user)
        assert client.get(URL).status_code == 200

    def test_own_authentication_class__only_that(
        self, workerless: Broker, support_user: User, api: APIClient, settings: Any
    ) -> None:
        session = "rest_framework.authentication.SessionAuthentication"
        settings.DRF_CELERY_STATS = {
            **settings.DRF_CELERY_STATS,
            "AUTHENTICATION_CLASSES": [session],
        }
        assert (
            api.get(URL).status_code == 403
        )  # By token. The session class has no challenge, so not 401.
        client = APIClient()
        client.force_login(support_user)
        assert client.get(URL).status_code == 200

    @pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
    def test_other_methods__405(self, api: APIClient, method: str) -> None:
        response = getattr(api, method)(URL)
        assert response.status_code == 405
        assert set(response.json()) == {"detail"}

    def test_head_and_options__as_rest_framework_answers_them(
        self, api: APIClient, workerless: Broker
    ) -> None:
        head = api.head(URL)
        assert (head.status_code, head.content) == (200, b"")
        options = api.options(URL)
        assert options.status_code == 200
        assert options.json() == {
            "name": "Get Celery worker statistics",
            "description": "A snapshot of every Celery worker reachable through the broker, as "
            "the workers themselves describe it. A key that no worker answered is null; with no "
            "worker at all, all six are. For staff and support users.",
            "renders": [
                "application/json",
                "text/html",
                "application/openmetrics-text",
                "text/plain; version=0.0.4",
            ],
            "parses": [
                "application/json",
                "application/x-www-form-urlencoded",
                "multipart/form-data",
            ],
        }


def test_get__no_worker__six_nulls(api: APIClient, workerless: Broker) -> None:
    response = api.get(URL)
    assert response.status_code == 200
    assert list(response.json().items()) == [(name, None) for name in FIELDS]
    assert "Celery-Stats-Missing" not in response
    assert response["Cache-Control"] == "no-store"
    assert response["Content-Type"] == "application/json"


def test_get__two_workers__under_all_keys(api: APIClient, fleet: Broker, use: Use) -> None:
    use(fleet)
    response = api.get(URL)
    assert response.status_code == 200
    answer = response.json()
    assert list(answer) == list(FIELDS)
    assert all(list(answer[name]) == ["one@fleet", "two@fleet"] for name in FIELDS)


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("colour=red", "colour"),
        ("field=colour", "field"),
        *((f"{name}=", name) for name in PARAMETERS),
        ("&".join(f"task_id={n}" for n in range(101)), "task_id"),
        ("task_id=" + "x" * 10_000, "task_id"),
    ],
)
def test_get__bad_query__400_names_the_parameter(
    api: APIClient, query: str, parameter: str
) -> None:
    response = api.get(f"{URL}?{query}")
    assert response.status_code == 400
    assert list(response.json()) == [parameter]
    assert len(response.content) < 1000


@override_settings(DRF_CELERY_STATS={"CELERY_APP": "tests.nowhere:app"})
def test_get__celery_app_cannot_be_imported__503(api: APIClient) -> None:
    response = api.get(URL)
    assert response.status_code == 503
    assert int(response["Retry-After"]) > 0
    assert set(response.json()) == {"detail"}
    assert "nowhere" not in response.content.decode()


class TestNegotiation:
    OFFER = (
        "json (application/json), html (text/html), openmetrics (application/openmetrics-text), "
        "openmetrics (text/plain; version=0.0.4)."
    )

    @pytest.mark.parametrize(
        ("query", "accept", "detail"),
        [
            ("?format=xml", "*/*", f"There is no such format. On offer are: {OFFER}"),
            ("?format=", "*/*", f"There is no such format. On offer are: {OFFER}"),
            (
                "?format=html",
                "application/json",
                f"The Accept header excludes the format html. On offer are: {OFFER}",
            ),
            ("", "image/png", f"The Accept header excludes every format on offer: {OFFER}"),
        ],
    )
    def test_nothing_fits__406_says_what_is_on_offer(
        self, api: APIClient, query: str, accept: str, detail: str
    ) -> None:
        response = api.get(f"{URL}{query}", HTTP_ACCEPT=accept)
        assert response.status_code == 406
        assert response.json() == {"detail": detail}

    def test_no_query_parameter_for_the_format__accept_alone(
        self, api: APIClient, settings: Any
    ) -> None:
        settings.REST_FRAMEWORK = {**settings.REST_FRAMEWORK, "URL_FORMAT_OVERRIDE": None}
        response = api.get(f"{URL}?format=html", HTTP_ACCEPT="image/png")
        assert response.json()["detail"].startswith("The Accept header excludes every format")

    def test_permission_that_hides_the_endpoint__404(self, api: APIClient, settings: Any) -> None:
        settings.DRF_CELERY_STATS = {"PERMISSION_CLASSES": [f"{__name__}.Hidden"]}
        assert api.get(URL).status_code == 404


class Hidden(BasePermission):
    def has_permission(self, request: Request, view: Any) -> bool:
        raise Http404
