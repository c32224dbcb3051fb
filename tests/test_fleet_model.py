"""The rule about who is there, against random fleets on a model of each broker (``model.py``).

Hypothesis invents sequences of events, and every answer is held against the contract. What
violates it is printed as the shortest sequence of events that shows it.
``CELERY_STATS_TEST_SEQUENCES`` is the number of sequences for each kind of broker.
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from celery_stats.control import snapshot
from celery_stats.control.connection import PING
from celery_stats.control.exceptions import BrokerUnavailable
from celery_stats.control.presence import Roster
from celery_stats.control.question import Question
from celery_stats.shapes import FIELDS
from tests.model import Broker, Connection, Node

SEQUENCES = int(os.environ.get("CELERY_STATS_TEST_SEQUENCES", "0"))

TIMEOUT, DEADLINE = 1.0, 5.0

#: Seconds within which a node answers at once, and after which it does not answer in time.
FAST, LATE = 0.03, TIMEOUT - 0.05

#: Seconds for which a worker that was heard is expected, for which it is while it is not connected
#: after a restart of Redis, and for which one that loses replies is, because it may be resetting.
REMEMBERED, RECONNECTING, RESETTING = 600, 60, 60

LOST = ("active", "scheduled", "reserved")

BEAT = "celerybeat@h"

#: Attributes of nodes.
WORKERS: dict[str, dict[str, Any]] = {
    "app": {},
    "holds much": {"too_large": frozenset({"active"})},
    "plain": {"kind": "plain"},
    "loses active": {"kind": "plain", "unencodable": LOST[:1]},
    "loses three": {"kind": "plain", "unencodable": LOST},
}


@dataclass
class Asker:
    """A process that asks, and what it can know.

    Attributes:
        heard: worker to the time of the last question that it has answered.
        present: the workers in the last answer.
        beats: nodes that answered pings and turned out to be no workers.
        has_asked_all: whether a question to all has ended.
        knows_fleet: whether one of them waited for ``TIMEOUT``, and nobody was missing.
        owed: workers that an exception of the contract left out of the last answer, with the
            ticket of that question.
        lost_reply_at: worker to the time at which it last lost a reply.
    """

    connection: Connection
    roster: Roster = field(default_factory=Roster)
    heard: dict[str, float] = field(default_factory=dict)
    present: set[str] = field(default_factory=set)
    beats: set[str] = field(default_factory=set)
    has_asked_all: bool = False
    knows_fleet: bool = False
    owed: dict[str, str] = field(default_factory=dict)
    lost_reply_at: dict[str, float] = field(default_factory=dict)


class Answer:
    """One answer, and what was true when the question was asked."""

    def __init__(self, asker: Asker, question: Question) -> None:
        self.asker, self.connection = asker, asker.connection
        self.broker = broker = asker.connection.broker
        self.asked_at, standstill = broker.now, broker.standstill
        self.listed = set(broker.listed)
        self.reached = {node for node in broker.nodes if node.connected}
        self.was_idle = {node for node in self.reached if not node.inbox}
        self.named = set(question.workers)
        self.connection.ends = broker.now + DEADLINE
        self.snapshot = snapshot._take(
            cast(Any, self.connection),
            app=None,
            roster=asker.roster,
            question=question,
            timeout=TIMEOUT,
            started=broker.now,
        )
        self.ended_at = broker.now
        self.stood_still = standstill - broker.standstill
        self.answers = {name: self.snapshot.answers[name] or {} for name in question.fields}
        self.present = {worker for replies in self.answers.values() for worker in replies}
        self.missing = set(self.snapshot.missing)
        asked = self.connection.asked
        ours = [message for message in self.connection.read if message.ticket in asked]
        self.read = [message for message in ours if not message.node.unreadable]
        self.pongs = [m.node for m in self.read if asked[m.ticket].method == PING]
        self.heard = {m.node.name for m in self.read if asked[m.ticket].method != PING}

    def check(self) -> None:
        self.check_answers()
        for node in self.broker.nodes:
            if node.is_worker and (not self.named or node.name in self.named):
                self.check_living(node)
                self.check_silent(node)
                self.check_fields(node)
        for name in self.missing - self.named:
            self.check_missing(name)
        self.check_silent_subscribers()
        self.check_time()

    def lost_a_reply_of(self, node: Node) -> bool:
        replies = (node.answered_at.get(ticket, 0.0) for ticket in self.connection.asked)
        return None in replies or node.unreadable or node.loses > 0

    def is_steady(self, node: Node) -> bool:
        """Whether nothing has happened to a node since the question was asked."""
        broker = self.broker
        return node in self.reached and node.changed_at <= self.asked_at >= broker.disturbed_at

    def may_be_late(self, node: Node) -> bool:
        """Whether the node may not have answered what it was asked."""
        slow = node.frozen or node.delay > FAST or node.kind == "foreign"
        return slow or not self.is_steady(node) or self.lost_a_reply_of(node)

    def check_answers(self) -> None:
        """An answer is what came back to this question; who lacks one is missing."""
        came = {(message.node.name, message.ticket) for message in self.read}
        for name, replies in self.answers.items():
            for worker, reply in replies.items():
                assert (worker, reply["answers"]) in came, f"{worker} did not answer {name}"
        for worker in self.present:
            owed = tuple(n for n in FIELDS if n in self.answers and worker not in self.answers[n])
            assert self.snapshot.missing.get(worker, ()) == owed, f"{worker} owes {owed}"
        for worker in (self.heard & self.named if self.named else self.heard) | self.named:
            assert worker in self.present | self.missing, f"{worker} is in neither"

    def check_living(self, node: Node) -> None:
        """Who answers within ``TIMEOUT`` is in the answer, or in the next."""
        due = node.due(next(iter(self.connection.asked)))
        if due is None or due - self.asked_at >= LATE or node.name in self.present:
            return
        if not self.is_steady(node) or node.unreadable:
            return
        is_after_grace = due > max(self.connection.read_at, self.asked_at)
        is_unknown = node.name not in self.asker.heard and not self.named
        if self.broker.kind == "amqp":
            known = self.asker.heard.keys() & ({n.name for n in self.reached} | self.present)
            may_be_left_out = is_unknown and self.asker.has_asked_all and bool(known)
        elif self.broker.kind == "filesystem":
            # It was silent for a whole TIMEOUT before, and has not read older messages.
            may_be_left_out = node not in self.was_idle and node.name in self.missing
        else:
            # A name that a namesake has answered under is not silent.
            namesakes = sum(other.name == node.name for other in self.reached)
            is_counted_only = node.name not in self.listed or namesakes > 1
            somebody_is_silent = any(self.may_be_late(other) for other in self.reached)
            may_be_left_out = is_counted_only and somebody_is_silent
        may_be_left_out = may_be_left_out and is_after_grace
        seconds = f"{node.name} answers in {due - self.asked_at:.4f} s"
        assert may_be_left_out, f"{seconds} and is not there"
        came_at = node.answered_at.get(self.asker.owed.get(node.name, ""))
        is_heard = came_at is not None and came_at < self.asked_at
        assert not is_heard, f"{seconds} and is left out again"
        if is_unknown:
            self.asker.owed[node.name] = next(iter(self.connection.asked))

    def check_silent(self, node: Node) -> None:
        """Who is known and silent is missing."""
        name, broker = node.name, self.broker
        heard_at = self.asker.heard.get(name, 0.0)
        is_known = broker.kind != "filesystem" and broker.now - heard_at < REMEMBERED
        # The entry of one that resets its mailbox goes and comes back.
        stays_listed = self.is_steady(node) or node.frozen
        is_known |= stays_listed and name in self.listed & broker.listed
        is_there = node in self.reached and (node.connected or broker.kind != "amqp")
        if broker.kind == "redis" and broker.now - broker.started_at < RECONNECTING:
            is_there |= 0.0 < heard_at < broker.started_at
        if is_known and is_there and node.alive:
            assert name in self.present | self.missing, f"{name} is silent and not named"

    def check_fields(self, node: Node) -> None:
        """Who answers at once answers everything, ``active`` as text where necessary."""
        names = [other.name for other in self.broker.nodes]
        # Where others ask meanwhile, it answers them, too, and may reset its mailbox for it.
        is_alone = self.broker.others_asked_at < self.asked_at
        is_alone |= not node.unencodable and node.delay < FAST
        is_calm = node in self.was_idle and is_alone and names.count(node.name) == 1
        in_time = node.name in self.present and self.ended_at < self.asked_at + DEADLINE
        if is_calm and in_time and not self.may_be_late(node):
            lost = set(node.unencodable) - {"active"}
            owed = tuple(name for name in FIELDS if name in lost and name in self.answers)
            assert self.snapshot.missing.get(node.name, ()) == owed, f"{node.name} can answer"

    def check_missing(self, name: str) -> None:
        """Who is missing may be there, and may be a worker."""
        assert name not in self.asker.beats, f"{name} is no worker"
        namesakes = [node for node in self.broker.nodes if node.name == name]
        for node in namesakes:
            busy = self.may_be_late(node) or node not in self.was_idle
            assert node.is_worker or busy, f"{name} is alive and no worker"
        may_be_there = any(n.alive or n.changed_at > self.asked_at for n in namesakes)
        may_be_there |= name in self.listed | self.broker.listed
        if may_be_there:
            return
        if self.broker.kind == "redis" and name in self.asker.heard:
            may_be_there |= self.asker.heard[name] < self.broker.started_at
            may_be_there |= any(map(self.may_be_late, self.broker.nodes))
        may_be_there |= self.asked_at - self.asker.lost_reply_at.get(name, 0.0) < RESETTING
        assert may_be_there, f"{name} is gone"

    def check_silent_subscribers(self) -> None:
        """On Redis, who is silent and has no name is counted; a reply that cannot be read, too."""
        if any(node.changed_at > self.asked_at for node in self.broker.nodes):
            return
        silent = [node for node in self.reached if node.is_silent]
        names = self.missing | self.asker.beats | self.listed & {BEAT}
        if self.broker.kind == "redis" and not self.named:
            said = self.snapshot.silent_subscribers + len(names)
            assert len(silent) <= said, "somebody is silent, which is not said"
        came = [m for m in self.connection.read if m.ticket in self.connection.asked]
        unreadable = any(message.node.unreadable for message in came)
        assert bool(self.snapshot.unreadable) == unreadable, "a reply cannot be read"

    def check_time(self) -> None:
        """The deadline is kept, and where everybody answers, nobody is waited for."""
        seconds = self.ended_at - self.asked_at
        assert seconds <= DEADLINE + self.stood_still + 0.01, "the deadline has passed"
        broker, asker = self.broker, self.asker
        living = {node for node in broker.nodes if node.alive}
        there = {node.name for node in living}
        is_expected = self.named <= there if self.named else broker.listed <= there
        if broker.kind == "amqp" and not self.named:
            gone = set(asker.heard) - there
            is_expected = (
                asker.knows_fleet
                and gone < set(asker.heard)
                and asker.lost_reply_at.keys() <= there
            )
        answer_soon = living <= self.was_idle and not any(
            node.unencodable or self.may_be_late(node) for node in broker.nodes if node.alive
        )
        nothing_happened = all(node.changed_at <= self.asked_at for node in broker.nodes)
        if is_expected and answer_soon and nothing_happened and not self.stood_still:
            assert not self.snapshot.silent_subscribers, "everybody answers"
            # A node that is no worker is asked a few times before that is believed.
            knows_beats = all(n.is_worker or n.name in asker.beats for n in living)
            limit = TIMEOUT / 2 if knows_beats else TIMEOUT
            assert seconds < limit, "everybody answers, and somebody is waited for"
            is_known = there and asker.heard.keys() <= there <= asker.present
            is_known = is_known and (broker.kind == "amqp" or there <= self.listed)
            with_app = is_known and all(
                node.kind == "app"
                and not node.too_large
                and node.changed_at < asker.heard.get(node.name, 0.0)
                for node in living
            )
            is_one_message = not with_app or len(self.connection.asked) == 1
            assert is_one_message, "workers with the app are asked more than once"

    def learn(self) -> None:
        """Note what the asker can know from now on."""
        asker = self.asker
        if not self.named:
            for worker in set(asker.heard) - self.present - self.missing:
                del asker.heard[worker]
            waited = self.ended_at - max(self.connection.read_at, self.asked_at) >= TIMEOUT - 0.01
            whole = waited and not self.missing and not self.stood_still
            asker.knows_fleet = bool(self.present) and (whole or asker.knows_fleet)
            asker.has_asked_all = True
        elif self.broker.kind == "amqp":
            # Who had no mailbox when it was asked by name is not known any more.
            for worker in self.missing - {n.name for n in self.reached if n.connected}:
                asker.heard.pop(worker, None)
        nodes = {message.node for message in self.read}
        for node in nodes:
            if node.unencodable or self.lost_a_reply_of(node) or not self.is_steady(node):
                asker.lost_reply_at[node.name] = self.broker.now
        asker.heard |= dict.fromkeys(self.heard, self.asked_at)
        asker.present = self.present
        for worker in self.heard:
            asker.owed.pop(worker, None)
        for node in self.pongs:
            if node.kind == "beat" and self.is_steady(node) and self.pongs.count(node) > 1:
                asker.beats.add(node.name)


NAMES = ("a", "b", "c")

#: When something happens: now, or during the next question.
later = st.sampled_from((0, 0, 0, 0.0005, 0.02, 0.06, 0.3, 1.2))

questions = st.one_of(
    st.sampled_from((Question(), Question(queues=True))),
    st.sets(st.sampled_from((*NAMES, BEAT)), min_size=1).map(
        lambda workers: Question(workers=tuple(sorted(workers)))
    ),
    st.sets(st.sampled_from(FIELDS), min_size=1).map(
        lambda fields: Question(fields=tuple(name for name in FIELDS if name in fields))
    ),
)


class Fleet(RuleBasedStateMachine):
    kind: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.broker = Broker(self.kind)
        self.askers = [Asker(Connection(self.broker))]

    @initialize(kinds=st.lists(st.sampled_from(tuple(WORKERS)), max_size=3))
    def begin(self, kinds: list[str]) -> None:
        for name, kind in zip(NAMES, kinds, strict=False):
            self.broker.start(Node(name, **WORKERS[kind]))

    @rule(
        name=st.sampled_from(NAMES),
        kind=st.sampled_from(tuple(WORKERS)),
        delay=st.sampled_from((0.001, 0.002, FAST, 0.2, 0.8, 1.5)),
        reset_takes=st.sampled_from((0.02, 0.1, 0.3)),
        later=later,
    )
    def start(self, name: str, kind: str, delay: float, reset_takes: float, later: float) -> None:
        node = Node(name, delay=delay, reset_takes=reset_takes, **WORKERS[kind])
        self.broker.after(later, self.broker.start, node)

    @rule(kind=st.sampled_from(("beat", "foreign")), later=later)
    def start_other(self, kind: str, later: float) -> None:
        if kind == "beat" or self.kind == "redis":
            name = BEAT if kind == "beat" else kind
            self.broker.after(later, self.broker.start, Node(name, kind))

    @rule(
        event=st.sampled_from(("stop", "kill", "upgrade")), number=st.integers(0, 3), later=later
    )
    def end(self, event: str, number: int, later: float) -> None:
        self._let(number, event, later)

    @rule(seconds=st.sampled_from((0.1, 1.5, 30, 1e9)), number=st.integers(0, 3), later=later)
    def freeze(self, seconds: float, number: int, later: float) -> None:
        self._let(number, "freeze", later, seconds)

    @rule(event=st.sampled_from(("lose_a_reply", "change_certificate")), number=st.integers(0, 3))
    def lose(self, event: str, number: int) -> None:
        self._let(number, event, 0)

    def _let(self, number: int, event: str, later: float, *args: float) -> None:
        """Let something happen to one of the living nodes."""
        living = [node for node in self.broker.nodes if node.alive]
        if living:
            node = living[number % len(living)]
            self.broker.after(later, getattr(self.broker, event), node, *args)

    @rule(later=later)
    def thaw(self, later: float) -> None:
        for node in self.broker.nodes:
            self.broker.after(later, self.broker.thaw, node)

    @precondition(lambda self: self.kind == "redis")
    @rule(names=st.sampled_from((NAMES, ("a",), ("b",))), later=later)
    def forget(self, names: tuple[str, ...], later: float) -> None:
        """All names mean FLUSHDB, one means that somebody has removed it from the list."""
        event = self.broker.flush if names == NAMES else self.broker.listed.discard
        self.broker.after(later, event, *(() if names == NAMES else names))

    @precondition(lambda self: self.kind != "filesystem")
    @rule(delays=st.lists(st.sampled_from((0.2, 3.0)), min_size=4, max_size=4))
    def restart(self, delays: list[float]) -> None:
        self.broker.restart(delays)
        for asker in self.askers:
            asker.owed.clear()  # A late reply is lost with its queue.

    @rule(later=later, times=st.sampled_from((1, 1, 4, 12)))
    def ask_as_another(self, later: float, times: int) -> None:
        """It asks again what is lost, as this package does."""
        for number in range(times):
            self.broker.after(later + number * 0.1, self.broker.ask_as_another, FIELDS[::-1])

    @rule(seconds=st.sampled_from((0.2, 1.5)))
    def stand_still(self, seconds: float) -> None:
        self.broker.standstill = seconds

    @rule(seconds=st.sampled_from((0.01, 2, 15, 90)))
    def wait(self, seconds: float) -> None:
        self.broker.wait(seconds)

    @rule()
    def fork(self) -> None:
        first = self.askers[0]
        copied = copy.deepcopy({k: v for k, v in vars(first).items() if k != "connection"})
        self.askers = [first, Asker(Connection(self.broker), **copied)]

    @rule(who=st.integers(0, 1), question=questions)
    def ask_for(self, who: int, question: Question) -> None:
        self._ask(who, question)

    def _ask(self, who: int, question: Question) -> None:
        asker = self.askers[who % len(self.askers)]
        try:
            answer = Answer(asker, question)
        except BrokerUnavailable:
            asker.connection = Connection(self.broker)
        else:
            answer.check()
            answer.learn()

    @rule()
    def ask(self) -> None:
        self._ask(0, Question())

    @rule()
    def ask_again(self) -> None:
        """The same, so that it happens more often."""
        self._ask(0, Question())


@pytest.mark.parametrize("kind", ["redis", "amqp", "filesystem"])
def test_random_fleet__answered_as_the_contract_says(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "queue_lengths", lambda *args, **options: {})
    run_state_machine_as_test(
        type("Fleet", (Fleet,), {"kind": kind}),
        settings=settings(max_examples=SEQUENCES or 200, stateful_step_count=30, derandomize=True),
    )


@pytest.mark.parametrize("kind", ["redis", "amqp", "filesystem"])
@pytest.mark.parametrize("fields", [FIELDS, ("active",)])
def test_worker_that_gets_the_app__asked_with_one_message_from_the_second_question(
    kind: str, fields: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is remembered of it ends with the evidence, in a process that runs on."""
    monkeypatch.setattr(snapshot, "queue_lengths", lambda *args, **options: {})
    broker, worker = Broker(kind), Node("a", "plain")
    broker.start(worker)
    asker = Asker(Connection(broker))

    def messages() -> int:
        answer = Answer(asker, Question(fields=fields, queues=True))
        answer.check()
        answer.learn()
        return len(answer.connection.asked)

    messages()
    assert messages() > len(fields)
    broker.upgrade(worker)
    assert messages() > len(fields)
    assert [messages(), messages()] == [1, 1]


