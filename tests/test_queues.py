"""The lengths of queues on real brokers, and where they are shown."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

import pytest
from kombu import Connection, Queue
from kombu.common import Broadcast
from rest_framework.test import APIClient

from celery_stats import views
from celery_stats.control.question import Question
from celery_stats.control.queues import consumers_by_queue, queue_lengths
from celery_stats.report import Report
from celery_stats.shapes import FIELDS
from tests.asking import take
from tests.brokers import Broker, MakeBroker, RedisServer, Use
from tests.processes import wait_until
from tests.test_evidence import proxied

URL = "/api/celery-stats/"
KINDS = ("redis", "filesystem", "amqp")


@pytest.fixture(params=KINDS)
def broker(request: pytest.FixtureRequest, make_broker: MakeBroker) -> Iterator[Broker]:
    broker = make_broker(request.param)
    names = [f"{broker.namespace}.{name}" for name in ("one", "two", "routed")]
    yield broker
    if broker.kind == "amqp":
        with Connection(broker.url) as connection:
            for name in names:
                connection.default_channel.queue_delete(name)


def name_of(broker: Broker, name: str) -> str:
    return f"{broker.namespace}.{name}"


def send(broker: Broker, queue: str, number: int = 1, **options: Any) -> None:
    for _ in range(number):
        broker.app.send_task("tests.nap", queue=queue, **options)


@contextmanager
def connected(broker: Broker) -> Iterator[Connection]:
    with broker.app.connection_for_write() as connection:
        yield connection


def lengths(broker: Broker, consumed: Any = (), within: float = 5.0) -> dict[str, int]:
    """Return the length by name of the queue, without the prefix that is unique to each test."""
    with connected(broker) as connection:
        found = queue_lengths(broker.app, connection, consumed, within)
    return {name.removeprefix(f"{broker.namespace}."): n for name, n in found.items()}


def wait_for(broker: Broker, expected: dict[str, int]) -> None:
    """Wait until the queues have these lengths, because RabbitMQ counts messages with a delay."""
    wait_until(lambda: lengths(broker) == expected, what=str(expected))


def test_queue_lengths__default_queue__its_messages(broker: Broker) -> None:
    assert lengths(broker) == {"tasks": 0}
    broker.send()
    broker.send()
    wait_for(broker, {"tasks": 2})


def test_queue_lengths__declared_queues__each_and_0_where_it_does_not_exist(
    broker: Broker,
) -> None:
    one, two = (Queue(name_of(broker, name)) for name in ("one", "two"))
    broker.app.conf.task_queues = [Queue(name_of(broker, "none")), one, two]
    send(broker, one.name, 3)
    send(broker, two.name, 1)
    # With AMQP the declaration of the first queue fails and closes the channel.
    wait_for(broker, {"none": 0, "one": 3, "two": 1})


def test_queue_lengths__routes__the_queues_that_they_name(broker: Broker) -> None:
    broker.app.conf.task_routes = (
        {"a.*": {"queue": name_of(broker, "routed")}, "b": name_of(broker, "one")},
        [("c", {"queue": Queue(name_of(broker, "two"))}), ("d", {"priority": 3})],
        lambda *args, **kwargs: None,
    )
    send(broker, name_of(broker, "routed"), 2)
    wait_for(broker, {"tasks": 0, "routed": 2, "one": 0, "two": 0})


def test_queue_lengths__nothing_is_declared(broker: Broker) -> None:
    broker.app.conf.task_queues = [Queue(name_of(broker, "none"))]
    lengths(broker)
    with connected(broker) as connection:
        if broker.kind == "redis":
            assert connection.default_channel.client.keys("*") == []
        elif broker.kind == "amqp":
            with pytest.raises(connection.channel_errors, match="404"):
                connection.channel().queue_declare(name_of(broker, "none"), passive=True)


def test_queue_lengths__queues_that_the_process_has_sent_to__not_of_the_configuration(
    make_broker: MakeBroker,
) -> None:
    broker = make_broker()
    send(broker, name_of(broker, "one"))
    assert lengths(broker) == {"tasks": 0}


def test_queue_lengths__mapping_and_broadcast__names_without_the_random_one(
    make_broker: MakeBroker,
) -> None:
    broker = make_broker()
    broker.app.conf.task_queues = {
        name_of(broker, "one"): {"exchange": "x"},
        "alias": Queue(name_of(broker, "two")),
        "all": Broadcast("all"),
    }
    assert lengths(broker) == {"one": 0, "two": 0}


def test_queue_lengths__priorities_on_redis__all_counted(make_broker: MakeBroker) -> None:
    broker = make_broker()
    for priority in (0, 3, 6, 9):
        send(broker, name_of(broker, "tasks"), priority=priority)
    assert lengths(broker) == {"tasks": 4}


@pytest.mark.parametrize(
    "options",
    [
        {"global_keyprefix": "shop:"},
        {"global_keyprefix": "{shop}"},
        {"sep": ":", "priority_steps": [0, 5]},
    ],
    ids=lambda options: " ".join(map(str, options.values())),
)
def test_queue_lengths__options_of_redis__counted_where_kombu_keeps_the_messages(
    make_broker: MakeBroker, options: dict[str, Any]
) -> None:
    broker = make_broker(broker_transport_options=options)
    for priority in (0, 5, 9):
        send(broker, name_of(broker, "tasks"), priority=priority)
    assert lengths(broker) == {"tasks": 3}


def test_queue_lengths__redis_user_without_the_right__left_out_and_logged_once(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    own_redis.client().acl_setuser(
        "reader",
        enabled=True,
        passwords=["+secret"],
        keys=["mine*"],
        categories=["+@all"],
    )
    broker = Broker("redis", f"redis://reader:secret@127.0.0.1:{own_redis.port}/0")
    broker.app.conf.task_queues = [Queue("mine"), Queue("theirs")]
    try:
        assert [lengths(broker) for _ in range(2)] == [{"mine": 0}] * 2
    finally:
        broker.close()
    (line,) = [message for message in caplog.messages if "theirs" in message]
    assert line.startswith("The broker refused LLEN of 'theirs': NoPermissionError")


def test_queue_lengths__consumed_queues__counted_after_the_configured_ones(
    broker: Broker,
) -> None:
    send(broker, name_of(broker, "one"), 2)
    consumed = [name_of(broker, name) for name in ("one", "tasks", "two")]
    expected = {"tasks": 0, "one": 2, "two": 0}
    wait_until(lambda: lengths(broker, consumed=consumed) == expected)
    assert list(lengths(broker, consumed=consumed)) == list(expected)


def test_consumers_by_queue__who_consumes_what__without_broadcasts_and_odd_replies() -> None:
    def queue(name: Any, kind: str = "direct") -> dict[str, Any]:
        return {"name": name, "exchange": {"name": "x", "type": kind}}

    replies = {
        "b@h": [
            queue("mail"),
            queue("bcast.1", "fanout"),
            queue(7),
            "odd",
            queue("x" * 256),
            queue("\N{LATIN SMALL LETTER E WITH ACUTE}" * 128),
            queue("\ud800"),
        ],
        "a@h": [queue("mail"), queue("celery"), {"name": "bare"}],
        "c@h": {"error": "no"},
        "d@h": None,
    }
    assert consumers_by_queue(replies) == {
        "bare": ["a@h"],
        "celery": ["a@h"],
        "mail": ["a@h", "b@h"],
    }


def test_queue_lengths__another_kind_of_value_on_redis__left_out(make_broker: MakeBroker) -> None:
    broker = make_broker()
    with connected(broker) as connection:
        connection.default_channel.client.set(name_of(broker, "tasks"), "text")
    assert lengths(broker) == {}


def test_queue_lengths__refused_by_rabbitmq__left_out(make_broker: MakeBroker) -> None:
    broker = make_broker("amqp")
    own = Queue(name_of(broker, "own"), exclusive=True)
    broker.app.conf.task_queues = [own, Queue(name_of(broker, "none"))]
    with connected(broker) as connection:
        own(connection.default_channel).queue_declare()
        assert lengths(broker) == {"none": 0}


def test_queue_lengths__too_many__the_first_100(make_broker: MakeBroker) -> None:
    broker = make_broker()
    broker.app.conf.task_queues = [Queue(name_of(broker, f"{n:03}")) for n in range(120)]
    assert list(lengths(broker, within=30)) == [f"{n:03}" for n in range(100)]


def test_queue_lengths__too_many_and_refused__no_more_than_100_are_asked_for(
    make_broker: MakeBroker,
) -> None:
    broker = make_broker()
    names = [name_of(broker, f"{n:03}") for n in range(120)]
    broker.app.conf.task_queues = [Queue(name) for name in names]
    with connected(broker) as connection:
        for name in names[:10]:
            # Redis refuses to tell the length of a value that is not a list.
            connection.default_channel.client.set(name, "text")
    assert list(lengths(broker, within=30)) == [f"{n:03}" for n in range(10, 100)]


def test_queue_lengths__no_time_left__none(make_broker: MakeBroker) -> None:
    assert lengths(make_broker(), within=0) == {}


def test_queue_lengths__time_is_over_meanwhile__those_before(make_broker: MakeBroker) -> None:
    broker = make_broker("amqp")
    broker.app.conf.task_queues = [Queue(name_of(broker, f"{n:03}")) for n in range(100)]
    with proxied(broker) as (proxy, app), app.connection_for_write() as connection:
        connection.connect()
        proxy.delay = 0.05
        began = time.monotonic()
        found = queue_lengths(broker.app, connection, (), 1.0)
        assert time.monotonic() - began < 5
    assert 0 < len(found) < 100


def test_take_snapshot__queues_asked_for__beside_whole_answers(broker: Broker) -> None:
    broker.app.conf.task_queues = [Queue(name_of(broker, "none")), Queue(name_of(broker, "one"))]
    broker.fleet("one@h")
    send(broker, name_of(broker, "one"), 2)
    wait_for(broker, {"none": 0, "one": 2})
    for _ in range(2):  # The second snapshot uses the connection of the first.
        snapshot = take(broker.app, queues=True)
        assert all(snapshot.answers[field] is not None for field in FIELDS)
        assert snapshot.queues == {
            name_of(broker, "none"): 0,
            name_of(broker, "one"): 2,
            name_of(broker, "tasks"): 0,  # The worker consumes it.
        }


@pytest.mark.parametrize("with_app", [False, True], ids=["without the app", "with the app"])
def test_take_snapshot__consumers__known_and_nothing_in_the_log_of_the_worker(
    make_broker: MakeBroker, with_app: bool
) -> None:
    broker = make_broker()
    (worker,) = broker.fleet("one@h", with_app=with_app)
    send(broker, name_of(broker, "one"))
    for _ in range(2):
        snapshot = take(broker.app, queues=True)
        assert consumers_by_queue(snapshot.active_queues or {}) == {
            name_of(broker, "tasks"): ["one@h"]
        }
    assert "Traceback" not in worker.log.read_text()


def test_take_snapshot__queues_not_asked_for__none(make_broker: MakeBroker) -> None:
    snapshot = take(make_broker().app, 0.1)
    assert snapshot.queues is None


def test_metrics__backlog_behind_a_busy_worker__the_length_of_the_queue(
    make_broker: MakeBroker, use: Use, api: APIClient
) -> None:
    broker = use(make_broker("redis", "one@h", worker_prefetch_multiplier=1))
    for _ in range(5):
        broker.send(seconds=600)
    sample = f'celery_queue_length{{queue_name="{broker.namespace}.tasks"}} '

    def length() -> float:
        text = api.get(f"{URL}?format=openmetrics").content.decode()
        return float(text.partition(sample)[2].partition("\n")[0])

    # Of five messages one is executed and one is reserved.
    wait_until(lambda: length() == 3)


def test_json_and_narrowed_page__no_queue_is_looked_at(
    make_broker: MakeBroker, use: Use, api: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(make_broker())
    looked: list[Any] = []
    monkeypatch.setattr(
        "celery_stats.control.snapshot.queue_lengths",
        lambda *args, **kwargs: looked.append(args) or {},
    )
    assert list(api.get(URL).json()) == list(FIELDS)
    api.get(f"{URL}?format=html&field=stats")
    assert looked == []
    api.get(f"{URL}?format=html")
    assert len(looked) == 1


class TestPage:
    @pytest.fixture
    def shown(self, api: APIClient, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
        """Return a function that returns the page for these queues and what consumes them."""

        def show(
            queues: dict[str, int] | None,
            active_queues: Any = None,
            *,
            workers: tuple[str, ...] = (),
            **answers: dict[str, Any],
        ) -> str:
            answer = {**dict.fromkeys(FIELDS), **answers}
            now, question = datetime.now(timezone.utc), Question(workers=workers)
            report = Report(
                answer, {}, now, 0.1, queues, active_queues=active_queues, question=question
            )
            monkeypatch.setattr(views, "share_report", lambda *args, **kwargs: report)
            response = api.get(f"{URL}?format=html")
            assert response.status_code == 200
            return " ".join(response.content.decode().split())

        return show

    def test_queues__the_longest_first(self, shown: Callable[..., str]) -> None:
        html = shown({"b": 0, "a": 0, "mail": 1234})
        cells = re.findall(
            r'<bdi dir="ltr" class="wrap">([^<]*)</bdi>.{0,9}</th>.*?>([^<]*)</td>', html
        )
        assert cells == [("mail", "1,234"), ("a", "0"), ("b", "0")]

    def test_backlog__not_green_where_nobody_consumes_it(self, shown: Callable[..., str]) -> None:
        active_queues = {"a@h": [{"name": "mail"}]}
        html = shown({"mail": 5, "celery": 0}, active_queues, stats={"a@h": {}})
        assert "Every worker answered" in html
        assert "no worker that answered" not in html
        html = shown({"mail": 5, "celery": 2}, active_queues, stats={"a@h": {}})
        assert 'data-state="backlog"' in html
        assert "Messages wait that nobody consumes" in html
        assert html.count("no worker that answered") == 1

    def test_backlog__no_warning_where_only_some_workers_were_asked(
        self, shown: Callable[..., str]
    ) -> None:
        active_queues = {"a@h": [{"name": "mail"}]}
        html = shown({"mail": 5, "celery": 2}, active_queues, stats={"a@h": {}}, workers=("a@h",))
        assert 'data-state="complete"' in html
        assert "no worker that answered" not in html

    def test_consumers_not_known__no_warning(self, shown: Callable[..., str]) -> None:
        html = shown({"mail": 5}, None, stats={"a@h": {}})
        assert "Every worker answered" in html

    def test_worker_that_consumes_nothing__not_green_and_a_remark(
        self, shown: Callable[..., str]
    ) -> None:
        html = shown({"mail": 0}, {"a@h": [], "b@h": [{"name": "mail"}]}, stats={"a@h": {}})
        assert "A worker consumes no queue" in html
        assert html.count("It consumes no queue, so that it receives no task.") == 1

    def test_odd_name__escaped_and_cut(self, shown: Callable[..., str]) -> None:
        html = shown({f"<script>{'x' * 10_000}": 1})
        assert "<script>x" not in html
        assert f"&lt;script&gt;{'x' * 191}…<" in html
        assert len(html) < 20_000

    def test_not_asked_for__no_section(self, shown: Callable[..., str]) -> None:
        assert 'id="queues"' not in shown(None)
