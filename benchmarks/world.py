"""One random fleet on a broker: what happens to it, who asks, and whether the answers are true.

The oracle is the table of the processes that were started, and Celery's own ping.
``benchmarks.fleet`` describes the events.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from math import inf
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote
from urllib.request import Request, urlopen

import amqp
import kombu
import redis
from celery import Celery
from kombu.exceptions import KombuError

from benchmarks.support import CORES, PATH, Web
from celery_stats.control.exceptions import BrokerUnavailable
from celery_stats.shapes import FIELDS
from tests.asking import take
from tests.brokers import AMQP_URL, Broker, RedisServer, Worker
from tests.network import Proxy
from tests.processes import Forked, Process, wait_until

TIMEOUT, DEADLINE = 1.0, 5.0  # The defaults, which the web server has.
MAX_NODES = 5
BUSY = 4.0  # seconds
EXPECTED = 61.0  # seconds for which a worker may be expected to connect again
BEAT = f"celerybeat@{socket.gethostname()}"
UNAVAILABLE = "BrokerUnavailable"
OUTAGES = {"restart", "cut", "hang"}


def name_of(letter: str) -> str:
    return BEAT if letter == "beat" else f"{letter}@fleet"


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back, so that nothing is left behind."""
    held: list[int] = []
    both = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.signal(each, lambda number, _: held.append(number)) for each in both]
    try:
        yield
    finally:
        for each, handler in zip(both, handlers, strict=True):
            signal.signal(each, handler)
        for number in held:
            signal.raise_signal(number)


class Beat(Process):
    """``celery beat``, started by the fork server."""

    def _run(self, args: list[str], env: dict[str, str]) -> Forked:
        with self.log.open("ab") as output:
            return Forked("celery", args, env=env, stdout=output.fileno(), stderr=output.fileno())


@dataclass(eq=False)
class Node:
    """A worker or a beat that lives."""

    name: str
    options: tuple[str, ...]
    process: Process
    queue: str
    frozen: bool = False
    detached: bool = True  # It may have no connection, and has not been heard since.
    busy_until: float = 0.0  # monotonic seconds

    @property
    def is_silent(self) -> bool:
        return self.frozen or time.monotonic() < self.busy_until

    def log(self) -> str:
        return self.process.log.read_text(errors="replace")

    def received(self) -> int:
        """Return how many tasks it has received."""
        return self.log().count("] received")

    def state(self, since: float, until: float) -> str:
        if self.detached or (not self.frozen and since < self.busy_until <= until):
            return "either"
        return "silent" if self.frozen or until < self.busy_until else "here"


@dataclass(frozen=True)
class Answer:
    """What an asker got between two moments, in monotonic seconds.

    ``fields`` is worker to the fields under which it stands.
    """

    since: float
    until: float
    fields: dict[str, set[str]]
    missing: set[str]
    silent_subscribers: int | None  # None over HTTP
    error: str
    changing: set[str]  # the names that were changing meanwhile; "" stands for all

    def __str__(self) -> str:
        parts = [f"{name}: {len(fields)} keys" for name, fields in sorted(self.fields.items())]
        parts.append(f"missing: {', '.join(sorted(self.missing)) or 'nobody'}")
        parts.append(
            f"silent: {self.silent_subscribers}; {self.until - self.since:.2f} s {self.error}"
        )
        return "; ".join(parts)