@pytest.mark.parametrize("kind", ["redis", "amqp"])
def test_worker_that_stops_before_it_has_answered_everything__not_missing_afterwards(
    kind: str,
) -> None:
    """It has not lost a reply, so it is not one that resets its mailbox."""
    broker, worker = Broker(kind), Node("a", **WORKERS["holds much"])
    broker.start(worker)
    broker.start(Node("b"))
    asker = Asker(Connection(broker))
    missing = []
    for stops_in in (None, 0.004, None):
        if stops_in is not None:
            broker.after(stops_in, broker.stop, worker)
        answer = Answer(asker, Question())
        answer.learn()
        missing.append(answer.missing)
    assert missing == [set(), {"a"}, set()]


def test_redis__known_worker_answers_only_a_ping__missing() -> None:
    """Its reply is lost, and then the list and all later replies are."""
    broker, worker = Broker("redis"), Node("a", delay=0.2)
    broker.start(worker)
    asker = Asker(Connection(broker))
    assert Answer(asker, Question()).present == {"a"}
    broker.wait(5)
    worker.loses = 1
    broker.after(0.45, broker.flush)
    assert Answer(asker, Question()).missing == {"a"}


class SlowToPublish(Connection):
    """Takes as long to publish a command as a worker takes to answer two."""

    def publish(self, *args: Any, **options: Any) -> str:
        ticket = super().publish(*args, **options)
        self.broker.wait(0.003)
        return ticket


