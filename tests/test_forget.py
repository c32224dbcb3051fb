"""``--forget``: what killed workers leave in the broker, removed by the channel itself."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from celery import Celery
from django.core.management import CommandError, call_command
from rest_framework.test import APIClient

from celery_stats.control.question import Question
from celery_stats.page.findings import forgettable
from celery_stats.report import Report
from celery_stats.shapes import FIELDS
from tests.answers import ANSWERS, NOW
from tests.brokers import Broker, MakeBroker, RedisServer, Use
from tests.processes import free_port
from tests.projects import Recipe


def forget(name: str) -> str:
    """Run the command; return what it says."""
    stream = StringIO()
    try:
        call_command("celery_stats", forget=name, timeout=0.5, stdout=stream, no_color=True)
    except CommandError as exc:
        return f"{exc.returncode}: {exc}"
    return stream.getvalue()


def missing(broker: Broker) -> list[str]:
    """Return who is missing, as the command says."""
    with pytest.raises(CommandError) as raised:
        call_command("celery_stats", timeout=0.5, stdout=StringIO(), stderr=StringIO())
    return str(raised.value).removesuffix(".").partition(": ")[2].split(", ")


@pytest.fixture
def socket_redis() -> Any:
    """A Redis with a socket, and a user of its own besides the one without a name."""
    # The path of a socket has at most 107 characters.
    with TemporaryDirectory(dir="/tmp") as folder:
        path = Path(folder, "redis.sock")
        server = RedisServer(
            *("--unixsocket", str(path)),
            *("--user", "shop", "on", ">hunter2", "~*", "&*", "+@all"),
        )
        server.socket = path
        yield server
        server.stop()


def killed(broker: Broker) -> None:
    _one, two = broker.fleet("one@t", "two@t")
    two.kill()
    assert missing(broker) == ["two@t"]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("redis", {}),
        ("redis", {"global_keyprefix": "shop's:"}),
        # Celery's recipe for priorities.
        ("redis", {"priority_steps": [0, 5], "sep": ":", "queue_order_strategy": "priority"}),
        ("filesystem", None),
    ],
)
def test_killed_worker__removed_and_not_missing_any_more(
    make_broker: MakeBroker, use: Use, kind: str, options: Any
) -> None:
    config = {} if options is None else {"broker_transport_options": options}
    killed(use(make_broker(kind, **config)))
    assert forget("two@t") == "two@t is forgotten.\n"
    call_command("celery_stats", timeout=0.5, stdout=StringIO())
    assert forget("two@t") == "1: Not forgotten: the broker keeps no list that has two@t in it."


def test_killed_worker__through_a_socket(
    make_broker: MakeBroker, use: Use, socket_redis: RedisServer
) -> None:
    url = f"redis+socket://{socket_redis.socket}?virtual_host=3"
    killed(use(make_broker(broker_url=url)))
    assert forget("two@t") == "two@t is forgotten.\n"


def test_killed_worker__as_a_user_of_redis(
    make_broker: MakeBroker, use: Use, socket_redis: RedisServer
) -> None:
    socket_redis.client().acl_setuser("default", enabled=False)
    killed(use(make_broker(broker_url=f"redis://shop:hunter2@127.0.0.1:{socket_redis.port}/3")))
    assert forget("two@t") == "two@t is forgotten.\n"


def test_killed_worker__first_url_of_a_list_is_down(
    make_broker: MakeBroker, use: Use, socket_redis: RedisServer
) -> None:
    url = f"redis://127.0.0.1:{socket_redis.port}/3"
    broker = make_broker(broker_url=url)
    killed(use(broker))
    broker.app = broker.client(broker_url=f"redis://127.0.0.1:{free_port()}/3;{url}")
    use(broker)
    assert forget("two@t") == "two@t is forgotten.\n"


def test_worker_that_answers__its_name_stays(make_broker: MakeBroker, use: Use) -> None:
    use(make_broker("redis", "one@t"))
    assert forget("one@t") == "1: Not forgotten: one@t answers."
    call_command("celery_stats", stdout=StringIO())


def test_rabbitmq__keeps_no_list(make_broker: MakeBroker, use: Use) -> None:
    use(make_broker("amqp"))
    assert forget("a@h") == "1: Not forgotten: the broker keeps no list that has a@h in it."


def test_name_that_no_worker_has__2(make_broker: MakeBroker, use: Use) -> None:
    use(make_broker())
    assert forget("a\n@h") == "2: --worker: A value may not hold control characters."


MISSING = {"gone@h": FIELDS, "a@h": ("active",)}
REPORT = Report(ANSWERS, MISSING, NOW, 0.01, keeps_names=True)


def test_forgettable__workers_without_any_answer() -> None:
    assert forgettable(REPORT) == ["gone@h"]


@pytest.mark.parametrize(
    "change",
    [{"unreadable": 1}, {"question": Question(workers=("gone@h",))}, {"keeps_names": False}],
    ids=["a reply could not be read", "asked by name", "rabbitmq"],
)
def test_forgettable__nobody(change: dict[str, Any]) -> None:
    assert forgettable(replace(REPORT, **change)) == []


@pytest.mark.parametrize(
    ("kind", "is_said"), [("redis", True), ("filesystem", True), ("amqp", False)]
)
def test_page_and_command__say_it_where_names_stay(
    make_broker: MakeBroker, use: Use, api: APIClient, kind: str, is_said: bool
) -> None:
    """The worker is frozen, because RabbitMQ forgets one that was killed."""
    broker = use(make_broker(kind, "one@t"))
    (two,) = broker.fleet("two@t")
    call_command("celery_stats", stdout=StringIO())
    two.freeze()
    page = api.get("/api/celery-stats/?format=html").content.decode()
    assert "It may be frozen" in page
    assert ("celery_stats --forget NAME" in page) is is_said
    told = StringIO()
    with pytest.raises(CommandError, match="did not answer everything: two@t"):
        call_command("celery_stats", timeout=0.5, stdout=StringIO(), stderr=told)
    assert ("celery_stats --forget two@t" in told.getvalue()) is is_said


def test_reply_that_could_not_be_read__its_name_stays(make_broker: MakeBroker, use: Use) -> None:
    broker = use(make_broker(accept_content=["json"]))
    broker.fleet("pickle@t", task_serializer="pickle", accept_content=["json", "pickle"])
    assert forget("pickle@t") == (
        "1: Not forgotten: a reply could not be read, and it may be that of pickle@t."
    )
    told = StringIO()
    with pytest.raises(CommandError, match="did not answer everything: pickle@t"):
        call_command("celery_stats", timeout=0.5, stdout=StringIO(), stderr=told)
    assert "--forget" not in told.getvalue()


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="redis-cli is not installed")
def test_recipe__lists_of_replies_alone_are_removed(own_redis: RedisServer) -> None:
    (command,) = Recipe("What killed processes leave in Redis").blocks
    client = own_redis.client()
    mailbox = Celery(set_as_current=False).control.mailbox
    client.rpush(f"{mailbox.oid}.{mailbox.reply_exchange.name}", "a reply")
    client.rpush("celery", "a task")
    client.sadd("_kombu.binding.celery.pidbox", "a worker")
    command = command.replace("redis-cli", f"redis-cli -p {own_redis.port}")
    subprocess.run(["sh", "-c", command], check=True)
    assert sorted(client.keys()) == [b"_kombu.binding.celery.pidbox", b"celery"]
