"""What happens when the broker fails: one 503, in time, and a 200 as soon as it is back."""

from __future__ import annotations

import logging
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import kombu
import pytest
import redis
import trustme
from celery import Celery, _state
from django.conf import settings
from django.test import override_settings
from kombu.transport import memory
from kombu.transport.redis import SentinelChannel
from rest_framework.test import APIClient

from celery_stats.control.broker import connections_for
from celery_stats.control.configuration import broker_urls, configured_connection
from celery_stats.exceptions import ServiceUnavailable
from celery_stats.masking.answers import safe_error
from celery_stats.shapes import FIELDS
from tests import celery_app
from tests.asking import everywhere
from tests.brokers import AMQP_URL, Broker, MakeBroker, RedisServer, redis_binary
from tests.mailbox import Mailbox
from tests.network import Proxy, silent_port
from tests.processes import Process, free_port, wait_until

pytestmark = pytest.mark.broker

URL = "/api/celery-stats/"
DEADLINE = 2.4
CONF: dict[str, Any] = {"CELERY_APP": "tests.celery_app:app", "TIMEOUT": 1.0, "DEADLINE": DEADLINE}

#: In every broker URL and option that takes one.
PASSWORD = "hunter2-is-secret"

_modules = count()

UseApp = Callable[[Celery], None]
Outage = Callable[[str], str]


@pytest.fixture(autouse=True)
def quick(settings: Any) -> None:
    settings.DRF_CELERY_STATS = CONF


class Lines(logging.Handler):
    """Everything that is logged: the lines with their tracebacks, and what the records hold."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts += self.format(record), repr(vars(record))


@pytest.fixture(autouse=True)
def no_password_in_any_log() -> Iterator[None]:
    """Whatever fails, nobody tells the password at any level, kombu and the drivers included."""
    lines = Lines()
    level = logging.root.level
    logging.root.addHandler(lines)
    logging.root.setLevel("DEBUG")
    yield
    logging.root.setLevel(level)
    logging.root.removeHandler(lines)
    assert [text for text in lines.texts if PASSWORD in text or ":guest@" in text] == []


@pytest.fixture
def use_app(monkeypatch: pytest.MonkeyPatch) -> Iterator[UseApp]:
    """Point the endpoint to a Celery app."""
    used: list[Celery] = []

    def use(app: Celery) -> None:
        used.append(app)
        monkeypatch.setattr(celery_app, "app", app)

    yield use
    # A run that was given up may still be at it, and would keep its connection.
    wait_until(lambda: "celery-stats" not in {t.name for t in threading.enumerate()})
    for app in used:
        connections_for(app).close()
        app.close()


@pytest.fixture
def outage(api: APIClient, caplog: pytest.LogCaptureFixture) -> Outage:
    """Ask, and expect the one 503: in time, mute about its cause, with the cause in the log."""

    def ask(cause: str) -> str:
        caplog.clear()
        caplog.set_level("DEBUG")
        began = time.monotonic()
        response = api.get(URL)
        took = time.monotonic() - began
        assert response.status_code == 503
        assert took < DEADLINE + 1
        assert response.json() == {"detail": str(ServiceUnavailable.default_detail)}
        assert int(response["Retry-After"]) > 0
        assert response["Cache-Control"] == "no-store"

        def logged() -> list[str]:
            ours = [r for r in caplog.records if r.name.startswith("celery_stats.")]
            return [m for r in ours if re.search(cause, m := r.getMessage())]

        lines = wait_until(logged, seconds=5, what=f"{cause!r} in {caplog.text}")
        return str(lines[0])

    return ask


def of_amqp(app: Celery) -> bool:
    return str(app.conf.broker_url).startswith("amqp")


def answers(api: APIClient) -> dict[str, list[str]]:
    """Ask once, expect a 200, and return who stands under each key.

    On a busy machine a worker may answer late. On RabbitMQ the first question of a process takes
    the whole ``TIMEOUT``, so it is shorter there.
    """
    patient = {"TIMEOUT": 2.0 if of_amqp(celery_app.app) else 5.0, "DEADLINE": 10.0}
    with override_settings(DRF_CELERY_STATS={**settings.DRF_CELERY_STATS, **patient}):
        response = api.get(URL)
    assert response.status_code == 200, response.content
    return {name: list(response.json()[name] or ()) for name in FIELDS}


def subscribers(client: redis.Redis, broker: Broker) -> int:
    """How many workers listen; an empty payload is no command."""
    return int(client.publish(f"/0.{broker.namespace}.pidbox", ""))


WORKING = everywhere("one@faults")


class Place:
    """A broker with one worker; the endpoint reaches it through a hop that can fail."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.server: RedisServer | None = None
        if kind == "redis":
            self.server = RedisServer("--requirepass", PASSWORD)
            url = f"redis://:{PASSWORD}@127.0.0.1:{self.server.port}/1"
        else:
            assert AMQP_URL is not None
            url = AMQP_URL
        self.port: int = kombu.Connection(url).port
        self.broker = Broker(kind, url)
        self.broker.fleet("one@faults")
        self.proxy = Proxy(self.port)

    def client(self, url: str | None = None) -> Celery:
        return self.broker.client(broker_url=url or self.url_via(self.proxy.port))

    def url_via(self, port: int) -> str:
        return self.broker.url.replace(f":{self.port}", f":{port}")

    def refuse(self) -> None:
        self.proxy.close()

    def accept(self) -> None:
        self.proxy = Proxy(self.port, listen=self.proxy.port)

    def freeze(self) -> None:
        """Stop the server process; RabbitMQ, which is not ours to stop, falls silent."""
        if self.server is not None:
            self.server.freeze()
        else:
            self.proxy.freeze()

    def thaw(self) -> None:
        if self.server is not None:
            self.server.thaw()
        else:
            self.proxy.thaw()

    def asked_for_replies(self) -> bool:
        """Whether the endpoint has come to waiting for them; RabbitMQ sends unasked."""
        if self.server is None:
            return True
        with redis.Redis(port=self.port, password=PASSWORD) as client:
            readers = {c["addr"] for c in client.client_list() if "b" in c["flags"]}
        return any(f"127.0.0.1:{port}" in readers for port in self.proxy.far_ports)

    def close(self) -> None:
        self.proxy.close()
        self.broker.close()
        if self.server is not None:
            self.server.stop()