def test_redis__worker_is_away_when_it_is_counted__waited_for() -> None:
    """Another caller's question makes it lose ours, and its mailbox is away for a moment."""
    broker = Broker("redis")
    broker.start(Node("a"))
    broker.start(Node("b", "plain", unencodable=("active",)))
    broker.ask_as_another(("active",))
    answer = Answer(Asker(SlowToPublish(broker)), Question())
    answer.check()
    assert answer.present == {"a", "b"}


def test_redis__worker_was_heard_beside_a_silent_one__waited_for_when_it_is_slow() -> None:
    """As many are silent as before, and it is somebody else."""
    broker, worker, foreign = Broker("redis"), Node("a"), Node("tool", "foreign")
    broker.start(worker)
    broker.start(foreign)
    asker = Asker(Connection(broker))
    assert Answer(asker, Question()).snapshot.silent_subscribers == 1
    broker.stop(foreign)
    broker.flush()
    broker.freeze(worker, TIMEOUT / 2)
    assert Answer(asker, Question()).present == {"a"}


@pytest.mark.parametrize(
    "others",
    [
        [("b", 0.06, 0.02), ("b", 0.02, 0.005), ("d", 0.02, 0.02)],
        [("b", 0.02, 0.005), ("c", 0.2, 0.001), ("c", 0.06, 0.005)],
    ],
)
def test_redis__workers_reset_their_mailboxes_in_turn__a_frozen_one_is_missing(
    others: list[tuple[str, float, float]],
) -> None:
    """As many are counted as have answered a ping, and they are not the same ones."""
    broker, frozen = Broker("redis"), Node("a")
    broker.start(frozen)
    for name, reset_takes, delay in others:
        broker.start(Node(name, "plain", delay, LOST, reset_takes=reset_takes))
    asker = Asker(Connection(broker))
    Answer(asker, Question())
    broker.wait(5)
    broker.freeze(frozen, 1e9)
    broker.flush()
    assert "a" in Answer(asker, Question()).missing


