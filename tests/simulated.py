"""Workers that are a mailbox and nothing else.

``python -m tests.simulated CONFIG COUNT PREFIX [APP]``: with APP they answer as workers that
have the app.

Each has a mailbox of its own, kombu's, and answers the six commands with replies like
those of a real worker. Prints ``ready`` when all of them listen, and ends with SIGTERM.
"""

from __future__ import annotations

import json
import signal
import sys
from collections import deque
from contextlib import suppress
from functools import partial
from typing import Any

from kombu.asynchronous import Hub

from celery_stats.worker import answer as answer_jointly
from tests.celery_app import make_app


def task(number: int, worker: str, **state: Any) -> dict[str, Any]:
    return {
        "id": f"00000000-0000-4000-8000-{number:012}",
        "name": "shop.tasks.send_invoice",
        "args": [number, "invoice", {"currency": "EUR"}],
        "kwargs": {"customer": 4711, "language": "en", "retry": False},
        "type": "shop.tasks.send_invoice",
        "hostname": worker,
        "time_start": None,
        "acknowledged": False,
        "delivery_info": {
            "exchange": "",
            "routing_key": "celery",
            "priority": 0,
            "redelivered": False,
        },
        "worker_pid": None,
        **state,
    }


def replies(worker: str) -> dict[str, Any]:
    """Return command to reply, of the size that a modestly busy worker sends."""
    return {
        "active": [task(n, worker, time_start=1.7e9, worker_pid=n) for n in range(2)],
        "scheduled": [
            {"eta": "2030-01-01T00:00:00+00:00", "priority": 6, "request": task(9, worker)}
        ],
        "reserved": [task(n, worker) for n in range(10, 14)],
        "revoked": [task(n, worker)["id"] for n in range(20, 25)],
        "query_task": {},
        "active_queues": [{"name": "celery", "routing_key": "celery"}],
        "stats": {
            "total": {"shop.tasks.send_invoice": 4321},
            "pid": 4242,
            "clock": "52817",
            "uptime": 86400,
            "pool": {
                "implementation": "celery.concurrency.prefork:TaskPool",
                "max-concurrency": 2,
                "processes": [4243, 4244],
                "max-tasks-per-child": "N/A",
                "put-guarded-by-semaphore": False,
                "timeouts": [0, 0],
                "writes": "N/A",
            },
            "broker": {
                "hostname": "127.0.0.1",
                "userid": None,
                "virtual_host": "0",
                "port": 6379,
                "insist": False,
                "ssl": False,
                "transport": "redis",
                "connect_timeout": 4,
                "transport_options": {},
                "login_method": None,
                "uri_prefix": None,
                "heartbeat": 120.0,
                "failover_strategy": "round-robin",
                "alternates": [],
            },
            "prefetch_count": 8,
            "rusage": {
                "utime": 21.37,
                "stime": 4.02,
                "maxrss": 68412,
                "ixrss": 0,
                "idrss": 0,
                "isrss": 0,
                "minflt": 30215,
                "majflt": 12,
                "nswap": 0,
                "inblock": 4096,
                "oublock": 512,
                "msgsnd": 0,
                "msgrcv": 0,
                "nsignals": 0,
                "nvcsw": 95120,
                "nivcsw": 873,
            },
        },
    }


#: What every node answers to a ping.
PONG = {"ping": {"ok": "pong"}}


def handlers(worker: str, *, with_app: bool = False) -> dict[str, Any]:
    def answer(reply: Any) -> Any:
        return lambda state, **arguments: reply

    single = {name: answer(reply) for name, reply in replies(worker).items()}
    if with_app:
        joint = {name: partial(answer_jointly, each, single) for name, each in single.items()}
    return {**(joint if with_app else single), "ping": answer(PONG["ping"])}


def main(config: str, count: str, prefix: str, with_app: str = "") -> None:
    app = make_app(json.loads(config))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    commands: deque[tuple[Any, Any, Any]] = deque()

    def answer(*command: Any) -> None:
        # AMQP hands on more commands while a reply is published: with so many mailboxes on
        # one connection they would nest without end.
        commands.append(command)
        if len(commands) == 1:
            while commands:
                node, body, message = commands[0]
                node.handle_message(body, message)
                commands.popleft()

    with app.connection_for_write() as connection:
        mailbox = app.control.mailbox(connection)
        # The app's own pool of producers is of no use to so many mailboxes.
        mailbox.producer_pool = None
        for number in range(int(count)):
            name = f"{prefix}{number:04}@simulated"
            node = mailbox.Node(
                name,
                channel=connection.channel(),
                handlers=handlers(name, with_app=bool(with_app)),
            )
            node.listen(callback=partial(answer, node))
        with suppress(TimeoutError):
            connection.drain_events(timeout=0.1)  # subscribes
        print("ready", flush=True)
        # As a real worker reads; otherwise each message costs a look at every mailbox.
        hub = Hub() if connection.transport.implements.asynchronous else None
        if hub is not None:
            connection.register_with_event_loop(hub)
        while True:
            if hub is not None:
                hub.run_once()
            else:
                with suppress(TimeoutError):
                    connection.drain_events(timeout=1)


if __name__ == "__main__":
    main(*sys.argv[1:])
