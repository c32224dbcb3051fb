"""The line that removes a killed worker; test_command.py runs it against a real Redis."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from celery_stats.management.forget import forget_line

ENTRY = (
    "SREM _kombu.binding.celery.pidbox "
    '"'
    r"""$(printf '\006\026\006\026%s' a@h.celery.pidbox)"""
    '"'
)


def line(url: str, worker: str = "a@h", **config: Any) -> str | None:
    app = Celery(broker=url, set_as_current=False)
    app.conf.update(config)
    return forget_line(app, worker)


@pytest.mark.parametrize(
    ("url", "command"),
    [
        ("redis://localhost", "redis-cli -n 0 -h localhost -p 6379"),
        ("redis://:hunter2@broker:6380/3", "redis-cli -n 3 -h broker -p 6380"),
        ("rediss://broker/0", "redis-cli -n 0 -h broker -p 6379 --tls"),
        # The sentinels know the address, and it may be another one now.
        ("sentinel://one:26379/2;sentinel://two:26379/2", "redis-cli -n 2"),
    ],
)
def test_forget_line__to_the_database_without_the_password(url: str, command: str) -> None:
    assert line(url) == f"{command} {ENTRY}"


def test_forget_line__key_prefix_and_exchange() -> None:
    found = line(
        "redis://localhost",
        "it's@h",
        control_exchange="shop",
        broker_transport_options={"global_keyprefix": "my shop:"},
    )
    assert found == (
        "redis-cli -n 0 -h localhost -p 6379 SREM 'my shop:_kombu.binding.shop.pidbox' "
        '"'
        r"""$(printf '\006\026\006\026%s' 'it'"'"'s@h.shop.pidbox')"""
        '"'
    )


def test_forget_line__none_on_rabbitmq_or_for_an_odd_name() -> None:
    assert line("amqp://localhost") is None
    assert line("redis://localhost", "a\n@h") is None