def test_redis__one_leaves_after_the_ping_and_another_comes__slow_worker_is_waited_for() -> None:
    """As many are counted as have answered a ping, because the one that left was among them."""
    broker, leaving, slow = Broker("redis"), Node("a"), Node("c", delay=0.8)
    broker.start(leaving)
    broker.start(slow)
    broker.after(0.1, broker.stop, leaving)
    broker.after(0.1, broker.start, Node("b"))
    answer = Answer(Asker(Connection(broker)), Question())
    assert answer.present == {"a", "b", "c"}


def test_redis__known_worker_comes_back_after_the_ping_and_is_silent__missing() -> None:
    """Everybody had answered the ping, and only the number of subscribers has changed since."""
    broker, away = Broker("redis"), Node("a")
    broker.start(away)
    broker.start(Node("b"))
    asker = Asker(Connection(broker))
    assert Answer(asker, Question()).present == {"a", "b"}

    def come_back() -> None:
        broker.connect(away)
        away.frozen = True
        broker.listed.discard("a")

    away.connected = False
    broker.listed.discard("a")
    broker.after(0.1, come_back)
    assert Answer(asker, Question()).missing == {"a"}


def test_redis__known_worker_leaves_without_an_answer__missing() -> None:
    """It may be resetting its mailbox, and its name is not in the list."""
    broker, slow = Broker("redis"), Node("a")
    broker.start(slow)
    asker = Asker(Connection(broker))
    assert Answer(asker, Question()).present == {"a"}
    broker.flush()
    slow.frozen = True

    def leave() -> None:
        slow.connected = False

    broker.after(TIMEOUT * 0.95, leave)
    assert Answer(asker, Question()).missing == {"a"}


