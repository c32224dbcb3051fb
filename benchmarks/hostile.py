"""What task senders, workers and peers of the broker can cost a web process.

    python -m benchmarks.hostile
    python -m benchmarks.hostile --only "million names"

Each row has a broker of its own, an honest worker, and gunicorn with the demo project and the
default settings. The hostile worker is another process. It says all that it has to say to the
first command, for twenty seconds and 300 000 messages at the most. A helper sends small replies
for 4.5 seconds, because a request ends after a second of silence. ``peak`` is the largest resident
memory that the web process ever had (VmHWM), before the attack and at the end. ``standstill`` is
the longest time in which another request of the process (without credentials, so it is refused)
had no answer while the first request under attack was under way. The last request follows when
the hostile worker is gone, and its answer must hold the honest worker. What a task sender does
arrives as the reply of a worker that holds such tasks. Names that a peer of the broker leaves in
its list stay there.

RabbitMQ takes part where ``CELERY_STATS_TEST_AMQP_URL`` names one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

from benchmarks.support import PATH, Web, children, demo_project, place, show, status
from celery_stats.control.question import ARGUMENT
from tests.brokers import AMQP_URL, Broker
from tests.celery_app import make_app
from tests.mailbox import Mailbox
from tests.processes import ROOT
from tests.simulated import task

HONEST, EVIL, HELPER = "honest@bench", "evil@bench", "helper@bench"
SECONDS, MESSAGES, HOLDS = 20.0, 300_000, 4.5
MB = 1_000_000

ODD_NAMES = (
    "a\r\nSet-Cookie: stolen=1\r\n\r\n<html>",
    "<script>alert(1)</script>",
    "\x1b]0;title\x07\x1b[2J\x1b[31m",
    "a,b,c",
    "\N{RIGHT-TO-LEFT OVERRIDE}name",
    "x" * 10_000,
)

#: What the hostile worker replies: the text of a reply, and how kombu is to publish it.
Reply = tuple[str | bytes, dict[str, Any]]


def one(content: Any) -> Iterator[Reply]:
    yield json.dumps(content), {}


def without_end(content: Any) -> Iterator[Reply]:
    text = json.dumps(content)
    while True:
        yield text, {}


def new_names_without_end() -> Iterator[Reply]:
    for number in range(MESSAGES):
        yield json.dumps({f"{number}@new": {}}), {}


def long_text() -> Iterator[Reply]:
    yield f'{{"{EVIL}": ["{"x" * 100 * MB}"]}}', {}


def tasks() -> Iterator[Reply]:
    """100 MB of tasks, each with a credential in a text."""
    text = json.dumps(task(1, EVIL, kwargs={"dsn": "x", "text": "postgres://u:hunter2@h/db"}))
    yield f'{{"{EVIL}": [{",".join([text] * (100 * MB // len(text)))}]}}', {}


def lists() -> Iterator[Reply]:
    """30 MB that become many times as much in memory: lists with nothing in them."""
    yield f'{{"{EVIL}": [{",".join(["[]"] * 10 * MB)}]}}', {}


def ten_at_a_time() -> Iterator[Reply]:
    """1 GB, in replies that are not large each."""
    for number in range(100):
        yield f'{{"{number}@new": ["{"x" * 10 * MB}"]}}', {}


def compressed() -> Iterator[Reply]:
    """1 MB that becomes 1 GB when it is decompressed, which kombu does unasked."""
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(b" " * 10 * MB) for _ in range(100)) + packer.flush()
    yield body, {"compression": "application/x-gzip"}


def worst_texts() -> Iterator[Reply]:
    """Two tasks that wait for their ETA, each with a text of the worst kind for one pattern."""
    request = task(1, EVIL, args=[",a:" * 800_000 + "@"])
    yield joint(scheduled=[{"eta": "2030-01-01T00:00:00+00:00", "request": request}] * 2), {}


def prose() -> Iterator[Reply]:
    """Four megabytes of words, none of which is a credential."""
    yield joint(reserved=[task(1, EVIL, args=["key of the token " * 250_000])]), {}


def long_key() -> Iterator[Reply]:
    members = {str(number): number for number in range(4000)}
    tasks = [task(1, EVIL, id=LOOKED_UP, kwargs={"k" * 200_000: {"l" * 1000: members}})]
    yield joint(active=tasks), {}


def joint(**replies: Any) -> str:
    """The reply of a worker with the app, to all fields at once."""
    text = json.dumps({"time": time.time(), "replies": {"stats": {}, **replies}})
    return json.dumps({EVIL: {ARGUMENT: text}})


def names(a_reply: int) -> Iterator[Reply]:
    for first in range(0, MB, a_reply):
        yield json.dumps({f"{n}@new": {} for n in range(first, first + a_reply)}), {}


ATTACKS: dict[str, Callable[[], Iterator[Reply]]] = {
    "odd names": partial(one, {name: {} for name in ODD_NAMES}),
    "replies without end, one name": partial(without_end, {EVIL: {}}),
    "replies without end, new names": new_names_without_end,
    "100 MB in one text": long_text,
    "100 MB of tasks": tasks,
    "30 MB of empty lists": lists,
    "1 GB in 100 replies": ten_at_a_time,
    "1 MB that unpacks to 1 GB": compressed,
    "a million names in one reply": partial(names, MB),
    "a million names in 1 000 replies": partial(names, 1000),
    "two texts of the worst kind": worst_texts,
    "4 MB of words": prose,
    "a long key over 4 000 members": long_key,
    "names of 5 MB": partial(one, {"n" * 5 * MB: {}, "m" * 5 * MB: {}}),
    "a late reply with 400 000 names": partial(one, {f"{n}@late": {} for n in range(400_000)}),
    "300 000 names in the broker's list": partial(one, {EVIL: {}}),
}
#: What a task sender does. The workers answer as always, so no helper holds the request up.
BY_TASKS = ("two texts of the worst kind", "4 MB of words", "a long key over 4 000 members")
#: The query of the requests, where it is not that of a plain GET: the page that looks a task up.
LOOKED_UP = "0b4e3d4e-8f3a-4d5e-9a53-1f6b7c8d9e0f"
QUERIES = {"a long key over 4 000 members": f"?format=html&task_id={LOOKED_UP}"}


def attack(name: str, config: str) -> None:
    """Be the hostile worker: runs in a process of its own, until that is killed.

    It answers the first request as it should, so that it is known to be there.
    """
    replies = list(ATTACKS[name]()) if "without end" not in name else ATTACKS[name]()

    first: list[dict[str, Any]] = []

    def speak(mailbox: Mailbox, command: dict[str, Any]) -> None:
        if mailbox.heard.count("stats") < 2 or command["method"] != "stats":
            mailbox.answer(command)
            first.append(command)
            return
        if "late" in name:
            mailbox.answer(command)
            command = first[0]
        ends = time.monotonic() + SECONDS
        for count, (body, headers) in enumerate(replies):
            if count == MESSAGES or time.monotonic() > ends:
                return
            mailbox.reply(
                command,
                body,
                headers={"ticket": command["ticket"], **headers},
                content_type="application/json",
                content_encoding="utf-8" if isinstance(body, str) else "binary",
            )

    broker: Any = SimpleNamespace(client=lambda: make_app(json.loads(config)))
    with Mailbox(broker, EVIL, speak):
        print("ready", flush=True)
        time.sleep(600)


class Helper:
    """Sends small replies with new names, so that no silence ends a request before a large one."""

    def __init__(self) -> None:
        self.command: dict[str, Any] | None = None
        self.until = self.next = 0.0

    def speak(self, mailbox: Mailbox, command: dict[str, Any]) -> None:
        mailbox.answer(command)
        if command["method"] == "stats" and mailbox.heard.count("stats") > 1:
            self.command, self.until = command, time.monotonic() + HOLDS
        mailbox.on_idle = partial(self.hold, mailbox)

    def hold(self, mailbox: Mailbox) -> None:
        now = time.monotonic()
        if self.command and self.next < now < self.until:
            self.next = now + 0.2
            mailbox.reply(self.command, {f"{now:.1f}@helper": {}})


@contextmanager
def hostile_worker(name: str, broker: Broker) -> Iterator[None]:
    args = [sys.executable, "-m", "benchmarks.hostile", "--attack", name, broker.config_json]
    popen = subprocess.Popen(args, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert popen.stdout is not None
        assert popen.stdout.readline() == "ready\n"
        yield
    finally:
        popen.kill()
        popen.communicate()


def ask(web: Web, query: str = "") -> tuple[str, str]:
    """Return the seconds until the whole answer was there with its status, and what it holds."""
    connection = HTTPConnection("127.0.0.1", web.port, timeout=60)
    began = time.monotonic()
    connection.request("GET", PATH + query, headers={"Authorization": f"Token {web.token}"})
    response = connection.getresponse()
    body = response.read()
    took = f"{time.monotonic() - began:.1f} s, {response.status}"
    connection.close()
    if response.status != 200:
        return took, "an error"
    try:
        honest = HONEST in (body.decode() if query else json.loads(body.decode())["stats"] or ())
    except ValueError:
        return took, "not JSON"
    return took, f"{'with' if honest else 'WITHOUT'} the honest worker"


class Watch(Thread):
    """Sends requests that are refused, one after the other, until it is stopped."""

    def __init__(self, web: Web) -> None:
        super().__init__()
        self._port, self._over = web.port, Event()
        self.longest = 0.0

    def run(self) -> None:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=60)
        while not self._over.wait(0.01):
            began = time.monotonic()
            connection.request("GET", PATH)
            connection.getresponse().read()
            self.longest = max(self.longest, time.monotonic() - began)
        connection.close()

    def stop(self) -> str:
        self._over.set()
        self.join()
        return f"{self.longest:.2f} s"


def list_names(broker: Broker) -> None:
    """Add names to the list of mailboxes, as a peer of the broker can. Nobody removes them."""
    with broker.app.connection_for_write() as connection:
        channel = connection.default_channel
        exchange = broker.app.control.mailbox.exchange.name
        key = channel.keyprefix_queue % exchange
        for first in range(0, 300_000, 10_000):
            channel.client.sadd(
                key,
                *(
                    channel.sep.join(["", "", f"{number}@made-up.{exchange}"])
                    for number in range(first, first + 10_000)
                ),
            )


def measure(name: str, kind: str, token: str) -> list[str]:
    query = QUERIES.get(name, "")
    with place(kind) as broker:
        web = Web(broker, token)
        try:
            with Mailbox(broker, HONEST, Mailbox.answer):
                [pid] = children(web.pid)
                speak = Mailbox.answer if name in BY_TASKS else Helper().speak
                helper = Mailbox(broker, HELPER, speak)
                with hostile_worker(name, broker), helper:
                    ask(web)
                    before = status(pid, "VmHWM")
                    if "broker's list" in name:
                        list_names(broker)
                    watch = Watch(web)
                    watch.start()
                    took, what = ask(web, query)
                    standstill = watch.stop()
                    again, _ = ask(web, query)
                after, whole = ask(web, query)
                alive = children(web.pid) == [pid]
                peak = status(pid, "VmHWM") if alive else 0
        finally:
            web.stop()
    ordinary = f"{after}" if alive and whole.startswith("with ") else f"{after}: {whole}"
    memory = f"{before / 1000:.0f} to {peak / 1000:.0f} MB"
    row = [f"{kind}: {name}", took, what, standstill, memory, again, ordinary]
    print(*row, sep=" | ", file=sys.stderr)
    return row


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    parser.add_argument("--attack", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        attack(*options.attack)
        return
    kinds = ["redis", *(["amqp"] if AMQP_URL else [])]
    header = ["what is sent", "first request", "answer", "standstill of another", "peak"]
    with demo_project() as token:
        chosen = [name for name in ATTACKS if options.only in name]
        rows = [
            measure(name, kind, token)
            for kind in kinds
            for name in chosen
            if kind == "redis" or "broker's list" not in name  # RabbitMQ has none.
        ]
        title = "Under attack (DEADLINE 5 s, so that a request must end within 6 s)"
        show(title, [*header, "second request", "afterwards"], rows)


if __name__ == "__main__":
    main()
