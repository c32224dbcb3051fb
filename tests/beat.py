"""``celery beat`` with remote control: a node on the mailboxes' exchange that is no worker."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

from tests.brokers import Broker
from tests.processes import Process, wait_until


@contextmanager
def beat(broker: Broker) -> Iterator[str]:
    """Run it; yield the name of its node."""
    identity = uuid4().hex
    process = Process(
        [
            *(sys.executable, "-m", "celery", "-A", "tests.celery_app", "beat"),
            *("--enable-remote-control", "--schedule", str(broker.folder / identity)),
            *("--pidfile=", "--loglevel", "INFO"),
        ],
        log=broker.folder / f"{identity}.log",
        env={"CELERY_STATS_TEST_CONFIG": json.dumps(broker.config)},
    )
    try:
        ping = broker.client().control.ping

        def node() -> str:
            names = {name for pong in ping(timeout=0.5) for name in pong}
            return next((name for name in names if name.startswith("celerybeat@")), "")

        yield wait_until(node, seconds=30, what=f"beat: {process.log}")
    finally:
        process.stop()