def test_redis__all_leave_after_the_ping__not_waited_for() -> None:
    broker, frozen = Broker("redis"), Node("a")
    broker.start(frozen)
    broker.freeze(frozen, 1e9)
    broker.after(0.1, broker.kill, frozen)
    answer = Answer(Asker(Connection(broker)), Question())
    assert answer.ended_at - answer.asked_at < TIMEOUT / 2


def test_redis__a_worker_loses_replies__a_dead_one_is_not_missing() -> None:
    """The list has lost both, and everybody who is there has answered a ping."""
    broker, dead = Broker("redis"), Node("a")
    broker.start(dead)
    broker.start(Node("b", "plain", unencodable=LOST))
    asker = Asker(Connection(broker))
    Answer(asker, Question())
    broker.wait(5)
    broker.kill(dead)
    broker.flush()
    assert Answer(asker, Question()).missing == {"b"}


@pytest.mark.parametrize("kind", ["redis", "amqp", "filesystem"])
def test_silence_of_a_named_worker__says_nothing_about_the_others(kind: str) -> None:
    """Neither that everybody is known, nor that they do not read their mailboxes."""
    broker = Broker(kind)
    named, mute, slow = Node("named"), Node("mute"), Node("slow")
    for node in (named, mute, slow):
        broker.start(node)
    broker.freeze(mute, 1e9)
    broker.freeze(slow, TIMEOUT * 1.5)
    asker = Asker(Connection(broker))
    assert Answer(asker, Question(workers=("mute", "named"))).present == {"named"}
    assert Answer(asker, Question()).present == {"named", "slow"}


