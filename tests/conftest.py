from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import hypothesis
import pytest
from rest_framework.authtoken.models import Token
from rest_framework.test import APIClient

from tests import celery_app
from tests.accounts.models import User
from tests.brokers import AMQP_URL, Broker, MakeBroker, RedisServer, Use
from tests.chromium import Record, chromium, page_servers

#: The files that take longest, which therefore begin first.
LONGEST = (
    *("recipes", "browser", "wheel", "snapshot", "setting_up", "worker", "hostile", "demo"),
    *("faults", "evidence", "evidence_retry", "evidence_amqp", "presence", "command"),
)

KINDS = ("redis", "filesystem", "amqp")

_dbs = count(1)

# A busy machine is no mistake, and no file is left behind.
hypothesis.settings.register_profile(
    "celery_stats",
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("celery_stats")


#: A test with one of these fixtures or marks is not quick.
SLOW_FIXTURES = {"redis_server", "own_redis", "make_broker", "fleet", "browser", "recorded"}
SLOW_MARKS = {"broker", "browser", "clients", "dropin"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        fixtures = SLOW_FIXTURES.intersection(getattr(item, "fixturenames", ()))
        if not fixtures and not any(item.get_closest_marker(name) for name in SLOW_MARKS):
            item.add_marker("quick")
    ranks = {f"test_{name}": rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.stop()


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis without other callers."""
    server = RedisServer()
    yield server
    server.stop()


@pytest.fixture
def alone(own_redis: RedisServer) -> Iterator[Broker]:
    """A place on a Redis without other callers."""
    broker = Broker("redis", f"redis://127.0.0.1:{own_redis.port}/0")
    yield broker
    broker.close()


def place(kind: str, request: pytest.FixtureRequest, **config: Any) -> Broker:
    if kind == "redis":
        server = request.getfixturevalue("redis_server")
        return Broker(kind, f"redis://127.0.0.1:{server.port}/{next(_dbs)}", **config)
    if kind == "amqp":
        if AMQP_URL is None:
            pytest.skip("CELERY_STATS_TEST_AMQP_URL names no RabbitMQ")
        return Broker(kind, AMQP_URL, **config)
    return Broker(kind, "filesystem://", **config)


@pytest.fixture
def make_broker(request: pytest.FixtureRequest) -> Iterator[MakeBroker]:
    """Make brokers of a kind with workers; each is a place of its own, gone at the end."""
    made: list[Broker] = []

    def make(kind: str = "redis", *workers: str, **config: Any) -> Broker:
        made.append(place(kind, request, **config))
        made[-1].fleet(*workers)
        return made[-1]

    yield make
    for broker in made:
        broker.close()


@pytest.fixture(scope="session", params=KINDS)
def fleet(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """Two idle workers, for tests that leave them as they are."""
    broker = place(request.param, request)
    broker.fleet("one@fleet", "two@fleet")
    yield broker
    broker.close()


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Point the endpoint to a broker's Celery app."""

    def point(broker: Broker) -> Broker:
        monkeypatch.setattr(celery_app, "app", broker.app)
        return broker

    return point


@pytest.fixture
def support_user(db: None) -> User:
    return User.objects.create_user("support", is_support=True)


@pytest.fixture
def api(support_user: User) -> APIClient:
    """A support user with a token."""
    client = APIClient()
    token = Token.objects.create(user=support_user)
    client.credentials(HTTP_AUTHORIZATION=f"Token {token.key}")
    return client


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Record]:
    """Serve pages over recorded answers that anybody may see."""
    with page_servers(tmp_path_factory.mktemp("pages")) as serve:
        yield serve