class World:
    """A place on a broker, its fleet and its askers.

    Attributes:
        found: the violations, each with its kind before the colon.
    """

    def __init__(self, kind: str, token: str, ignored: Collection[str] = ()) -> None:
        self._ignored = ignored
        self.found: list[str] = []
        self.snapshots, self.slowest = 0, 0.0
        self._kind, self._token = kind, token
        self._nodes: list[Node] = []
        self._names: set[str] = set()  # of all that were ever started
        self._listeners: list[redis.client.PubSub] = []
        self._askers: dict[str, Celery | Web] = {}
        #: Who has answered an asker, and was named since in each of its answers.
        self._known: defaultdict[str, set[str]] = defaultdict(set)
        self._owed: defaultdict[str, set[str]] = defaultdict(set)  # they may be absent only once
        #: When each may last have lost a reply, by name.
        self._lost_at: defaultdict[str, float] = defaultdict(lambda: -inf)
        self._restarted_at = -inf
        #: When each asker was answered for the first time since.
        self._noticed_at: dict[str, float] = {}
        self._asks_together = False
        self._changing: set[str] = set()  # names; "" stands for all
        self._verb = ""
        self._numbers = count()
        with ExitStack() as stack:
            self._pool = stack.enter_context(ThreadPoolExecutor())
            self._way: RedisServer | Proxy
            if kind == "redis":
                self._way = RedisServer()
                url = f"redis://127.0.0.1:{self._way.port}/0"
            else:
                address = kombu.Connection(AMQP_URL)
                self._way = Proxy(address.port)
                address.port = self._way.port
                url = address.as_uri(include_password=True)
            stack.callback(self._leave)
            self._broker = Broker(kind, url)
            stack.callback(self._broker.close)
            self._oracle = self._broker.client()
            self._stack = stack.pop_all()

    def close(self) -> None:
        with uninterrupted():
            for node in self._nodes:
                node.process.kill()
            self._stack.close()

    def _leave(self) -> None:
        self._way.stop() if isinstance(self._way, RedisServer) else self._way.close()

    def fleet(self) -> list[str]:
        """Return the events that make a fleet like this one."""
        letters = {name: name.partition("@")[0] for name in self._names} | {BEAT: "beat"}
        starts = [" ".join(["start", letters[n.name], *n.options]) for n in self._nodes]
        return starts + [f"freeze {letters[n.name]}" for n in self._nodes if n.frozen]

    def _names_alive(self) -> set[str]:
        return {node.name for node in self._nodes}

    # Events

    def play(self, event: str) -> None:
        """Let one event happen. If it does not apply, nothing happens."""
        event, _, before = event.partition("@")
        self._verb, *words = event.split()
        if self._verb != "start" or before:  # So that workers start at the same time.
            self._settle()
        if self._verb == "ask":
            self._ask(words[0].split("+"), tuple(map(name_of, words[1:])))
        elif self._verb == "stall":
            self._stall(float(words[0]) / 1000)
        else:
            everybody = self._verb in OUTAGES or self._verb == "flush"
            # For a listener, which has no name, the event stands.
            names = set(map(name_of, words[:1])) or {self._verb}
            self._changing |= {""} if everybody else names
            with self._asking(float(before) / 1000) if before else ExitStack():
                self._happen(*words)
                if everybody:
                    self._lost_at |= dict.fromkeys(self._names_alive(), time.monotonic())
                if before:
                    self._settle()

    @contextmanager
    def _asking(self, before: float) -> Iterator[None]:
        ended = threading.Event()

        def ask_on() -> None:
            while not ended.is_set():
                self._judge("each", (), self._take("each", ()), Counter())
                ended.wait(0.02)

        asking = self._pool.submit(ask_on)
        time.sleep(before)
        try:
            yield
        finally:
            ended.set()
            asking.result()

    def _happen(self, letter: str = "", *options: str) -> None:
        nodes = [node for node in self._nodes if node.name == name_of(letter)]
        running = [node for node in nodes if not node.is_silent]
        match self._verb, self._way:
            case "start", _ if len(self._nodes) < MAX_NODES:
                if not nodes or (self._kind == "redis" and letter != "beat"):
                    self._start(name_of(letter), options)
            case "stop", _ if nodes:
                nodes[0].process.thaw()
                nodes[0].process.popen.terminate()
                with suppress(subprocess.TimeoutExpired):  # An odd one has a long task to finish.
                    nodes[0].process.popen.wait(0.5 if "odd" in nodes[0].options else 8)
                self._end(nodes[0])
            case "kill", _ if nodes:
                self._end(nodes[0])
            case "freeze", _ if running:
                running[0].process.freeze()
                running[0].frozen = True
            case "thaw", _:
                for node in nodes:
                    node.process.thaw()
                    node.frozen = False
            case "busy", _ if running and "solo" in running[0].options:
                tasks = running[0].received()
                self._send(running[0].queue, seconds=BUSY)
                wait_until(lambda: running[0].received() > tasks, seconds=30, what="its task")
                running[0].busy_until = time.monotonic() + BUSY
            case "flush", RedisServer() as server:
                server.client().flushdb()
            case "forget", RedisServer() as server:
                for name, row in self._rows():
                    if name == name_of(letter):
                        server.client().srem(self._bindings, row)
            case "listen", RedisServer() as server:
                self._listeners.append(redis.client.PubSub(server.client().connection_pool))
                self._listeners[-1].psubscribe("*")
                self._listeners[-1].get_message(timeout=5)
            case "unlisten", _ if self._listeners:
                self._listeners.pop().close()
            case "restart", way:
                self._leave()
                time.sleep(0.3)
                if isinstance(way, RedisServer):
                    self._way = RedisServer(port=way.port)
                    self._restarted_at = time.monotonic()
                    self._noticed_at.clear()
                else:
                    self._way = Proxy(way.target, listen=way.port)
                self._detach()
            case "cut", RedisServer() as server:
                for kind in ("normal", "pubsub"):
                    server.client().client_kill_filter(_type=kind, skipme=True)
                self._detach()
            case "cut", Proxy() as proxy:
                proxy.cut()
                self._detach()
            case "hang", way:
                way.freeze()
                try:
                    time.sleep(float(letter))
                finally:
                    way.thaw()

    def _start(self, name: str, options: tuple[str, ...]) -> None:
        queue = f"{self._broker.namespace}.{next(self._numbers)}"
        process: Process
        if name == BEAT:
            args = ["-A", "tests.celery_app", "beat", "--enable-remote-control", "--pidfile="]
            args += ["--schedule", str(self._broker.folder / queue)]
            env = {"CELERY_STATS_TEST_CONFIG": self._broker.config_json}
            process = Beat(args, log=self._broker.folder / f"{queue}.log", env=env)
        else:
            self._broker.queues.append(queue)
            for _ in range(2 * ("odd" in options)):
                self._send(queue, {1, 2}, seconds=600)
            for _ in range(3 * ("large" in options)):
                self._send(queue, "x" * 400_000, countdown=3600)
            process = self._broker.start(
                name,
                pool="solo" if "solo" in options else "prefork",
                with_app="app" in options,
                task_default_queue=queue,
            )
        self._nodes.append(Node(name, options, process, queue))
        self._names.add(name)

    def _send(self, queue: str, *args: Any, countdown: float | None = None, **kwargs: Any) -> None:
        options = {"queue": queue, "serializer": "pickle", "countdown": countdown}
        self._broker.app.send_task("tests.nap", args, kwargs, **options)

    def _end(self, node: Node) -> None:
        node.process.kill()
        self._nodes.remove(node)
        if "odd" in node.options:
            self._lost_at[node.name] = time.monotonic()
        if isinstance(node.process, Worker):
            self._broker.workers.remove(node.process)

    def _detach(self) -> None:
        self._listeners.clear()
        for node in self._nodes:
            node.detached = True

    # The oracle

    @property
    def _bindings(self) -> str:
        return f"_kombu.binding.{self._broker.namespace}.pidbox"

    def _rows(self) -> list[tuple[str, bytes]]:
        """Return the names in Redis' list of mailboxes, each with its entry."""
        if isinstance(self._way, RedisServer):
            with suppress(redis.RedisError):  # It restarts.
                rows: Any = self._way.client().smembers(self._bindings)
                suffix = f".{self._broker.namespace}.pidbox"
                return [(row.decode().split("\x16")[-1].removesuffix(suffix), row) for row in rows]
        return []

    def _settle(self) -> None:
        """Wait until Celery's ping hears whoever should answer, and nobody else is connected."""
        wait_until(self._is_settled, seconds=40, what=f"{self._verb}: the oracle hears all")
        self._changing.clear()

    def _is_settled(self) -> bool:
        # Some workers with reserved tasks do not survive a restart of Redis.
        for node in [node for node in self._nodes if "Unrecoverable error" in node.log()]:
            self._end(node)
        awaited = [node for node in self._nodes if not node.is_silent]
        if Counter(node.name for node in awaited) - self._ping(len(awaited), 0.3):
            return False
        for node in awaited:
            node.detached = False
            tasks = {"odd": 2, "large": 3}
            if node.received() < sum(tasks.get(option, 0) for option in node.options):
                return False
        if isinstance(self._way, RedisServer):
            # Nodes ignore an empty message, and PUBLISH says how many it reached.
            reached = self._way.client().publish(f"/0.{self._broker.namespace}.pidbox", "")
            return bool(reached == len(awaited) + len(self._silent()))
        dead = self._changing - self._names_alive() - {""}
        return not any(map(self._has_mailbox, dead))

    def _has_mailbox(self, name: str) -> bool:
        with kombu.Connection(AMQP_URL) as connection, suppress(amqp.ResourceLocked):
            queue = f"{name}.{self._broker.namespace}.pidbox"
            try:
                connection.default_channel.queue_declare(queue, passive=True)
            except amqp.NotFound:
                return False
        return True

    def _ping(self, nodes: int, timeout: float = TIMEOUT) -> Counter[str]:
        """Return how often each name answers Celery's ping."""
        try:
            pongs = self._oracle.control.ping(timeout=timeout, limit=nodes) if nodes else []
        except (OSError, KombuError, redis.RedisError, amqp.AMQPError):
            self._oracle = self._broker.client()  # Its connections were cut.
            return Counter()
        return Counter(name for pong in pongs for name in pong)

    def _silent(self) -> list[Any]:
        """Return who is connected and answers nothing."""
        nodes = [node for node in self._nodes if node.is_silent and not node.detached]
        return [*nodes, *self._listeners]

    # Asking

    def _ask(self, askers: list[str], workers: tuple[str, ...]) -> None:
        pongs = self._pool.submit(self._ping, sum(not node.is_silent for node in self._nodes))
        self._asks_together = len(askers) > 1
        answers = {asker: self._pool.submit(self._take, asker, workers) for asker in askers}
        for asker, answer in answers.items():
            self._judge(asker, workers, answer.result(), pongs.result())

    def _stall(self, after: float) -> None:
        web = self._asker("http")
        assert isinstance(web, Web)
        answer = self._pool.submit(self._take, "http", ())
        time.sleep(after)
        web.freeze()
        time.sleep(TIMEOUT * 1.3)
        web.thaw()
        self._judge("http", (), answer.result(), Counter(self._names))

    def _asker(self, name: str) -> Celery | Web:
        if name not in self._askers:
            asker = Web(self._broker, self._token) if name == "http" else self._broker.client()
            if isinstance(asker, Web):
                self._stack.callback(asker.stop)
            self._askers[name] = asker
        return self._askers[name]

    def _take(self, asker: str, workers: tuple[str, ...]) -> Answer:
        app = self._asker(asker)
        answers: Any = {}
        missing, silent, error = set[str](), None, ""
        changing = {*self._changing}
        since = time.monotonic()
        try:
            if isinstance(app, Web):
                answers, missing = get(app, workers)
            else:
                snapshot = take(app, TIMEOUT, DEADLINE, workers=workers)
                answers, missing = snapshot.answers, set(snapshot.missing)
                silent = snapshot.silent_subscribers
        except BrokerUnavailable:
            error = UNAVAILABLE
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is a violation
            error = repr(exc)
        until = time.monotonic()
        self.snapshots += 1
        self.slowest = max(self.slowest, until - since)
        fields = defaultdict(set)
        for field, replies in answers.items():
            for worker in replies or ():
                fields[worker].add(field)
        return Answer(since, until, fields, missing, silent, error, changing | self._changing)

    def _judge(
        self, asker: str, workers: tuple[str, ...], answer: Answer, pongs: Counter[str]
    ) -> None:
        """Note what is wrong with an answer; ``pongs`` came to Celery's ping beside it."""
        wrong = [*self._faults(asker, workers, answer, pongs)]
        # A second more, or several where more processes want to run than there are cores.
        late = max(1.0, os.getloadavg()[0] / CORES)
        if answer.until - answer.since > DEADLINE + late:
            wrong.append("late: after the deadline")
        wrong = [each for each in wrong if each.partition(":")[0] not in self._ignored]
        self.found += [f"{each} [{asker} got {answer}]" for each in wrong]
        if not answer.error and not workers:
            self._known[asker] = {*answer.fields, *(self._known[asker] & answer.missing)}

    def _faults(
        self, asker: str, workers: tuple[str, ...], answer: Answer, pongs: Counter[str]
    ) -> Iterator[str]:
        if answer.error:
            if answer.error != UNAVAILABLE or self._verb not in OUTAGES:
                yield f"error: {answer.error}"
            return
        if answer.since > self._restarted_at > -inf:
            self._noticed_at.setdefault(asker, answer.until)
        known, listed = self._known[asker], {name for name, _ in self._rows()}
        is_silence = self._kind == "redis" and bool(self._silent())
        named = {*answer.fields, *answer.missing}
        owed = set()
        for name in named | self._names:
            present, is_named = answer.fields.get(name, set()), name in named
            state = self._state(name, answer)
            if workers and name not in workers:
                if is_named:
                    yield f"unasked: {name}"
            elif name == BEAT:
                if is_named:
                    yield f"beat named: {name} is no worker"
            elif state == "here" and set(FIELDS) - present - self._unencodable(name):
                is_new = name not in known if self._kind == "amqp" else name not in listed
                # The contract: such a worker may be in the next answer only. The documents: so
                # may one that resets its mailbox, because another asker has just asked it.
                may_be_late = is_new and (is_silence or self._kind == "amqp")
                is_resetting = self._asks_together and bool(self._unencodable(name))
                may_be_late = may_be_late or (is_resetting and name not in known)
                if not is_named and (workers or name in self._owed[asker] or not may_be_late):
                    yield f"vanished: {name} is alive, and neither answers nor is missing"
                elif not is_named:
                    owed.add(name)
                elif pongs[name] or answer.until - answer.since < TIMEOUT:
                    yield f"{'in part' if present else 'unheard'}: {name} is alive and responsive"
            elif state == "silent":
                if present:
                    yield f"stale: {name} is silent, and has answered"
                elif not is_named and name in {*workers, *known, *listed}:
                    yield f"silent vanished: {name} is alive, silent, and not missing"
            elif state == "dead":
                if present:
                    yield f"dead present: {name}"
                elif is_named and not (workers or name in listed):
                    # It may be connected, or about to connect again, as far as the broker tells.
                    # One that has lost a reply may be without a mailbox for a moment.
                    recently = time.monotonic() - EXPECTED
                    noticed_at = self._noticed_at.get(asker, self._restarted_at)
                    is_doubtful = max(noticed_at, self._lost_at[name]) > recently
                    if name not in known or not (is_silence or is_doubtful):
                        yield f"dead missing: {name}"
            elif self._verb == "restart" and self._kind == "redis" and name in known - named:
                yield f"forgotten: {name} is alive, was known, and is not missing meanwhile"
        if not workers:
            self._owed[asker] = owed
        if self._kind == "redis" and not workers and answer.silent_subscribers is not None:
            yield from self._subscriber_faults(answer, answer.silent_subscribers)

    def _subscriber_faults(self, answer: Answer, said: int) -> Iterator[str]:
        names = [node.name for node in self._nodes]
        states = [node.state(answer.since, answer.until) for node in self._nodes]
        # One of two workers with a name, or a beat, may be silent under a name that is known.
        is_known = BEAT in {name for name, _ in self._rows()} or len({*names}) < len(names)
        # One that another asker makes reset its mailbox may be counted or not.
        is_resetting = self._asks_together and any(map(self._unencodable, names))
        if answer.changing or "either" in states or is_known or is_resetting:
            return
        silent = states.count("silent") + len(self._listeners)
        unheard = len(answer.missing - set(answer.fields))
        if silent > unheard if not said else not silent:
            yield f"subscribers: {silent} are silent, {unheard} are missing"

    def _state(self, name: str, answer: Answer) -> str:
        if answer.changing & {"", name}:
            return "either"
        states = {n.state(answer.since, answer.until) for n in self._nodes if n.name == name}
        return next((s for s in ("here", "either", "silent") if s in states), "dead")

    def _unencodable(self, name: str) -> set[str]:
        """Return the fields that a worker cannot answer, because of the arguments there."""
        odd = {node.name for node in self._nodes if {"odd", "app"} & {*node.options} == {"odd"}}
        return {"reserved"} if name in odd else set()


def get(web: Web, workers: tuple[str, ...]) -> tuple[Any, set[str]]:
    """Return the answers and the missing workers."""
    query = "&".join(f"worker={worker}" for worker in workers)
    url = f"http://127.0.0.1:{web.port}{PATH}?{query}"
    request = Request(url, headers={"Authorization": f"Token {web.token}"})
    try:
        with urlopen(request, timeout=30) as response:
            missing = response.headers["Celery-Stats-Missing"] or ""
            return json.load(response), {unquote(n.strip()) for n in missing.split(",") if n}
    except HTTPError as exc:
        if exc.code == 503:
            raise BrokerUnavailable from exc
        raise
