"""The lines that remove what killed processes leave in Redis.

test_command.py runs the one for a killed worker against a real Redis.
"""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest
from celery import Celery

from celery_stats.management.forget import forget_lines
from tests.brokers import RedisServer
from tests.projects import Recipe

ENTRY = (
    "SREM _kombu.binding.celery.pidbox "
    '"'
    r"""$(printf '\006\026\006\026%s' a@h.celery.pidbox)"""
    '"'
)


def lines(url: str, worker: str = "a@h", **config: Any) -> tuple[str, ...]:
    app = Celery(broker=url, set_as_current=False)
    app.conf.update(config)
    return forget_lines(app, worker)


@pytest.mark.parametrize(
    ("url", "command"),
    [
        ("redis://localhost", "redis-cli -n 0 -h localhost -p 6379"),
        ("redis://:hunter2@broker:6380/3", "redis-cli -n 3 -h broker -p 6380"),
        ("rediss://broker/0", "redis-cli -n 0 -h broker -p 6379 --tls"),
        # Only the sentinels know the current address.
        ("sentinel://one:26379/2;sentinel://two:26379/2", "redis-cli -n 2"),
    ],
)
def test_forget_lines__to_the_database_without_the_password(url: str, command: str) -> None:
    _sentence, line = lines(url)
    assert line == f"{command} {ENTRY}"


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("redis://localhost", ""),
        (
            "redis://:hunter2@localhost",
            " (put REDISCLI_AUTH=PASSWORD before it, because the broker's URL has a password)",
        ),
    ],
)
def test_forget_lines__the_condition_and_where_the_password_goes(url: str, hint: str) -> None:
    sentence, _line = lines(url)
    assert sentence == (
        f"If the process of a@h is gone and not only frozen, this command removes its name{hint}:"
    )


def test_forget_lines__key_prefix_and_exchange() -> None:
    _sentence, line = lines(
        "redis://localhost",
        "it's@h",
        control_exchange="shop",
        broker_transport_options={"global_keyprefix": "my shop:"},
    )
    assert line == (
        "redis-cli -n 0 -h localhost -p 6379 SREM 'my shop:_kombu.binding.shop.pidbox' "
        '"'
        r"""$(printf '\006\026\006\026%s' 'it'"'"'s@h.shop.pidbox')"""
        '"'
    )


def test_forget_lines__none_on_rabbitmq_or_for_an_odd_name() -> None:
    assert lines("amqp://localhost") == ()
    assert lines("redis://localhost", "a\n@h") == ()


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