def test_redis__workers_are_away_when_they_are_asked__missing_and_known_afterwards() -> None:
    """As where each question makes them reset their mailboxes, and the list loses their names."""
    broker, names = Broker("redis"), {"a", "b"}
    workers = [Node(name) for name in sorted(names)]
    asker = Asker(Connection(broker))
    for worker in workers:
        broker.start(worker)
    assert Answer(asker, Question()).present == names

    def come_back() -> None:
        for worker in workers:
            broker.connect(worker)
            worker.frozen = True
        broker.listed.clear()

    for _ in range(2):
        for worker in workers:
            worker.connected = worker.frozen = False
        broker.after(0.02, come_back)
        assert Answer(asker, Question()).missing == names


def test_amqp__first_question_ends_at_its_deadline__the_next_waits_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(f"{__name__}.DEADLINE", TIMEOUT / 2)
    broker, slow = Broker("amqp"), Node("slow")
    broker.start(Node("a"))
    broker.start(slow)
    broker.freeze(slow, TIMEOUT * 0.75)
    asker = Asker(Connection(broker))
    assert Answer(asker, Question()).present == {"a"}
    assert Answer(asker, Question()).present == {"a", "slow"}


def test_amqp__nobody_was_there_and_one_is_heard_late__the_next_waits_for_all() -> None:
    broker, late, later = Broker("amqp"), Node("late"), Node("later")
    for node, seconds in ((late, TIMEOUT * 1.2), (later, TIMEOUT * 1.5)):
        broker.start(node)
        broker.freeze(node, seconds)
    asker = Asker(Connection(broker))
    assert Answer(asker, Question()).present == set()
    broker.wait(TIMEOUT * 0.3)
    assert Answer(asker, Question()).present == {"late", "later"}


