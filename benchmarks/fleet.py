"""Random fleets with an oracle: is each answer true, whatever happens to workers and broker?

    python -m benchmarks.fleet --broker redis --seed 1 --steps 1000
    python -m benchmarks.fleet --broker amqp --minutes 5
    python -m benchmarks.fleet --broker redis --events "start a; ask each; flush; ask each"

Events are drawn from the seed, in rounds. A round has a place of its own on the broker, and askers
that live as long as it: ``each`` is asked after each event, ``tenth`` after each tenth, and
``http``, a web server, after each fifth. Before a question, everything settles. Answers are
compared with the processes that were started, and with Celery's own ping. A violation ends its
round, and the round is played again with fewer events, to find the shortest sequence.

    start A [solo] [app] [odd] [large]  a worker; a second one of the same name only on Redis
                                        odd: holds arguments that cannot be encoded; large: 1.2 MB
    start beat                          celery beat with remote control
    stop|kill|freeze|thaw A|beat        SIGTERM, SIGKILL, SIGSTOP, SIGCONT
    busy A                              a solo worker runs a task, and answers nothing meanwhile
    flush, forget A                     Redis: FLUSHDB; removes a name from the list of mailboxes
    listen, unlisten                    Redis: PSUBSCRIBE * by somebody who is no worker
    restart, cut, hang SECONDS          the broker: restarts, cuts every connection, stands still
    stall MS                            http is asked, and MS later frozen for more than TIMEOUT
    ask ASKER[+ASKER] [A]               everybody is asked, or one worker by its name
    EVENT @MS                           each asks on and on, from MS before until all has settled
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import closing
from functools import partial
from itertools import count
from pathlib import Path
from random import Random

from benchmarks.support import demo_project
from benchmarks.world import World

ROUND = 60  # events
OPTIONS = ("", "app", "solo", "solo app", "odd", "odd app", "large app")


def draw(kind: str, random: Random, steps: int) -> Iterator[str]:
    """Yield events, each with the questions after it."""
    fleet: dict[str, str] = {}  # letter to options
    frozen: set[str] = set()
    listens = False
    for step in range(steps):
        weights = {"restart": 0.2, "cut": 0.5, "hang 3": 0.1, f"stall {random.randint(1, 9)}": 0.3}
        free = [letter for letter in "abcd" if letter not in fleet]
        if free:
            start = f"start {random.choice(free)} {random.choice(OPTIONS)}"
            weights[start.strip()] = 8.0 if len(fleet) < 2 else 3.0
        if "beat" not in fleet:
            weights["start beat"] = 0.5
        for letter, options in fleet.items():
            weights |= {f"stop {letter}": 0.7, f"kill {letter}": 0.7}
            weights |= {f"thaw {letter}": 6.0} if letter in frozen else {f"freeze {letter}": 1.0}
            if "solo" in options:
                weights[f"busy {letter}"] = 0.7
            if kind == "redis":
                weights |= {f"forget {letter}": 0.4, f"start {letter} {options}".strip(): 0.3}
        if kind == "redis":
            weights |= {"flush": 1.5, "unlisten" if listens else "listen": 0.6 + listens}
        event = random.choices([*weights], [*weights.values()])[0]
        verb, _, words = event.partition(" ")
        letter, _, options = words.partition(" ")
        if verb == "start":
            fleet[letter] = options
        elif verb in ("stop", "kill"):
            del fleet[letter]
            frozen.discard(letter)
        elif verb in ("freeze", "thaw"):
            frozen ^= {letter}
        elif verb in ("listen", "unlisten"):
            listens = not listens
        is_during = random.random() < 0.25 and verb != "stall"
        yield event + f" @{random.randint(0, 20)}" * is_during
        yield "ask each"
        yield from ["ask tenth"] * (step % 10 == 9) + ["ask http"] * (step % 5 == 4)
        yield from ["ask each+tenth"] * (random.random() < 0.1)
        yield from [f"ask each {random.choice('abcd')}"] * (random.random() < 0.15)


def kinds_of(found: list[str]) -> set[str]:
    return {violation.partition(":")[0] for violation in found}


class Runner:
    """Plays rounds until a time, and counts."""

    def __init__(self, kind: str, token: str, ignored: Collection[str], ends: float) -> None:
        self._world = partial(World, kind, token, ignored)
        self.ends = ends
        self.steps = self.snapshots = self.given_up = 0
        self.slowest = 0.0
        self.violations: Counter[str] = Counter()

    def play(self, events: list[str]) -> tuple[list[str], list[str], list[list[str]]]:
        """Return the first violations, the events up to them, and the fleet before each event."""
        done: list[str] = []
        fleets: list[list[str]] = []
        with closing(self._world()) as world:
            try:
                for event in events:
                    if world.found or time.monotonic() > self.ends:
                        break
                    done.append(event)
                    fleets.append(world.fleet())
                    world.play(event)
            except AssertionError as exc:  # Something was awaited in vain; that proves nothing.
                self.given_up += 1
                print(f'\ngiven up: --events "{"; ".join(done)}": {exc}'[:2000], flush=True)
        self.steps += sum(not event.startswith("ask") for event in done)
        self.snapshots += world.snapshots
        self.slowest = max(self.slowest, world.slowest)
        return world.found, done, fleets

    def shorten(self, events: list[str], fleets: list[list[str]], kinds: set[str]) -> list[str]:
        """Return fewer events that lead to a violation of the same kinds."""

        def attempt(fewer: list[str]) -> bool:
            nonlocal events
            if len(fewer) >= len(events) or time.monotonic() > self.ends:
                return False
            found, done, _ = self.play(fewer)
            if kinds & kinds_of(found):
                events = done
            return events is done

        # The last events alone, after a start with the fleet that they met.
        for last in (1, 2, 4, 8, 16):
            if last < len(events) and attempt([*fleets[-last], *events[-last:]]):
                break
        words = Counter(word for event in events for word in {*event.split()})
        for word, _ in words.most_common():
            attempt([event for event in events if word not in event.split()])
        size = len(events) // 2
        while size:
            for start in range(len(events) - size, -1, -size):
                attempt(events[:start] + events[start + size :])
            size //= 2
        return events


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--broker", choices=["redis", "amqp"], required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1000, help="events, without the questions")
    parser.add_argument("--minutes", type=float, default=10, help="no event after that")
    parser.add_argument("--shrink", type=float, default=90, help="seconds for a violation")
    parser.add_argument("--ignore", nargs="+", default=(), metavar="KIND", help="of violations")
    parser.add_argument("--events", help="play these, separated by semicolons, and nothing else")
    parser.add_argument("--replay", type=Path, help="the same from a file")
    options = parser.parse_args()
    text = options.replay.read_text() if options.replay else options.events or ""
    given = [event.strip() for event in re.split("[;\n]", text) if event.strip()]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # So that nothing is left behind.
    with demo_project() as token:
        make_runner = partial(Runner, options.broker, token, options.ignore)
        runner = make_runner(time.monotonic() + 60 * options.minutes)
        for number in count():
            left = min(ROUND, options.steps - runner.steps)
            if left <= 0 or time.monotonic() > runner.ends or (given and number):
                break
            name = f"seed {options.seed}, round {number}"
            drawn = given or [*draw(options.broker, Random(name), left)]
            found, done, fleets = runner.play(drawn)
            runner.violations.update(kinds_of(found))
            if found:
                print(f"\n{name}, step {runner.steps}:", *sorted(set(found))[:4], sep="\n  ")
            if found and options.shrink:
                trials = make_runner(time.monotonic() + options.shrink)
                events = trials.shorten(done, fleets, kinds_of(found))
                print(f'  shortest: --events "{"; ".join(events)}"', flush=True)
    print(f"\n{options.broker}: {runner.steps} steps, {runner.snapshots} snapshots,", end=" ")
    print(f"slowest answer {runner.slowest:.2f} s, {runner.given_up} rounds given up,", end=" ")
    print(f"violations: {dict(runner.violations) or 0}")
    sys.exit(bool(runner.violations))


if __name__ == "__main__":
    main()