def _place(kind: str) -> Iterator[Place]:
    if kind == "amqp" and AMQP_URL is None:
        pytest.skip("CELERY_STATS_TEST_AMQP_URL names no RabbitMQ")
    place = Place(kind)
    yield place
    place.close()


@pytest.fixture(scope="module", params=["redis", "amqp"])
def any_place(request: pytest.FixtureRequest) -> Iterator[Place]:
    yield from _place(request.param)


@pytest.fixture
def place(any_place: Place, use_app: UseApp) -> Place:
    """Where the endpoint asks, by a connection that is still to be made."""
    use_app(any_place.client())
    return any_place


class TestUnreachable:
    def test_refused__503_then_back(self, place: Place, api: APIClient, outage: Outage) -> None:
        place.refuse()
        outage("Connection refused")
        place.accept()
        assert answers(api) == WORKING
        # The same with a connection that was kept.
        place.refuse()
        outage("Connection refused")
        place.accept()
        assert answers(api) == WORKING

    @pytest.mark.parametrize("scheme", ["redis", "amqp"])
    def test_name_not_known__503(self, use_app: UseApp, outage: Outage, scheme: str) -> None:
        url = f"{scheme}://user:{PASSWORD}@broker.invalid/0"
        use_app(celery_app.make_app({"broker_url": url}))
        outage("Name or service not known|No address|name resolution")

    def test_name_server_hangs__503_then_back(
        self,
        place: Place,
        api: APIClient,
        outage: Outage,
        use_app: UseApp,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """No time-out of a socket bounds this one."""
        answered = threading.Event()
        resolve = socket.getaddrinfo

        def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
            if host == "broker.invalid":
                answered.wait(10)
                host = "127.0.0.1"
            return resolve(host, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        use_app(place.client(place.url_via(place.port).replace("127.0.0.1", "broker.invalid")))
        outage("no snapshot within 2.9 s")
        answered.set()
        assert answers(api) == WORKING

    def test_accepts_and_is_silent__503_then_back(
        self, place: Place, api: APIClient, outage: Outage
    ) -> None:
        place.proxy.freeze()
        outage("(?i)timeout|timed out")
        place.proxy.thaw()
        assert answers(api) == WORKING


class TestFrozen:
    def test_while_connected__503_then_back(
        self, place: Place, api: APIClient, outage: Outage
    ) -> None:
        assert answers(api) == WORKING
        place.freeze()
        outage("(?i)timeout|timed out")
        outage("(?i)timeout|timed out")
        place.thaw()
        assert answers(api) == WORKING

    def test_while_replies_are_drained__503_then_back(
        self, place: Place, api: APIClient, outage: Outage
    ) -> None:
        assert answers(api) == WORKING
        (worker,) = place.broker.workers
        frozen = threading.Event()

        def freeze(mailbox: Mailbox, command: dict[str, Any]) -> None:
            if not frozen.is_set():
                frozen.set()
                place.freeze()

        with Mailbox(place.broker, "trap@faults", freeze):
            worker.freeze()  # It is known and has not answered, so the endpoint waits.
            try:
                outage("(?i)timeout|timed out")
            finally:
                place.thaw()
                worker.thaw()
            assert frozen.is_set()
        assert answers(api) == WORKING


class TestDying:
    def test_in_the_middle__503_then_back(
        self, place: Place, api: APIClient, outage: Outage
    ) -> None:
        dead = threading.Event()

        def die(mailbox: Mailbox, command: dict[str, Any]) -> None:
            if not dead.is_set():
                place.refuse()
                dead.set()

        try:
            with Mailbox(place.broker, "trap@faults", die):
                outage("(?i)connection|closed|reset|pipe")
                assert dead.wait(5)
        finally:
            place.accept()
        assert answers(api) == WORKING

    def test_in_the_middle_on_a_kept_connection__asked_again_on_a_new_one(
        self, place: Place, api: APIClient
    ) -> None:
        assert answers(api) == WORKING
        assert answers(api) == WORKING  # without the silence that would cost the connection
        cut = threading.Event()

        def cut_once(mailbox: Mailbox, command: dict[str, Any]) -> None:
            if cut.is_set():
                mailbox.answer(command)
            else:
                place.proxy.cut()
                cut.set()

        with Mailbox(place.broker, "trap@faults", cut_once):
            found = answers(api)
            assert cut.wait(5)
        assert all("one@faults" in workers for workers in found.values())

    def test_nonsense_on_a_kept_connection__asked_again_on_a_new_one(
        self, place: Place, api: APIClient
    ) -> None:
        # A frame for a channel that was never opened; no answer that Redis has.
        nonsense = {"amqp": b"\x01\x27\x0f\x00\x00\x00\x04\x00\x3c\x00\x1f\xce"}

        def speak(mailbox: Mailbox, command: dict[str, Any]) -> None:
            if len(mailbox.heard) == 2:
                place.proxy.inject(nonsense.get(place.kind, b"?\r\n"))
            else:
                mailbox.answer(command)

        with Mailbox(place.broker, "trap@faults", speak) as mailbox:
            for _ in range(2):
                response = api.get(f"{URL}?field=stats&worker=trap@faults")
                assert list(response.json()["stats"]) == ["trap@faults"]
            assert len(mailbox.heard) == 3

    def test_after_the_last_answer__still_true(
        self,
        place: Place,
        api: APIClient,
        settings: Any,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        # The trap may take its time: nothing here waits for silence. Closing the reply queue
        # takes half of the deadline.
        settings.DRF_CELERY_STATS = {**CONF, "TIMEOUT": 4.0, "DEADLINE": 4.0}
        asked = f"{URL}?field=stats&worker=trap@faults"

        def speak(mailbox: Mailbox, command: dict[str, Any]) -> None:
            if len(mailbox.heard) > 1 and command["method"] != "ping":
                wait_until(place.asked_for_replies, what="the reader")
                place.proxy.deafen()
            mailbox.answer(command)

        with monkeypatch.context() as patch, Mailbox(place.broker, "trap@faults", speak):
            # A ping would be sent to a broker that does not listen any more. So would what kombu
            # sends after each wait without a message, to restore unacknowledged messages.
            patch.setattr("celery_stats.control.presence.base.PING_AFTER", 10.0)
            patch.setattr("celery_stats.control.collector.REST_AFTER", 10.0)
            patch.setattr("celery_stats.control.collector.TRY_MORE_SHARE", 1.0)
            assert api.get(asked).status_code == 200
            try:
                response = api.get(asked)
            finally:
                place.proxy.thaw()
        assert response.status_code == 200
        assert list(response.json()["stats"]) == ["trap@faults"]
        if place.kind == "redis":  # Nothing is tidied up on AMQP.
            assert "The broker failed after the last answer" in caplog.text
        assert answers(api) == WORKING

    def test_redis_killed_and_started__503_then_back(
        self,
        own_redis: RedisServer,
        make_broker: MakeBroker,
        api: APIClient,
        outage: Outage,
        use_app: UseApp,
    ) -> None:
        url = f"redis://127.0.0.1:{own_redis.port}/0"
        broker = make_broker("redis", "one@faults", broker_url=url)
        use_app(broker.client())
        assert answers(api) == WORKING
        own_redis.kill()
        outage("Connection refused|closed by server")
        outage("Connection refused")
        server = RedisServer(port=own_redis.port)
        try:
            wait_until(lambda: subscribers(server.client(), broker), what="the worker")
            assert answers(api) == WORKING
        finally:
            server.stop()


class TestRefusedEntry:
    def test_wrong_password__503(self, place: Place, outage: Outage, use_app: UseApp) -> None:
        userinfo = re.sub(r"://[^@]*@", f"://somebody:{PASSWORD}-not@", place.url_via(place.port))
        use_app(place.client(userinfo))
        outage("AuthenticationError|ACCESS_REFUSED")

    def test_wrong_virtual_host__503(self, place: Place, outage: Outage, use_app: UseApp) -> None:
        wrong = {"redis": "/5000", "amqp": "/no-such-host"}[place.kind]
        use_app(place.client(re.sub(r"(:\d+)/.*", rf"\1{wrong}", place.url_via(place.port))))
        outage("DB index is out of range|NOT_ALLOWED")

    def test_user_created_later__503_then_back(
        self, own_redis: RedisServer, api: APIClient, outage: Outage, use_app: UseApp
    ) -> None:
        url = f"redis://support:{PASSWORD}@127.0.0.1:{own_redis.port}/0"
        use_app(celery_app.make_app({"broker_url": url}))
        outage("invalid username-password")
        own_redis.client().execute_command(
            *f"ACL SETUSER support on >{PASSWORD} ~* &* +@all".split()
        )
        assert answers(api) == everywhere()


class DirectOnly(memory.Transport):
    """A transport without remote control."""

    implements = memory.Transport.implements.extend(exchange_type=frozenset(["direct"]))


class TestConfiguration:
    @pytest.mark.parametrize(
        ("config", "cause"),
        [
            ({"broker_url": "memory://", "broker_transport": f"{__name__}:DirectOnly"}, "cannot"),
            ({"broker_url": f"sqs://key:{PASSWORD}@"}, "RemoteControlUnsupported"),
            ({"broker_url": f"etcd://user:{PASSWORD}@127.0.0.1:1/"}, "RemoteControlUnsupported"),
            ({"broker_url": f"nosuch://user:{PASSWORD}@127.0.0.1/"}, "No such transport: nosuch"),
            ({"broker_url": f"redis://:12{PASSWORD}/3@127.0.0.1/"}, "cannot be read"),
            ({"broker_url": f"redis://:x#{PASSWORD}@127.0.0.1/"}, "cannot be read"),
            ({"broker_url": f"redis://:{PASSWORD}@127.0.0.1/one"}, "Database is int"),
            ({}, "'tests' names no broker"),
        ],
        ids=lambda value: str(value.get("broker_url"))[:12] if isinstance(value, dict) else "",
    )
    def test_unusable_broker__503(
        self, outage: Outage, use_app: UseApp, config: dict[str, str], cause: str
    ) -> None:
        use_app(celery_app.make_app(config))
        line = outage(cause)
        assert PASSWORD[:6] not in line

    @pytest.mark.parametrize(
        ("source", "cause"),
        [
            ("import nowhere_to_be_found\n", "nowhere_to_be_found"),
            ("other = 1\n", "no attribute 'app'"),
            ("app = 42\n", "a int is not a Celery app"),
            ("app = (\n", "SyntaxError"),
            (f"raise RuntimeError('no db at postgres://me:{PASSWORD}@db/')\n", "RuntimeError"),
            ("raise SystemExit(3)\n", "SystemExit"),
        ],
    )
    def test_unimportable_app__503_then_back(
        self,
        make_broker: MakeBroker,
        api: APIClient,
        outage: Outage,
        use_app: UseApp,
        settings: Any,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        source: str,
        cause: str,
    ) -> None:
        name = f"broken_project_{next(_modules)}"
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / f"{name}.py").write_text(source)
        settings.DRF_CELERY_STATS = {**CONF, "CELERY_APP": f"{name}:app"}
        outage(cause)
        settings.DRF_CELERY_STATS = CONF
        use_app(make_broker().client())
        assert answers(api) == everywhere()

    def test_no_app_named__the_current_one(
        self, place: Place, api: APIClient, settings: Any
    ) -> None:
        settings.DRF_CELERY_STATS = {**CONF, "CELERY_APP": None}
        before = _state._tls.current_app
        celery_app.app.set_current()
        try:
            assert answers(api) == WORKING
        finally:
            _state._set_current_app(before)

    def test_no_such_module__503(self, outage: Outage) -> None:
        with override_settings(DRF_CELERY_STATS={**CONF, "CELERY_APP": "no.where:app"}):
            outage("No module named 'no'")


class TestFailover:
    def test_first_url_refuses__the_second_answers(
        self, place: Place, api: APIClient, use_app: UseApp
    ) -> None:
        good = place.url_via(place.port)
        use_app(place.client(f"{place.url_via(free_port())};{good}"))
        assert answers(api) == WORKING

    def test_first_url_is_silent__the_second_answers(
        self, place: Place, api: APIClient, use_app: UseApp, settings: Any
    ) -> None:
        settings.DRF_CELERY_STATS = {**CONF, "DEADLINE": 3.0}
        with silent_port() as port:
            use_app(place.client(f"{place.url_via(port)};{place.url_via(place.port)}"))
            assert answers(api) == WORKING

    def test_none_of_two_answers__503(self, place: Place, outage: Outage, use_app: UseApp) -> None:
        with silent_port() as port:
            use_app(place.client(f"{place.url_via(port)};{place.url_via(free_port())}"))
            outage("(?i)timeout|timed out|refused")


def test_sentinel__master_dies__503_then_back(
    api: APIClient, outage: Outage, use_app: UseApp, settings: Any
) -> None:
    patient = {**CONF, "TIMEOUT": 2.0, "DEADLINE": 15.0}
    settings.DRF_CELERY_STATS = patient
    with ExitStack() as stack:

        def server(*options: str, **kwargs: Any) -> RedisServer:
            started = RedisServer(*options, **kwargs)
            stack.callback(started.stop)
            return started

        auth = ("--requirepass", PASSWORD, "--masterauth", PASSWORD)
        auth += ("--repl-diskless-sync-delay", "0")
        master = server(*auth)
        replica = server(*auth, "--replicaof", "127.0.0.1", str(master.port))
        sentinel = server(
            sentinel=f"sentinel monitor mymaster 127.0.0.1 {master.port} 1\n"
            f"sentinel auth-pass mymaster {PASSWORD}\n"
            # No server counts as dead because it is slow. The test orders the fail-over.
            "sentinel down-after-milliseconds mymaster 600000\n"
            "sentinel failover-timeout mymaster 60000\n"
            f"requirepass {PASSWORD}\n"
        )
        asker = redis.Redis(port=sentinel.port, password=PASSWORD)
        stack.callback(asker.close)

        wait_until(lambda: asker.sentinel_slaves("mymaster"), what="the replica")
        wait_until(
            lambda: asker.sentinel_slaves("mymaster")[0]["master-link-status"] == "ok",
            seconds=60,
            what="the replica's link",
        )
        urls = [f"sentinel://:{PASSWORD}@127.0.0.1:{p}" for p in (free_port(), sentinel.port)]
        broker = Broker(
            "redis",
            urls[1],
            broker_transport_options={
                "master_name": "mymaster",
                "sentinel_kwargs": {"password": PASSWORD},
            },
        )
        stack.callback(broker.close)
        broker.fleet("one@faults")
        use_app(broker.client(broker_url=";".join(urls)))  # one sentinel is dead already
        response = api.get(URL)
        assert list(response.json()["stats"]) == ["one@faults"]
        assert PASSWORD not in response.content.decode()

        # Workers that listen on a second topic are not counted, but waited for.
        options = {**broker.config["broker_transport_options"], "sentinel_fanout_compat": True}
        use_app(broker.client(broker_transport_options=options))
        began = time.monotonic()
        assert answers(api) == WORKING
        if hasattr(SentinelChannel, "sentinel_fanout_compat"):  # kombu 5.7
            assert time.monotonic() - began > patient["TIMEOUT"]

        use_app(broker.client(broker_url=";".join(urls)))
        assert answers(api) == WORKING
        master.kill()
        settings.DRF_CELERY_STATS = CONF
        outage("Connection refused|closed by server|No master")
        settings.DRF_CELERY_STATS = patient
        asker.sentinel_failover("mymaster")
        wait_until(
            lambda: asker.sentinel_masters()["mymaster"]["port"] == replica.port,
            seconds=60,
            what="the fail-over",
        )
        assert api.get(URL).status_code == 200
        with redis.Redis(port=replica.port, password=PASSWORD) as client:
            wait_until(lambda: subscribers(client, broker), seconds=60, what="the worker")
        assert answers(api) == WORKING


def test_broker_urls__hold_the_password_of_the_sentinels() -> None:
    """Versions 6 and 7 of redis-py quote it in ``MasterNotFoundError``."""
    app = celery_app.make_app(
        {
            "broker_url": "sentinel://127.0.0.1",
            "broker_transport_options": {"sentinel_kwargs": {"password": "p@ss word"}},
        }
    )
    error = ConnectionError("No master found for 'm' : <Redis(password=p@ss word,db=0)>")
    assert "ss word" not in safe_error(error, broker_urls(configured_connection(app)))


class TestTls:
    @pytest.fixture
    def authority(self) -> trustme.CA:
        return trustme.CA()

    @pytest.fixture
    def port(self, authority: trustme.CA, tmp_path: Path) -> Iterator[int]:
        folder = tmp_path / "server"
        folder.mkdir()
        certificate = authority.issue_cert("127.0.0.1")
        authority.cert_pem.write_to_path(folder / "ca.pem")
        certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
        certificate.private_key_pem.write_to_path(folder / "key.pem")
        port = free_port()
        try:
            server = RedisServer(
                *("--tls-port", str(port), "--tls-auth-clients", "no"),
                *("--tls-ca-cert-file", str(folder / "ca.pem")),
                *("--tls-cert-file", str(folder / "cert.pem")),
                *("--tls-key-file", str(folder / "key.pem")),
            )
        except AssertionError as exc:
            if "Bad directive" not in str(exc):
                raise
            pytest.skip(f"{redis_binary()} was built without TLS")
        yield port
        server.stop()

    @staticmethod
    def broker(host: str, port: int, authority: trustme.CA, folder: Path) -> Broker:
        authority.cert_pem.write_to_path(folder / "ca.pem")
        return Broker(
            "redis",
            f"rediss://:@{host}:{port}/0",
            broker_use_ssl={
                "ssl_cert_reqs": "required",
                "ssl_ca_certs": str(folder / "ca.pem"),
                "ssl_check_hostname": True,
            },
        )

    def test_private_authority__works(
        self, port: int, authority: trustme.CA, tmp_path: Path, api: APIClient, use_app: UseApp
    ) -> None:
        broker = self.broker("127.0.0.1", port, authority, tmp_path)
        try:
            broker.fleet("one@faults")
            use_app(broker.client())
            assert answers(api) == WORKING
            assert answers(api) == WORKING
        finally:
            broker.close()

    @pytest.mark.parametrize("wrong", ["authority", "host"])
    def test_wrong_certificate__503(
        self,
        port: int,
        authority: trustme.CA,
        tmp_path: Path,
        outage: Outage,
        use_app: UseApp,
        wrong: str,
    ) -> None:
        if wrong == "authority":
            broker = self.broker("127.0.0.1", port, trustme.CA(), tmp_path)
        else:
            broker = self.broker("localhost", port, authority, tmp_path)
        try:
            use_app(broker.client())
            outage("CERTIFICATE_VERIFY_FAILED")
        finally:
            broker.close()


ASK_FOR_EVER = """
from celery_stats.control.question import Options, Question
from celery_stats.control.snapshot import take_snapshot
from tests.celery_app import app
take_snapshot(Question(), Options(app, 60, 60), 60)
"""


class TestKilledInTheMiddle:
    """What a process leaves behind that is killed with SIGKILL while it asks."""

    @staticmethod
    def kill(place: Place, log: Path) -> str:
        """Kill one when it has asked, the worker has answered all, and nothing was read.

        Returns:
            str: its reply queue.
        """
        (worker,) = place.broker.workers
        asker: list[Process] = []
        reply_to: list[str] = []

        def stop(mailbox: Mailbox, command: dict[str, Any]) -> None:
            if asker and not reply_to:
                asker[0].freeze()
                reply_to.append(command["reply_to"]["routing_key"])

        with Mailbox(place.broker, "silent@faults", stop):
            env = {
                "DJANGO_SETTINGS_MODULE": "tests.settings",
                "CELERY_STATS_TEST_CONFIG": place.broker.config_json,
            }
            # It shall find nobody to read once it answers.
            worker.freeze()
            asker.append(Process([sys.executable, "-c", ASK_FOR_EVER], log=log, env=env))
            try:
                wait_until(lambda: reply_to, what="the question")
                worker.thaw()
                # It answers in turn: with this it has answered the six.
                pong = place.broker.client().control.ping(
                    destination=["one@faults"], limit=1, timeout=10
                )
                assert pong
            finally:
                worker.thaw()
                asker[0].kill()
        return f"{reply_to[0]}.reply.{place.broker.namespace}.pidbox"

    def test_what_is_left__bounded_and_gone_where_the_broker_allows(
        self, any_place: Place, tmp_path: Path
    ) -> None:
        place = any_place
        if place.kind == "redis":
            with redis.Redis(port=place.port, password=PASSWORD, db=1) as client:
                bindings = f"_kombu.binding.reply.{place.broker.namespace}.pidbox"
                before, bound = (
                    {bindings, *map(bytes.decode, client.keys())},
                    client.scard(bindings),
                )
                queue = self.kill(place, tmp_path / "log")
                # Redis does not know whose they are: one list of at most six replies, one binding.
                # There is no list if the only reply went to a read that had begun.
                left = {*map(bytes.decode, client.keys())} - before
                assert left <= {queue}
                assert client.llen(queue) <= len(FIELDS)
                assert client.scard(bindings) == bound + 1
                assert client.delete(queue, bindings) == 1 + len(left)  # as docs/recipes.md says
        else:
            queue = self.kill(place, tmp_path / "log")
            with kombu.Connection(place.broker.url) as connection:

                def gone() -> bool:
                    with connection.channel() as channel:
                        try:
                            channel.queue_declare(queue, passive=True)
                        except connection.channel_errors as exc:
                            return bool(exc.code == 404)
                    return False

                wait_until(gone, what=f"the end of {queue}")

    def test_next_snapshot__whole(self, place: Place, api: APIClient, tmp_path: Path) -> None:
        self.kill(place, tmp_path / "log")
        assert answers(api) == WORKING