def test_file_system__has_read_its_mailbox_and_is_slow__waited_for() -> None:
    broker, slow = Broker("filesystem"), Node("slow")
    broker.start(Node("a"))
    broker.start(slow)
    broker.freeze(slow, TIMEOUT * 1.5)
    asker = Asker(Connection(broker))
    assert Answer(asker, Question()).present == {"a"}
    broker.wait(TIMEOUT)
    assert not slow.inbox
    assert asker.roster.absent() == {"slow"}
    slow.delay = TIMEOUT / 2
    assert Answer(asker, Question()).present == {"a", "slow"}


def test_node_is_no_worker__each_ping_to_it_is_sent_later_than_the_one_before() -> None:
    """Another process that asks it in the same rhythm would spoil every attempt."""
    broker = Broker("redis")
    broker.start(Node("tick", kind="beat"))
    connection = Connection(broker)
    sent: list[tuple[str, float]] = []
    publish = connection.publish

    def note(command: str, *args: Any, **options: Any) -> str:
        sent.append((command, broker.now))
        return publish(command, *args, **options)

    connection.publish = note  # type: ignore[method-assign]
    assert Answer(Asker(connection), Question()).present == set()
    attempts = [
        later - at
        for (command, at), (following, later) in pairwise(sent)
        if (command, following) == ("query_task", "ping")
    ]
    assert attempts == pytest.approx([0.05, 0.1, 0.15, 0.2], abs=0.01)


