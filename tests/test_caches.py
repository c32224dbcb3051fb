"""No cache of the project stores an answer, whichever way the project caches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.core.cache import cache
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.test import Client
from django.urls import path
from django.utils.decorators import method_decorator
from django.views.decorators.cache import cache_page
from rest_framework.test import APIClient

from celery_stats.views import CeleryStatsView
from tests.accounts.models import User
from tests.brokers import Broker, MakeBroker, Use

SITE = "/api/celery-stats/"
HTML = {"Accept": "text/html"}


@method_decorator(cache_page(60), name="dispatch")
class DispatchCached(CeleryStatsView):
    pass


@method_decorator(cache_page(60), name="get")
class GetCached(CeleryStatsView):
    pass


urlpatterns = [
    path("api/celery-stats/", CeleryStatsView.as_view()),
    path("page/", cache_page(60)(CeleryStatsView.as_view())),
    path("dispatch/", DispatchCached.as_view()),
    path("get/", GetCached.as_view()),
]


def replaces_the_header(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """Set one Cache-Control for the whole site, as some projects do."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        response["Cache-Control"] = "max-age=60"
        return response

    return middleware


@pytest.fixture
def workerless(make_broker: MakeBroker, use: Use) -> Broker:
    return use(make_broker())


@pytest.fixture(params=["site", "site whose header is replaced", "page", "dispatch", "get"])
def url(request: pytest.FixtureRequest, settings: Any) -> str:
    """The endpoint behind one of Django's caches, which holds nothing yet."""
    cache.clear()
    settings.ROOT_URLCONF = __name__
    if not request.param.startswith("site"):
        return f"/{request.param}/"
    inner = list(settings.MIDDLEWARE)
    if request.param == "site whose header is replaced":
        inner.insert(0, f"{__name__}.replaces_the_header")
    settings.MIDDLEWARE = [
        "django.middleware.cache.UpdateCacheMiddleware",
        *inner,
        "django.middleware.cache.FetchFromCacheMiddleware",
    ]
    return SITE


def stored() -> list[str]:
    """The keys in Django's local-memory cache, the default one."""
    return list(cache._cache)  # type: ignore[attr-defined]


def test_stored__what_another_view_answers(settings: Any, client: Client) -> None:
    """The other tests would pass with a cache that never stores."""
    cache.clear()
    settings.MIDDLEWARE = [
        "django.middleware.cache.UpdateCacheMiddleware",
        "django.middleware.cache.FetchFromCacheMiddleware",
    ]
    assert client.get("/api/schema/").status_code == 200
    assert stored()


def test_get__after_a_staff_members__401(url: str, api: APIClient, workerless: Broker) -> None:
    assert api.get(url).status_code == 200
    assert APIClient().get(url).status_code == 401
    assert APIClient().head(url).status_code == 401
    assert stored() == []


def test_head__after_a_staff_members__401(url: str, api: APIClient, workerless: Broker) -> None:
    assert api.head(url).status_code == 200
    assert APIClient().head(url).status_code == 401
    assert APIClient().get(url).status_code == 401
    assert stored() == []


def test_page__after_a_staff_members__login(
    url: str, support_user: User, workerless: Broker
) -> None:
    client = APIClient()
    client.force_login(support_user)
    assert client.get(url, headers=HTML).status_code == 200
    response = APIClient().get(url, headers=HTML)
    assert response.status_code == 302
    assert response["Location"].startswith("/login/")
    assert stored() == []


def test_get__after_a_refusal__the_answer(url: str, api: APIClient, workerless: Broker) -> None:
    assert APIClient().get(url).status_code == 401
    assert APIClient().get(url, headers=HTML).status_code == 302
    assert api.get(url, {"colour": "red"}).status_code == 400
    assert api.get(url).status_code == 200
    assert stored() == []


def test_get__after_a_503__the_answer(
    url: str, api: APIClient, workerless: Broker, settings: Any
) -> None:
    right = settings.DRF_CELERY_STATS
    settings.DRF_CELERY_STATS = {"CELERY_APP": "tests.nowhere:app"}
    assert api.get(url).status_code == 503
    assert api.get(url, headers=HTML).status_code == 503
    settings.DRF_CELERY_STATS = right
    assert api.get(url).status_code == 200
    assert stored() == []


@pytest.mark.django_db
def test_get__vary__by_all_that_tells_callers_apart(api: APIClient, workerless: Broker) -> None:
    answers = [api.get(SITE), api.get(SITE, headers=HTML)]
    refusals = [APIClient().get(SITE), APIClient().get(SITE, headers=HTML)]
    assert [r.status_code for r in answers + refusals] == [200, 200, 401, 302]
    for response in answers + refusals:
        vary = {name.strip() for name in response["Vary"].split(",")}
        assert vary == {"Accept", "Authorization", "Cookie"}
        assert response["Cache-Control"] == "no-store"
