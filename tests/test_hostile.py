"""Workers that speak garbage and callers who ask for trouble: no 500, in time, others whole."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable
from importlib.util import find_spec
from threading import Event
from typing import Any
from urllib.parse import unquote, urlencode

import amqp
import hypothesis
import pytest
from django.test import override_settings
from hypothesis import strategies as st
from rest_framework.authtoken.models import Token
from rest_framework.response import Response
from rest_framework.test import APIClient

from celery_stats.control import limits
from celery_stats.control.limits import is_name
from celery_stats.query import PARAMETERS
from celery_stats.shapes import FIELDS
from tests.answers import mask
from tests.brokers import Broker, MakeBroker, Use
from tests.mailbox import Mailbox
from tests.simulated import replies

URL = "/api/celery-stats/"
DEADLINE = 12.0
Command = dict[str, Any]
Speak = Callable[[Mailbox, Command], None]

HONEST = "honest@t"
EVIL = "evil@t"

ODD_NAMES = [
    "x" * 10_000,
    "a\r\nSet-Cookie: stolen=1\r\n\r\n<html>",
    "a,b,c",
    "\"quoted' \\ 100%",
    "wörker@büro-\N{PILE OF POO}",
    "\ud800",
    "\x00",
    "",
    " ",
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "__proto__",
]


@pytest.fixture(autouse=True)
def quick(settings: Any) -> None:
    settings.DRF_CELERY_STATS = {
        "CELERY_APP": "tests.celery_app:app",
        # Longer than the honest worker is silent on a busy machine.
        "TIMEOUT": 1.5,
        "DEADLINE": DEADLINE,
    }


@pytest.fixture(params=["redis", "amqp"])
def broker(request: pytest.FixtureRequest, make_broker: MakeBroker, use: Use) -> Broker:
    return use(make_broker(request.param))


@pytest.fixture
def redis_broker(make_broker: MakeBroker, use: Use) -> Broker:
    return use(make_broker())


def ask(
    api: APIClient,
    broker: Broker,
    speak: Speak,
    accept: str = "*/*",
    *,
    in_turn: bool = True,
    commands: int = len(FIELDS),
) -> Response:
    """Return the answer of two workers: an honest one, and one that ``speak`` speaks for.

    Args:
        in_turn: the honest one holds back until the other has spoken.
        commands: how many it gets: one alone, if it does not answer that.
    """
    spoken = Event()

    def evil(mailbox: Mailbox, command: Command) -> None:
        speak(mailbox, command)
        if len(mailbox.heard) >= commands:
            spoken.set()

    def honest(mailbox: Mailbox, command: Command) -> None:
        assert not in_turn or spoken.wait(10)
        mailbox.answer(command)

    with Mailbox(broker, HONEST, honest), Mailbox(broker, EVIL, evil):
        began = time.monotonic()
        response = api.get(URL, headers={"Accept": accept})
        assert time.monotonic() - began < DEADLINE + 1
    return response


def whole(response: Response, *workers: str) -> bool:
    """Whether all that these workers said is in the answer; without names, the honest one."""
    assert response.status_code == 200, response.content
    answer = json.loads(response.content)
    assert list(answer) == list(FIELDS)
    for worker in workers or (HONEST,):
        said = mask({name: {worker: reply} for name, reply in replies(worker).items()})
        if any(answer[name][worker] != said[name][worker] for name in FIELDS):  # type: ignore[index]
            return False
    return True


def missing(response: Response) -> list[str]:
    return [name for name in response.get("Celery-Stats-Missing", "").split(",") if name]


class Bait:
    """Whoever unpickles it has been had."""

    taken = False

    @classmethod
    def take(cls) -> None:
        cls.taken = True

    def __reduce__(self) -> Any:
        return (Bait.take, ())


class TestReplies:
    """Garbage first, then what is right: neither the others nor the liar's truths are lost."""

    def test_wrong_or_no_ticket__not_counted(self, broker: Broker, api: APIClient) -> None:
        tickets: list[Any] = ["wrong", None, 1, ["x"], {"x": 1}, "x" * 10**5]

        def speak(mailbox: Mailbox, command: Command) -> None:
            for headers in (None, {}, *({"ticket": ticket} for ticket in tickets)):
                mailbox.reply(command, {"nobody@t": []}, headers=headers)
                mailbox.reply(command, {HONEST: ["a lie"]}, headers=headers)
            mailbox.answer(command)

        response = ask(api, broker, speak)
        assert whole(response, HONEST, EVIL)
        assert missing(response) == []
        assert list(response.json()["stats"]) == [EVIL, HONEST]

    def test_not_an_object__not_counted(self, broker: Broker, api: APIClient) -> None:
        def speak(mailbox: Mailbox, command: Command) -> None:
            for body in (None, 42, "text", [], [[HONEST, []]], [{HONEST: []}], {}, True, 1.5):
                mailbox.reply(command, body)
            mailbox.answer(command)

        response = ask(api, broker, speak)
        assert whole(response, HONEST, EVIL)

    def test_cannot_be_decoded__not_counted_and_logged_once(
        self, broker: Broker, api: APIClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        messages = [
            (b"\xff\xfe", "application/json", "utf-8"),
            (b"{", "application/json", "utf-8"),
            (b"[" * 10**6, "application/json", "utf-8"),
            (b"{}", "application/x-nothing", "utf-8"),
            (b"{}", "application/json", "utf-99"),
            (b"{}", "application/json", "hex"),
        ]

        def speak(mailbox: Mailbox, command: Command) -> None:
            for body, kind, encoding in messages:
                mailbox.reply(command, body, content_type=kind, content_encoding=encoding)
            mailbox.answer(command)

        response = ask(api, broker, speak)
        assert whole(response, HONEST, EVIL)
        assert sum("could not be read" in r.getMessage() for r in caplog.records) == 1

    def test_pickle_that_the_project_does_not_accept__is_not_opened(
        self, broker: Broker, api: APIClient
    ) -> None:
        broker.app.conf.accept_content = ["json"]

        def speak(mailbox: Mailbox, command: Command) -> None:
            mailbox.reply(command, {EVIL: Bait()}, serializer="pickle")
            mailbox.answer(command)

        response = ask(api, broker, speak)
        assert whole(response, HONEST, EVIL)
        assert not Bait.taken

    def test_names_that_are_no_text__not_counted(self, broker: Broker, api: APIClient) -> None:
        def speak(mailbox: Mailbox, command: Command) -> None:
            body = {name: [] for name in (1, None, b"x", ("a", "b"))}
            mailbox.reply(command, body, serializer="pickle")
            mailbox.answer(command)

        response = ask(api, broker, speak)
        assert whole(response)
        assert list(response.json()["stats"]) == [EVIL, HONEST]

    def test_answers_for_others_who_were_not_asked__not_counted(
        self, broker: Broker, api: APIClient
    ) -> None:
        def speak(mailbox: Mailbox, command: Command) -> None:
            mailbox.answer(command, HONEST)
            mailbox.answer(command)

        with Mailbox(broker, EVIL, speak):
            response = api.get(f"{URL}?worker={EVIL}")
        assert whole(response, EVIL)
        assert list(response.json()["stats"]) == [EVIL]

    def test_answers_late_and_again__the_first_counts(
        self, broker: Broker, api: APIClient
    ) -> None:
        """It owes two answers, and gives one of them twice when it is asked once more."""
        owed: list[Command] = []

        def speak(mailbox: Mailbox, command: Command) -> None:
            if mailbox.heard.count(command["method"]) == 1 and command["method"] in (
                "stats",
                "active",
            ):
                owed.append(command)
                return
            if command["method"] == "stats":
                mailbox.reply(owed[0], {EVIL: "late"})
            mailbox.answer(command)

        with Mailbox(broker, EVIL, speak) as mailbox:
            response = api.get(URL)
        assert mailbox.heard.count("stats") >= 2
        assert mailbox.heard.count("active") >= 2
        answer = response.json()
        assert answer["stats"] == {EVIL: "late"}
        assert EVIL in answer["active"]
        assert missing(response) == []

    @pytest.mark.parametrize("accept", ["application/json", "text/html"])
    def test_any_value__passed_on(self, broker: Broker, api: APIClient, accept: str) -> None:
        values: list[Any] = [
            None,
            42,
            -1.5,
            "text",
            [None, [], {"name": None}, {"request": 3}, "x", [["deep"]]],
            {"error": "no"},
            {"pool": [], "broker": "x", "total": None, "rusage": 7, "clock": {}},
            {"": {"": {"": []}}},
        ]

        def speak(mailbox: Mailbox, command: Command) -> None:
            for number, value in enumerate(values):
                mailbox.reply(command, {f"{number}@odd": value})
            mailbox.answer(command)

        response = ask(api, broker, speak, accept)
        assert response.status_code == 200
        if accept == "application/json":
            assert whole(response)
            given = [response.json()["active"][f"{n}@odd"] for n in range(len(values))]
            assert given == values
        else:
            assert HONEST in response.content.decode()

    @pytest.mark.parametrize(
        "accept", ["application/json", "text/html", "application/openmetrics-text"]
    )
    @pytest.mark.parametrize(
        "odd",
        [
            {"total": {"a": 1e308, "b": 1e308}},
            {"total": {"a": 1e308, "b": 10**400}},
            {"rusage": {"maxrss": 10**400, "utime": 10**400, "stime": -(10**400)}},
            {"uptime": 10**400, "prefetch_count": 10**400},
            {"pool": {"max-concurrency": 10**400, "processes": [10**400]}},
        ],
        ids=lambda odd: "+".join(odd),
    )
    def test_numbers_too_large_to_calculate_with__no_500(
        self, redis_broker: Broker, api: APIClient, accept: str, odd: dict[str, Any]
    ) -> None:
        def speak(mailbox: Mailbox, command: Command) -> None:
            if command["method"] == "stats":
                mailbox.reply(command, {EVIL: odd})
            mailbox.answer(command)

        response = ask(api, redis_broker, speak, accept, in_turn=False)
        assert response.status_code == 200
        assert HONEST in response.content.decode()

    def test_a_thousand_from_one__the_first_counts(self, broker: Broker, api: APIClient) -> None:
        def speak(mailbox: Mailbox, command: Command) -> None:
            mailbox.answer(command)
            if command["method"] == "active":
                for _ in range(1000):
                    mailbox.reply(command, {EVIL: ["later"]})

        response = ask(api, broker, speak, in_turn=False)
        assert whole(response, HONEST, EVIL)

    @pytest.mark.parametrize("megabytes", [7, 9])
    def test_megabytes__passed_on_up_to_a_limit(
        self, redis_broker: Broker, api: APIClient, settings: Any, megabytes: int
    ) -> None:
        settings.DRF_CELERY_STATS = {**settings.DRF_CELERY_STATS, "TIMEOUT": 3.0}
        text = "x" * megabytes * 2**20

        def speak(mailbox: Mailbox, command: Command) -> None:
            if command["method"] == "revoked":
                mailbox.reply(command, {EVIL: [text]})
            else:
                mailbox.answer(command)

        response = ask(api, redis_broker, speak, in_turn=False)
        assert whole(response)
        assert response.json()["revoked"].get(EVIL) == ([text] if megabytes == 7 else None)
        assert missing(response) == ([] if megabytes == 7 else [EVIL])
        assert EVIL in response.json()["active"]

    def test_payload_of_many_megabytes__not_decoded(
        self, redis_broker: Broker, api: APIClient, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The other worker waits until the payload is sent. Nothing here waits for silence.
        settings.DRF_CELERY_STATS = {**settings.DRF_CELERY_STATS, "TIMEOUT": 10.0}
        decoded = []

        def loads(text: str) -> Any:
            decoded.append(len(text))
            return json.loads(text)

        monkeypatch.setattr("kombu.transport.redis.loads", loads)

        def speak(mailbox: Mailbox, command: Command) -> None:
            if command["method"] == "stats":
                mailbox.reply(command, {EVIL: ["x" * 26 * 2**20]})
            mailbox.answer(command)

        response = ask(api, redis_broker, speak, commands=1)
        assert whole(response, HONEST, EVIL)
        assert len(limits.TOO_LARGE) in decoded
        assert max(decoded) < limits.MAX_PAYLOAD

    @pytest.mark.skipif(bool(find_spec("hiredis")), reason="hiredis reads it as a whole")
    def test_payload_of_many_megabytes__dropped_while_it_comes(self, redis_broker: Broker) -> None:
        with redis_broker.client().connection_for_write() as connection:
            client = connection.default_channel.client
            limits.bound_reads(client.connection_pool)
            fits = limits.MAX_PAYLOAD - len("large")
            for size in (fits, fits + 1):
                client.lpush("large", b"x" * size)
            assert len(client.brpop("large")[1]) == fits
            tracemalloc.start()
            try:
                assert client.brpop("large")[1] == limits.TOO_LARGE
                _now, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            client.lpush("large", b"whole")
            assert client.brpop("large")[1] == b"whole"
        assert peak < 2 * 2**20

    @pytest.mark.parametrize("more", [-2, -1, 0, 1, 2])
    def test_payload_of_several_parts__dropped_to_its_end(
        self, redis_broker: Broker, monkeypatch: pytest.MonkeyPatch, more: int
    ) -> None:
        """What is left of it would be taken for the beginning of the next one."""
        monkeypatch.setattr(limits, "MAX_PAYLOAD", 4096)
        with redis_broker.client().connection_for_write() as connection:
            client = connection.default_channel.client
            limits.bound_reads(client.connection_pool)
            client.lpush("large", b"x" * (3 * 2**16 + more))
            assert client.brpop("large")[1] == limits.TOO_LARGE
            client.lpush("large", b"whole")
            assert client.brpop("large")[1] == b"whole"

    @pytest.mark.parametrize(
        ("limit", "value", "said"),
        [("MAX_REPLIES", 2 * 2**20, "x" * 2**20), ("MAX_REPLIES_VALUES", 2500, [1] * 1000)],
        ids=["bytes", "values"],
    )
    def test_more_than_one_question_takes__ends_and_the_next_is_whole(
        self,
        broker: Broker,
        api: APIClient,
        monkeypatch: pytest.MonkeyPatch,
        limit: str,
        value: int,
        said: Any,
    ) -> None:
        monkeypatch.setattr(f"celery_stats.control.collector.{limit}", value)

        def speak(mailbox: Mailbox, command: Command) -> None:
            if command["method"] == "stats":
                for number in range(5):
                    mailbox.reply(command, {f"{number}@new": said})

        response = ask(api, broker, speak, commands=1)
        assert response.status_code == 200
        assert "4@new" not in response.json()["stats"]
        assert whole(ask(api, broker, Mailbox.answer))

    @pytest.mark.parametrize("claim", ["application/x-gzip", "application/x-nothing", 7])
    def test_claims_to_be_compressed__read_as_it_is(
        self, redis_broker: Broker, api: APIClient, claim: Any
    ) -> None:
        def speak(mailbox: Mailbox, command: Command) -> None:
            headers = {"ticket": command["ticket"], "compression": claim}
            mailbox.reply(command, {EVIL: ["read"]}, headers=headers)

        response = ask(api, redis_broker, speak)
        assert whole(response)
        assert response.json()["active"][EVIL] == ["read"]

    def test_compressed__skipped(self, broker: Broker, api: APIClient) -> None:
        """kombu would decompress it to whatever size."""

        def speak(mailbox: Mailbox, command: Command) -> None:
            if command["method"] == "stats":
                mailbox.reply(command, {EVIL: {"pid": 1}}, compression="zlib")
            else:
                mailbox.answer(command)

        response = ask(api, broker, speak, commands=1)
        assert whole(response)
        assert EVIL not in response.json()["stats"]

    def test_made_up_workers__do_not_stand_in_for_real_ones(
        self, redis_broker: Broker, api: APIClient
    ) -> None:
        """Even where a dead one is listed, so that more are listed than are live."""

        def speak(mailbox: Mailbox, command: Command) -> None:
            for name in (EVIL, "made-up@t", "up-made@t"):
                mailbox.answer(command, name)

        with redis_broker.app.connection_for_write() as connection:
            dead = redis_broker.app.control.mailbox(connection).get_queue("dead@t")
            dead(connection.default_channel).declare()
            response = ask(api, redis_broker, speak)
        assert whole(response)
        assert missing(response) == ["dead@t"]

    def test_new_names_for_ever__ends_at_the_deadline(
        self, broker: Broker, api: APIClient, settings: Any
    ) -> None:
        """Each comes before the silence that would end it."""
        settings.DRF_CELERY_STATS = {**settings.DRF_CELERY_STATS, "DEADLINE": 1.5}
        made_up: list[float] = []

        def speak(mailbox: Mailbox, command: Command) -> None:
            def drip() -> None:
                if not made_up or time.monotonic() - made_up[-1] > 0.25:
                    made_up.append(time.monotonic())
                    mailbox.reply(command, {f"{len(made_up)}@new": []})

            mailbox.on_idle = drip

        response = ask(api, broker, speak, commands=1)
        assert whole(response)
        assert len(made_up) >= 4

    def test_more_than_can_be_read_in_time__those_who_were_heard_before_are_whole(
        self, make_broker: MakeBroker, use: Use, api: APIClient, settings: Any
    ) -> None:
        """On RabbitMQ everything else comes after the replies that are left unread."""
        broker = use(make_broker("amqp"))
        settings.DRF_CELERY_STATS = {**settings.DRF_CELERY_STATS, "DEADLINE": 1.5}
        has_begun = Event()

        def speak(mailbox: Mailbox, command: Command) -> None:
            if not has_begun.is_set():
                has_begun.set()
                message = amqp.Message(
                    json.dumps({EVIL: []}),
                    content_type="application/json",
                    content_encoding="utf-8",
                    application_headers={"ticket": command["ticket"]},
                )
                for _ in range(60_000):
                    mailbox.channel.basic_publish(message, **command["reply_to"])

        with Mailbox(broker, HONEST, Mailbox.answer_jointly), Mailbox(broker, EVIL, speak):
            assert whole(api.get(URL))
        assert has_begun.is_set()


class TestNames:
    @pytest.mark.parametrize("accept", ["application/json", "text/html"])
    def test_odd_names__carried_and_no_header_injected(
        self, broker: Broker, api: APIClient, accept: str
    ) -> None:
        def speak(mailbox: Mailbox, command: Command) -> None:
            if command["method"] == "stats":  # and owes the rest
                for name in ODD_NAMES:
                    said = json.dumps({name: replies(name)["stats"]})
                    mailbox.reply(
                        command, said, content_type="application/json", content_encoding="utf-8"
                    )
            mailbox.answer(command)

        response = ask(api, broker, speak, accept)
        assert response.status_code == 200
        later = api.get(f"{URL}?field=revoked", headers={"Accept": accept})
        assert {*response.headers} | {"Celery-Stats-Missing"} == {
            *later.headers,
            "Celery-Stats-Missing",
        }
        value = response["Celery-Stats-Missing"]
        assert value.isascii()
        assert value.isprintable()
        assert len(value) < 5000
        text = response.content.decode()
        if accept == "application/json":
            assert whole(response)
            named = set(json.loads(text)["stats"])
            assert {name for name in ODD_NAMES if is_name(name) and name != "\ud800"} < named
        else:
            assert "<script>alert" not in text
            assert "<img src=x" not in text

    def test_more_names_than_are_kept__the_listed_worker_is_whole(
        self, redis_broker: Broker, api: APIClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("celery_stats.control.collector.MAX_NODES", 100)

        def speak(mailbox: Mailbox, command: Command) -> None:
            if command["method"] == "stats":
                mailbox.reply(command, {f"{number}@new": {} for number in range(150)})
            mailbox.answer(command)

        response = ask(api, redis_broker, speak)
        assert whole(response)
        assert len(response.json()["stats"]) in (101, 102)  # HONEST and EVIL are listed.

    def test_thousands_of_names__neither_lost_nor_waited_for_one_by_one(
        self, broker: Broker, api: APIClient, settings: Any
    ) -> None:
        """The first time they are unknown, the second time remembered."""
        settings.DRF_CELERY_STATS = {**settings.DRF_CELERY_STATS, "TIMEOUT": 1.0, "DEADLINE": 8}
        names = [f"{number}@new" for number in range(5000)]

        def speak(mailbox: Mailbox, command: Command) -> None:
            if command["method"] == "stats":
                mailbox.reply(command, {name: {} for name in names})
            mailbox.answer(command)

        assert whole(ask(api, broker, speak))
        response = ask(api, broker, Mailbox.answer)
        assert whole(response, HONEST, EVIL)

    def test_asked_for_by_impossible_names__missing(self, broker: Broker, api: APIClient) -> None:
        asked = ["x" * 255, "\N{PILE OF POO}" * 255, "<b>,"]
        with Mailbox(broker, HONEST, Mailbox.answer):
            response = api.get(URL, {"worker": [*asked, HONEST]})
        assert whole(response)
        assert sorted(map(unquote, missing(response))) == sorted(asked)


NO_MESSAGES = [
    b"",
    b"\xff\xfe",
    b"not JSON",
    b"null",
    b"42",
    b"[]",
    b"{}",
    b"[" * 100_000,
    b'{"body": "e30=", "headers": {}}',
    b'{"body": "e30=", "headers": [], "properties": {}}',
    b'{"body": 1, "headers": {}, "properties": {"body_encoding": "base64"}}',
    b'{"body": "~", "headers": {}, "properties": {"body_encoding": "rot26"}}',
    b'{"body": "e30=", "headers": 3, "properties": {"delivery_tag": []}}',
    b'{"body": "e30=", "headers": {}, "properties": null, "content-type": 5}',
]


class TestPayloads:
    """What is no message at all, pushed into the reply list in Redis."""

    def push(self, mailbox: Mailbox, command: Command, *payloads: bytes) -> None:
        reply_to = command["reply_to"]
        client = mailbox.channel.client
        client.lpush(f"{reply_to['routing_key']}.{reply_to['exchange']}", *payloads)

    def test_no_messages__skipped(
        self, redis_broker: Broker, api: APIClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        def speak(mailbox: Mailbox, command: Command) -> None:
            self.push(mailbox, command, *NO_MESSAGES)
            mailbox.answer(command)

        response = ask(api, redis_broker, speak)
        assert whole(response, HONEST, EVIL)
        assert "could not be read and was skipped" in caplog.text

    def test_thousands__skipped(
        self, redis_broker: Broker, api: APIClient, settings: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Reading them takes longer than the silence that would end it."""
        settings.DRF_CELERY_STATS = {**settings.DRF_CELERY_STATS, "TIMEOUT": 0.4}
        commands: list[Command] = []

        def speak(mailbox: Mailbox, command: Command) -> None:
            commands.append(command)
            if len(commands) == 1:
                # All in one go, so that no silence comes between them.
                self.push(mailbox, command, *[b"not JSON"] * 1000)
            mailbox.answer(command)

        response = ask(api, redis_broker, speak)
        assert whole(response, HONEST, EVIL)
        assert len([r for r in caplog.records if r.name.startswith("celery_stats")]) < 5

    def test_reply_list_replaced__no_harm_beyond_it(
        self, redis_broker: Broker, api: APIClient
    ) -> None:
        def speak(mailbox: Mailbox, command: Command) -> None:
            if len(mailbox.heard) == 1:  # which wakes the reader, so that it looks again
                mailbox.answer(command)
            reply_to = command["reply_to"]
            key = f"{reply_to['routing_key']}.{reply_to['exchange']}"
            mailbox.channel.client.set(key, "no list", ex=60)

        with Mailbox(redis_broker, EVIL, speak):
            assert api.get(URL).status_code in (200, 503)
        with Mailbox(redis_broker, HONEST, Mailbox.answer):
            assert whole(api.get(URL))


def obeys_the_contract(response: Response) -> bool:
    """Whether status, headers and body are ones that callers were told of."""
    if response.status_code not in (200, 400, 401, 403, 405, 406, 429, 503):
        return False
    assert response["Cache-Control"] == "no-store"
    if response["Content-Type"].startswith("text/html"):
        return True
    body = response.json()
    if response.status_code == 200:
        return list(body) == list(FIELDS)
    if response.status_code == 400:
        texts = [text for errors in body.values() for text in errors]
        return bool(texts) and all(isinstance(text, str) for text in texts)
    return list(body) == ["detail"]


NAMES = st.sampled_from([*PARAMETERS, "format"]) | st.text(max_size=20)
VALUES = st.sampled_from(
    [*FIELDS, "json", "html", "xml", "", "one@t", "x" * 256, "\x00", "\r\n", "é"]
) | st.text(max_size=300)
PAIRS = st.lists(st.tuples(NAMES, VALUES), max_size=150)
QUERIES = st.binary(max_size=2000) | PAIRS.map(
    lambda pairs: urlencode(pairs, errors="surrogatepass").encode()
)
ANY_TEXT = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=100)

asked_often = hypothesis.settings(
    max_examples=150, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)


class TestCallers:
    @pytest.fixture(autouse=True)
    def workerless(self, redis_broker: Broker) -> None:
        """Nobody to wait for."""

    @asked_often
    @hypothesis.given(query=QUERIES)
    def test_any_query_string__the_contract(self, api: APIClient, query: bytes) -> None:
        response = api.get(URL, QUERY_STRING=query.decode("latin-1"))
        assert obeys_the_contract(response), (response.status_code, response.content)

    @asked_often
    @hypothesis.given(
        authorization=ANY_TEXT | ANY_TEXT.map("Token {}".format),
        accept=ANY_TEXT | st.sampled_from(["application/json", "text/html", "*/*;q=x"]),
        content_type=st.sampled_from(["text/plain; charset=x", "x", "a/b; charset=utf-16", ""]),
        method=st.sampled_from(["get", "head", "post", "put", "patch", "delete", "trace"]),
    )
    def test_any_headers_and_method__the_contract(
        self, db: None, authorization: str, accept: str, content_type: str, method: str
    ) -> None:
        response = APIClient().generic(
            method.upper(),
            URL,
            data="{",
            content_type=content_type,
            HTTP_AUTHORIZATION=authorization,
            HTTP_ACCEPT=accept,
            QUERY_STRING="worker=one@t",
        )
        assert response.status_code in (302, 401, 403, 405, 406)
        if response.status_code == 302:  # to the login page, for browsers
            assert "text/html" in accept or "*" in accept

    @pytest.mark.parametrize(
        "query",
        [
            "worker=" + "x" * 10_000_000,
            "x" * 10_000_000,
            "&" * 10_000_000,
            "=" * 10_000_000,
            "&".join(f"worker={number}" for number in range(1_000_000)),
            "&".join(f"{number}=" for number in range(1_001)),
            "field=stats&" * 1_000,
        ],
        ids=["value", "name", "ampersands", "equals", "values", "names", "repeated"],
    )
    def test_long_query_string__400_at_once(self, api: APIClient, query: str) -> None:
        began = time.monotonic()
        response = api.get(URL, QUERY_STRING=query)
        assert time.monotonic() - began < DEADLINE + 1
        assert response.status_code == 400
        assert obeys_the_contract(response)
        assert len(response.content) < 1000

    @pytest.mark.parametrize(
        ("query", "status"),
        [
            ("field=stats&field=stats&field=active", 200),
            ("worker=a&worker=a&task_id=1&task_id=1", 200),
            ("field=stats&field=nonsense", 400),
            ("field=&field=stats", 400),
            ("worker=a&colour=red&worker=b", 400),
            ("worker[]=a", 400),
            ("Worker=a", 400),
            ("worker=a;field=stats", 200),
        ],
    )
    def test_repeated_and_conflicting__one_way_or_the_other(
        self, api: APIClient, query: str, status: int
    ) -> None:
        response = api.get(URL, QUERY_STRING=query)
        assert response.status_code == status
        assert obeys_the_contract(response)

    def test_format_that_there_is_not__406(self, api: APIClient) -> None:
        response = api.get(f"{URL}?format=xml")
        assert response.status_code == 406
        assert obeys_the_contract(response)


def test_tokens__in_no_log(
    api: APIClient, redis_broker: Broker, use: Use, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    [token] = Token.objects.all()
    assert api.get(URL).status_code == 200
    assert api.get(f"{URL}?colour=red").status_code == 400
    assert api.post(URL, {"x": 1}).status_code == 405
    broken = APIClient(HTTP_AUTHORIZATION=f"Token not-{token.key}")
    assert broken.get(URL).status_code == 401
    redis_broker.app.conf.broker_url = "redis://127.0.0.1:1/0"
    with override_settings(DEBUG=True):
        assert api.get(f"{URL}?field=stats").status_code in (200, 503)
    assert caplog.records
    assert token.key not in caplog.text
    assert not any(token.key in str(vars(record)) for record in caplog.records)


@pytest.mark.parametrize(
    "said",
    [
        f"[{'[],' * 400_000}[]]",
        # The JSON of the reply to several commands is inside of a text.
        '{"celery_stats": "{\\"replies\\": {\\"stats\\": [' + r"\u005b]," * 400_000 + '1]}}"}',
        f"[{'1,' * 1_600_000}1]",
    ],
    ids=["lists", "escaped", "values"],
)
def test_more_than_is_decoded__skipped_and_the_worker_missing(
    broker: Broker, api: APIClient, said: str
) -> None:
    """It fits into the bytes of a reply, and would take most of the memory of a process."""

    def speak(mailbox: Mailbox, command: Command) -> None:
        if command["method"] == "stats":
            body = f'{{"{EVIL}": {said}}}'
            mailbox.reply(command, body, content_type="application/json", content_encoding="utf-8")
        else:
            mailbox.answer(command)

    response = ask(api, broker, speak, commands=1)
    assert whole(response)
    assert missing(response) == [EVIL]
    assert response.json()["stats"].keys() == {HONEST}


def test_headers_that_hold_more_than_is_decoded__skipped_and_the_worker_missing(
    redis_broker: Broker, api: APIClient
) -> None:
    """kombu decodes them together with the message."""

    def speak(mailbox: Mailbox, command: Command) -> None:
        if command["method"] == "stats":
            headers = {"ticket": command["ticket"], "x": [[]] * 400_000}
            mailbox.reply(command, {EVIL: "a lie"}, headers=headers)
        else:
            mailbox.answer(command)

    response = ask(api, redis_broker, speak, commands=1)
    assert whole(response)
    assert missing(response) == [EVIL]
    assert response.json()["stats"].keys() == {HONEST}
