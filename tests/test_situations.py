"""Twelve situations of a task, and what the page and the command say of each: real workers."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import pytest
from rest_framework.test import APIClient

from celery_stats.conf import conf
from celery_stats.control.question import Extras, Question
from celery_stats.page.look_up import look_ups
from celery_stats.report import Report, ReportOptions, share_report
from tests import celery_app
from tests.brokers import Broker
from tests.conftest import place
from tests.processes import wait_until
from tests.test_command import run

URL = "/api/celery-stats/"
DURATION = r"\d+ \w+(?: \d+ \w+)?"
ENDED = rf"[\d:]+(?:, {DURATION} ago)?"
STARTED = "The result backend says STARTED: a worker has started it, and has not finished it."
NO_RESULT = (
    "The result backend has nothing of it: results expire, and tasks that ignore their result "
    "leave none."
)
NOBODY = "No worker that answered knows it."


@dataclass
class Situations:
    """A fleet, and the ids of tasks by what has become of them."""

    broker: Broker
    ids: dict[str, str]

    def expected(self, *, silent: str) -> dict[str, list[str]]:
        """Return a pattern for each sentence; ``silent`` is the one of who did not answer."""
        mail, lost = f"{self.broker.namespace}.tasks", f"{self.broker.namespace}.lost"
        consumed = f", consumed by busy@{self.broker.namespace}"
        orphaned = ", and no worker that answered consumes it"
        unknown = [NOBODY, *([silent] if silent else [])]
        silent_worker = [*unknown, STARTED]
        if self.broker.kind == "redis":
            # The solo pool has not acknowledged it, because it does nothing else meanwhile.
            delivered = f"It was delivered from {self.broker.namespace}.solo to a worker that .*"
            silent_worker.insert(-1, delivered)
            queued = [*unknown, f"Waits in {mail}, no message before it{consumed}.", NO_RESULT]
            stranded = [*unknown, f"Waits in {lost}, no message before it{orphaned}.", NO_RESULT]
            never = [*unknown, NO_RESULT, "It is not in the queues .*"]
        else:
            queued = stranded = never = [
                *unknown,
                NO_RESULT,
                "Nobody can look into the queues of this broker.",
                f"Messages in {lost}: 1{orphaned}.",
                f"Messages in {mail}: 1{consumed}.",
            ]
        busy = f"busy@{self.broker.namespace}"
        # Older versions of Celery do not tell the backend of it.
        revoked = self.broker.app.backend.get_task_meta(self.ids["revoked"])["status"]
        return {
            "running": [f"Running on {busy} for {DURATION}, since \\d\\d:\\d\\d."],
            "silent": silent_worker,
            "killed": [*unknown, STARTED],
            "reserved": [f"Received by {busy}, not started; slots busy: 1 of 1\\."],
            "scheduled": [
                f"On {busy} until its ETA, due in {DURATION} \\((?:[\\d-]+ )?\\d\\d:\\d\\d\\)."
            ],
            "revoked": [
                f"Revoked \\(known to {busy}, done@{self.broker.namespace}\\): "
                "a worker that receives it will not execute it.",
                *[f"The result backend says REVOKED: it was revoked at {ENDED}."]
                * (revoked == "REVOKED"),
            ],
            "queued": queued,
            "stranded": stranded,
            "finished": [
                *unknown,
                f"The result backend says SUCCESS: it finished at {ENDED}.",
            ],
            "failed": [
                *unknown,
                f"The result backend says FAILURE: it failed at {ENDED}.",
            ],
            "never": never,
        }

    def check(self, said: dict[str, list[str]], silent: str) -> None:
        """Compare the sentences for each id."""
        for situation, patterns in self.expected(silent=silent).items():
            sentences = said[self.ids[situation]]
            assert len(sentences) == len(patterns), (situation, sentences)
            for pattern, sentence in zip(patterns, sentences, strict=True):
                assert re.fullmatch(pattern, sentence), (situation, pattern, sentence)


def answered(broker: Broker, *names: str) -> Report:
    """Ask until these workers have answered, so that this process knows them."""

    def ask() -> Report | None:
        report = share_report(Question(), ReportOptions.from_conf(conf, app=broker.app))
        return report if set(names) <= set(report.answers["stats"] or ()) else None

    return wait_until(ask)


@pytest.fixture(scope="module", params=["redis", "amqp"])
def situations(request: pytest.FixtureRequest) -> Iterator[Situations]:
    server = request.getfixturevalue("redis_server")
    broker = place(
        request.param,
        request,
        result_backend=f"redis://127.0.0.1:{server.port}/900",
        task_track_started=True,
        worker_prefetch_multiplier=1,
    )
    name = {each: f"{each}@{broker.namespace}" for each in ("busy", "done", "solo", "killed")}
    queue = {each: f"{broker.namespace}.{each}" for each in ("done", "solo", "killed", "lost")}
    broker.queues += list(queue.values())
    broker.app.conf.task_routes = {"tests.lost": {"queue": queue["lost"]}}
    broker.config["task_routes"] = {"tests.lost": {"queue": queue["lost"]}}
    try:
        yield Situations(broker, prepare(broker, name, queue))
    finally:
        broker.close()


def prepare(broker: Broker, name: dict[str, str], queue: dict[str, str]) -> dict[str, str]:
    """Start the workers, bring each situation about, and return the ids by situation."""
    broker.start(name["busy"])
    broker.start(name["done"], task_default_queue=queue["done"])
    broker.start(name["solo"], pool="solo", task_default_queue=queue["solo"])
    killed = broker.start(name["killed"], task_default_queue=queue["killed"])
    for worker in broker.workers:
        worker.ready()
    answered(broker, *name.values())

    def send(to: str = "", task: str = "tests.nap", **options: Any) -> str:
        options["queue"] = to or broker.queues[0]
        return str(broker.app.send_task(task, **options).id)

    long = {"kwargs": {"seconds": 600}}
    ids = {
        "finished": send(queue["done"]),
        "failed": send(queue["done"], kwargs={"seconds": "s3cret"}),
        "silent": send(queue["solo"], **long),
        "killed": send(queue["killed"], **long),
        "scheduled": send(countdown=600),
        "stranded": send(task="tests.lost", to=queue["lost"]),
        "revoked": str(uuid4()),
        "never": str(uuid4()),
    }
    broker.app.control.revoke(ids["revoked"], destination=[name["busy"], name["done"]])
    state = broker.app.backend.get_task_meta
    for situation, expected in (
        *(("finished", "SUCCESS"), ("failed", "FAILURE")),
        *(("silent", "STARTED"), ("killed", "STARTED")),
    ):
        task_id = ids[situation]
        wait_until(lambda: state(task_id, cache=False)["status"] == expected, what=situation)  # noqa: B023
    killed.kill()
    for situation in ("running", "reserved", "queued"):
        ids[situation] = send(**long)
        if situation != "queued":
            field = "active" if situation == "running" else "reserved"
            wait_until(
                lambda: ids[situation] in str(answered(broker, name["busy"]).answers[field])  # noqa: B023
            )
    return ids


def test_page__one_true_answer_to_each(
    situations: Situations, api: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = situations.broker
    monkeypatch.setattr(celery_app, "app", broker.app)
    pasted = ", ".join(f'"{task_id}"' for task_id in situations.ids.values())
    response = api.get(URL, {"format": "html", "task_id": pasted})
    text = response.content.decode()
    assert response.status_code == 200
    assert "s3cret" not in text
    said = {}
    for article in re.findall(r'<article class="looked-up".*?</article>', text, re.DOTALL):
        (task_id,) = re.findall(r"<h3>\s*<bdi[^>]*>([^<]*)</bdi>", article)
        said[task_id] = [html.unescape(each) for each in re.findall(r"<p>([^<]*)</p>", article)]
    silent = ["solo", "killed"] if broker.kind == "redis" else ["solo"]
    named = ", ".join(f"{each}@{broker.namespace}" for each in sorted(silent))
    situations.check(said, f"{named} did not answer, and may hold it or be executing it.")


def test_command__the_same_sentences_and_the_exit_status_of_the_workers(
    situations: Situations,
) -> None:
    broker = situations.broker
    asked = [arg for task_id in situations.ids.values() for arg in ("--task-id", task_id)]
    done = run(broker, "--timeout", "1", *asked)
    # A worker is missing on Redis. RabbitMQ does not name one that this process has never heard.
    assert done.returncode == (1 if broker.kind == "redis" else 0)
    assert b"s3cret" not in done.stdout
    said: dict[str, list[str]] = {}
    for block in done.stdout.decode().split("\n\n"):
        head, *rest = block.splitlines()
        if head in situations.ids.values():
            said[head] = [
                line.strip() for line in rest if not line.strip().startswith("tests.nap(")
            ]
    named = ", ".join(f"{each}@{broker.namespace}" for each in ("killed", "solo"))
    silent = f"{named} did not answer, and may hold it or be executing it."
    situations.check(said, silent if broker.kind == "redis" else "")


def test_running_for_hours__since_when(situations: Situations) -> None:
    broker, task_id = situations.broker, situations.ids["running"]
    question = Question(task_ids=(task_id,), look_up=(task_id,))
    report = share_report(question, ReportOptions.from_conf(conf, app=broker.app))
    busy = f"busy@{broker.namespace}"
    clock = report.taken_at.timestamp() + 5 * 3600 + 22 * 60
    (later,) = look_ups(replace(report, extras={busy: Extras(time=clock)}))
    assert re.fullmatch(
        f"Running on {busy} for 5 h 2[2-9] min, since (?:[\\d-]+ )?\\d\\d:\\d\\d.",
        later.sentences[0],
    )