def test_queues_are_asked_for__in_what_is_left_of_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    within: list[float] = []

    def queue_lengths(*args: Any) -> dict[str, int]:
        within.append(args[-1])
        return {}

    monkeypatch.setattr(snapshot, "queue_lengths", queue_lengths)
    broker = Broker("redis")
    broker.start(Node("slow", delay=TIMEOUT / 2))
    Answer(Asker(Connection(broker)), Question(queues=True))
    assert within == [pytest.approx(DEADLINE - TIMEOUT / 2, abs=0.1)]


def test_redis__one_of_two_is_asked__the_other_is_not_counted() -> None:
    broker = Broker("redis")
    for name in ("a", "b"):
        broker.start(Node(name))
    broker.flush()
    answer = Answer(Asker(Connection(broker)), Question(workers=("a",)))
    assert (answer.present, answer.snapshot.silent_subscribers) == ({"a"}, 0)


def test_table_cannot_be_read_once__nothing_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker that loses the plain reply to ``active`` is still asked for the safe form first."""
    broker = Broker("filesystem")
    broker.start(Node("a", **WORKERS["loses active"]))
    asker = Asker(Connection(broker))
    Answer(asker, Question())
    with monkeypatch.context() as patch:
        patch.setattr(asker.connection, "listed_names", lambda: None)
        Answer(asker, Question())
    asked = Answer(asker, Question()).connection.asked.values()
    assert [c.arguments["safe"] for c in asked if c.method == "active"] == [True]


def test_more_names_than_are_remembered__the_first_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A hostile worker can make up any number."""
    monkeypatch.setattr("celery_stats.control.presence.roster.MAX_NODES", 2)
    broker = Broker("redis")
    for name in NAMES:
        broker.start(Node(name))
    asker = Asker(Connection(broker))
    assert Answer(asker, Question()).present == set(NAMES)
    assert len(asker.roster.nodes) == 2
