"""The values of the metrics, and that no reply or name of a worker can break their format."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import datetime, timezone
from math import isfinite
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as parse_prometheus
from rest_framework.response import Response
from rest_framework.test import APIClient

from celery_stats import metrics, views
from celery_stats.control.exceptions import BrokerUnavailable
from celery_stats.control.question import Extras, Question
from celery_stats.metrics import _GAUGES, openmetrics, prometheus
from celery_stats.query import PARAMETERS
from celery_stats.report import Report
from celery_stats.shapes import FIELDS
from tests.brokers import Broker, MakeBroker, Use
from tests.mailbox import Mailbox
from tests.processes import ROOT, free_port, run_python, wait_until
from tests.simulated import replies

URL = "/api/celery-stats/"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PLAIN = "text/plain; version=0.0.4; charset=utf-8"
ERROR = "text/plain; charset=utf-8"
ASKED = ("active", "scheduled", "reserved", "revoked", "stats")
NOW = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)

#: The Accept headers of Prometheus 2.42 and 3.5.
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)

Samples = dict[tuple[str, ...], float]


def make_report(
    answers: dict[str, Any],
    missing: Any = (),
    queues: dict[str, int] | None = None,
    active_queues: dict[str, Any] | None = None,
    **besides: Any,
) -> Report:
    """Return a report of replies, given as worker to field to reply."""
    data = {
        field: {worker: said[field] for worker, said in answers.items() if field in said} or None
        for field in FIELDS
    }
    return Report(data, dict.fromkeys(missing, ASKED), NOW, 0.25, queues, active_queues, **besides)


def samples(text: str) -> Samples:
    """Return the value of each sample, by its name and its labels' values.

    The values are in the order of the labels' names.
    """
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(report: Report) -> Samples:
    return samples(openmetrics(report).decode())


def about(found: Samples, worker: str) -> dict[str, float]:
    """Return the samples of one worker that have no other label."""
    return {name: value for (name, *labels), value in found.items() if labels == [worker]}


class SameEverywhere(dict[str, Any]):
    """A mapping whose ``get`` returns the same value for any key. It looks empty otherwise."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def get(self, key: str, default: Any = None) -> Any:
        return self.value


def filled_with(value: Any) -> Iterator[dict[str, Any]]:
    """Yield replies that have the value where gauges read.

    That is as a whole reply, and one and two keys below ``stats``.
    """
    everywhere = SameEverywhere(value)
    yield dict.fromkeys(ASKED, value)
    yield {**{field: [value] for field in ASKED}, "stats": everywhere}
    yield {**{field: [everywhere] for field in ASKED}, "stats": SameEverywhere(everywhere)}
    yield {"stats": {"total": {"a": value, "b": 3}}}


def most_series() -> int:
    """Return how many series the limits allow, from the table of gauges."""
    gauges = {label: len(by_name) for label, by_name in _GAUGES.items()}
    of_workers = gauges["hostname"] * metrics.WORKERS_EXPORTED + metrics.MAX_TASKS_OF_ALL_WORKERS
    return of_workers + gauges["queue_name"] * metrics.QUEUES_EXPORTED + gauges[""]


def test_numbers_of_series_in_the_documents__from_the_table() -> None:
    text = (ROOT / "docs" / "monitoring" / "README.md").read_text()
    assert f"at most {most_series():,} series".replace(",", " ") in text
    each = [int(number) for number in re.findall(r"(?:each with|\|) (\d+) series \|", text)]
    assert each == [len(gauges) for gauges in _GAUGES.values()]


class TestValues:
    def test_worker_at_work__a_sample_of_each_series(self) -> None:
        said = replies("one@h")
        for task, age in zip(said["active"], (90, 30), strict=True):
            task["time_start"] = NOW.timestamp() - age
        assert of(make_report({"one@h": said}, ["two@h"], {"mail": 7})) == {
            ("celery_worker_up", "one@h"): 1,
            ("celery_worker_up", "two@h"): 0,
            ("celery_worker_tasks_active", "one@h"): 2,
            ("celery_worker_tasks_reserved", "one@h"): 4,
            ("celery_worker_tasks_scheduled", "one@h"): 1,
            ("celery_worker_tasks_revoked", "one@h"): 5,
            ("celery_worker_oldest_active_task_age_seconds", "one@h"): 90,
            ("celery_worker_concurrency", "one@h"): 2,
            ("celery_worker_prefetch_limit", "one@h"): 8,
            ("celery_worker_uptime_seconds", "one@h"): 86400,
            ("celery_worker_resident_memory_peak_bytes", "one@h"): 68412 * 1024,
            ("celery_task_started_total", "one@h", "shop.tasks.send_invoice"): 4321,
            ("celery_queue_length", "mail"): 7,
            ("celery_snapshot_duration_seconds",): 0.25,
            ("celery_snapshot_workers_answered",): 1,
            ("celery_snapshot_workers_missing",): 1,
            ("celery_snapshot_subscribers_silent",): 0,
            ("celery_snapshot_replies_unreadable",): 0,
            ("celery_snapshot_names_omitted",): 0,
        }

    def test_queues__length_and_who_consumes_each(self) -> None:
        said = {name: replies(name) for name in ("one@h", "two@h")}
        active_queues = {
            "one@h": [{"name": "mail"}, {"name": "more"}],
            "two@h": [{"name": "mail"}],
            "odd@h": {"error": "no"},
        }
        found = of(make_report(said, queues={"mail": 7, "lost": 31}, active_queues=active_queues))
        assert {key: value for key, value in found.items() if key[1:] and "@" not in key[1]} == {
            ("celery_queue_length", "mail"): 7,
            ("celery_queue_length", "lost"): 31,
            ("celery_active_consumer_count", "mail"): 2,
            ("celery_active_consumer_count", "lost"): 0,
            ("celery_active_consumer_count", "more"): 1,
            ("celery_active_process_count", "mail"): 4,
            ("celery_active_process_count", "lost"): 0,
            ("celery_active_process_count", "more"): 2,
        }

    def test_without_a_name_or_unreadable__counted(self) -> None:
        found = of(make_report({}, silent_subscribers=2, unreadable=3))
        assert found[("celery_snapshot_subscribers_silent",)] == 2
        assert found[("celery_snapshot_replies_unreadable",)] == 3

    def test_clock_of_the_worker__ages_are_measured_against_it(self) -> None:
        active = [{"time_start": NOW.timestamp() + 3600 - 90}]
        extras = {"one@h": Extras(time=NOW.timestamp() + 3600)}
        found = about(of(make_report({"one@h": {"active": active}}, extras=extras)), "one@h")
        assert found["celery_worker_oldest_active_task_age_seconds"] == 90

    def test_age_beyond_the_uptime__none(self) -> None:
        said = {"active": [{"time_start": NOW.timestamp() - 3600}], "stats": {"uptime": 22}}
        found = about(of(make_report({"one@h": said})), "one@h")
        assert "celery_worker_oldest_active_task_age_seconds" not in found

    def test_autoscaling__the_most_that_it_can_execute(self) -> None:
        stats = {
            "pool": {"max-concurrency": 1, "processes": [1, 2, 3, 4]},
            "autoscaler": {"max": 10, "min": 1, "current": 4},
        }
        found = about(of(make_report({"one@h": {"stats": stats}})), "one@h")
        assert found["celery_worker_concurrency"] == 10

    def test_prometheus_text__the_same_samples(self) -> None:
        report = make_report({"one@h": replies("one@h")}, missing=["two@h"])
        found = {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in parse_prometheus(prometheus(report).decode())
            for sample in family.samples
        }
        assert found == of(report)

    def test_families__type_unit_and_help_of_each(self) -> None:
        text = openmetrics(make_report({"one@h": replies("one@h")})).decode()
        families = {family.name: family for family in text_string_to_metric_families(text)}
        types = {name: family.type for name, family in families.items()}
        assert types.pop("celery_task_started") == "counter"
        assert set(types.values()) == {"gauge"}
        assert {name: family.unit for name, family in families.items() if family.unit} == {
            "celery_worker_oldest_active_task_age_seconds": "seconds",
            "celery_worker_uptime_seconds": "seconds",
            "celery_worker_resident_memory_peak_bytes": "bytes",
            "celery_snapshot_duration_seconds": "seconds",
        }
        assert all(family.documentation.endswith(".") for family in families.values())

    def test_no_worker__only_the_snapshot(self) -> None:
        assert of(make_report({})) == {
            ("celery_snapshot_duration_seconds",): 0.25,
            ("celery_snapshot_workers_answered",): 0,
            ("celery_snapshot_workers_missing",): 0,
            ("celery_snapshot_subscribers_silent",): 0,
            ("celery_snapshot_replies_unreadable",): 0,
            ("celery_snapshot_names_omitted",): 0,
        }

    def test_worker_that_answered_in_part__up_and_counted_as_missing(self) -> None:
        found = of(make_report({"one@h": {"active": []}}, missing=["one@h"]))
        assert found[("celery_snapshot_workers_missing",)] == 1
        assert about(found, "one@h") == {
            "celery_worker_up": 1,
            "celery_worker_tasks_active": 0,
            "celery_worker_oldest_active_task_age_seconds": 0,
        }

    def test_start_in_the_future__age_0(self) -> None:
        active = [{"time_start": NOW.timestamp() + 60}, {"time_start": None}, "x"]
        found = about(of(make_report({"one@h": {"active": active}})), "one@h")
        assert found["celery_worker_oldest_active_task_age_seconds"] == 0

    def test_no_start_known__no_age(self) -> None:
        found = about(of(make_report({"one@h": {"active": [{"time_start": None}]}})), "one@h")
        assert found == {"celery_worker_up": 1, "celery_worker_tasks_active": 1}


class TestHostile:
    @pytest.mark.parametrize(
        "odd", ["N/A", None, True, [], {}, {"error": "no"}, 10**400, "1", -(10**30), 1e308]
    )
    def test_odd_values_everywhere__no_error_and_valid_text(self, odd: Any) -> None:
        for said in filled_with(odd):
            found = of(make_report({"one@h": said, "two@h": replies("two@h")}))
            assert all(map(isfinite, found.values()))
            assert about(found, "two@h")["celery_worker_concurrency"] == 2
            assert found.get(("celery_task_started_total", "one@h", "b"), 3) == 3

    def test_odd_values__are_put_where_each_gauge_reads(self) -> None:
        read = {
            name for said in filled_with(7) for name in about(of(make_report({"w": said})), "w")
        }
        assert read == {*_GAUGES["hostname"]}

    def test_counter_below_zero__no_sample(self) -> None:
        found = of(make_report({"one@h": {"stats": {"total": {"a": -1, "b": 1}}}}))
        names = [key[2] for key in found if key[0] == "celery_task_started_total"]
        assert names == ["b"]

    @hypothesis.given(
        workers=st.lists(st.text(), unique=True, max_size=4),
        tasks=st.lists(st.text(), unique=True, max_size=4),
        value=st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
            max_leaves=5,
        ),
    )
    def test_any_names_and_values__valid_text(
        self, workers: list[str], tasks: list[str], value: Any
    ) -> None:
        stats = {"total": dict.fromkeys(tasks, 1), "uptime": value, "pool": value}
        said = {worker: {"stats": stats, "active": value} for worker in workers}
        found = of(make_report(said, missing=[*workers, "missing@h"]))
        assert found[("celery_snapshot_workers_answered",)] == len(workers)

    @pytest.mark.skipif(shutil.which("promtool") is None, reason="not installed: promtool")
    def test_odd_names__promtool_reads_them(self) -> None:
        names = [
            *(f"{chr(code)}@h" for code in (*range(0x21), 0x22, 0x5C, *range(0x7F, 0xA1))),
            *("x" * 10_000, "x" * 10_001, "</script>", 'a"} 1\n# EOF\n', "\u2028", "\ud800", ""),
        ]
        said = {name: {"stats": {"total": dict.fromkeys(names, 1)}} for name in names[:-20]}
        text = prometheus(make_report(said, missing=names))
        run = subprocess.run(
            ["promtool", "check", "metrics"], input=text, capture_output=True, check=False
        )
        assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")

    def test_control_characters_in_a_name__replaced_in_the_label(self) -> None:
        found = of(make_report({}, missing=["a\x00\x1b[2J\x85b"]))
        assert ("celery_worker_up", "a\ufffd\ufffd[2J\ufffdb") in found

    def test_names_that_differ_past_the_cut__two_series(self) -> None:
        found = of(make_report({}, missing=["x" * 10_000, "x" * 10_001]))
        labels = {key[1] for key in found if key[0] == "celery_worker_up"}
        assert [(len(label), label[:183]) for label in labels] == [(200, "x" * 183)] * 2

    def test_names_that_become_equal__one_series_and_one_omitted(self) -> None:
        found = of(make_report({}, missing=["a\x00", "a\x01", "b"]))
        assert len([key for key in found if key[0] == "celery_worker_up"]) == 2
        assert found[("celery_snapshot_names_omitted",)] == 1

    def test_hostile_fleet__as_many_series_as_the_documents_say(self) -> None:
        said = {}
        for number in range(1100):
            name = f"w{number:04}@h"
            said[name] = replies(name)
            said[name]["stats"]["total"] = {f"{name}.task{task:02}": 1 for task in range(30)}
            said[name]["active"][0]["time_start"] = NOW.timestamp() - 90
        queues = [f"queue{number}" for number in range(100)]
        active_queues = {"w0000@h": [{"name": name} for name in queues]}
        found = of(make_report(said, queues=dict.fromkeys(queues, 1), active_queues=active_queues))
        assert len(found) == 30_306 == most_series()
        assert found[("celery_snapshot_names_omitted",)] == 100 + 1000 * 10

    def test_more_workers_and_tasks_than_allowed__those_that_answered_and_equal_shares(
        self,
    ) -> None:
        total = {f"task{number:04}": 1 for number in range(600)}
        said = {f"w{number:04}@h": {"stats": {"total": total}} for number in range(900)}
        found = of(make_report(said, missing=[f"a{number:04}@h" for number in range(150)]))
        up = [value for key, value in found.items() if key[0] == "celery_worker_up"]
        assert (len(up), sum(up)) == (1000, 900)
        tasks = [key for key in found if key[0] == "celery_task_started_total"]
        assert len(tasks) == 900 * 22
        assert found[("celery_snapshot_names_omitted",)] == 50 + 900 * 578

    def test_one_worker_with_many_tasks__500(self) -> None:
        total = {f"task{number:04}": 1 for number in range(600)}
        found = of(make_report({"one@h": {"stats": {"total": total}}}))
        assert found[("celery_task_started_total", "one@h", "task0499")] == 1
        assert ("celery_task_started_total", "one@h", "task0500") not in found
        assert found[("celery_snapshot_names_omitted",)] == 100


class TestNegotiation:
    @pytest.fixture(autouse=True)
    def recorded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Answer requests with a report of one worker, without asking any."""
        report = make_report({"one@h": replies("one@h")})
        monkeypatch.setattr(views, "share_report", lambda *args, **kwargs: report)

    @pytest.mark.parametrize(
        ("query", "accept", "content_type"),
        [
            ("?format=openmetrics", "*/*", OPENMETRICS),
            ("?format=openmetrics", "text/html,*/*;q=0.8", OPENMETRICS),
            ("?format=openmetrics", PROMETHEUS_2, OPENMETRICS),
            ("?format=openmetrics", "text/plain;version=0.0.4;q=1,*/*;q=0.1", PLAIN),
            ("", PROMETHEUS_2, OPENMETRICS),
            ("", PROMETHEUS_3, OPENMETRICS),
            ("", "application/openmetrics-text", OPENMETRICS),
            ("", "text/plain;version=0.0.4;q=1,*/*;q=0.1", PLAIN),
            ("", "*/*", "application/json"),
            ("", "text/html,application/xml;q=0.9,*/*;q=0.8", "text/html; charset=utf-8"),
        ],
    )
    def test_get__by_format_and_accept(
        self, api: APIClient, query: str, accept: str, content_type: str
    ) -> None:
        response = api.get(f"{URL}{query}", headers={"Accept": accept})
        assert (response.status_code, response["Content-Type"]) == (200, content_type)
        metrics = b'\ncelery_worker_up{hostname="one@h"} 1.0\n' in response.content
        assert metrics == (content_type in (OPENMETRICS, PLAIN))
        assert response["Cache-Control"] == "no-store"

    def test_text_without_the_version__406(self, api: APIClient) -> None:
        assert api.get(URL, headers={"Accept": "text/plain"}).status_code == 406

    def test_head__the_type_and_no_body(self, api: APIClient) -> None:
        response = api.head(f"{URL}?format=openmetrics")
        assert (response["Content-Type"], response.content) == (OPENMETRICS, b"")


class TestErrors:
    def expect(self, response: Response, status: int, body: str) -> None:
        assert (response.status_code, response["Content-Type"]) == (status, ERROR)
        assert response.content.decode() == body

    @pytest.mark.django_db
    def test_without_token__401(self, client: APIClient) -> None:
        response = client.get(f"{URL}?format=openmetrics")
        self.expect(response, 401, "Authentication credentials were not provided.\n")
        assert response["WWW-Authenticate"] == "Token"

    def test_unknown_parameter__400_in_one_line(self, api: APIClient) -> None:
        response = api.get(f"{URL}?format=openmetrics&co%0Alour=red")
        self.expect(
            response,
            400,
            f"co lour: Unknown parameter; known are: {', '.join(PARAMETERS)}, format.\n",
        )

    def test_broker_away__503_without_its_address(self, api: APIClient) -> None:
        port = free_port()
        broker = Broker("redis", f"redis://:hunter2@127.0.0.1:{port}/0")
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("tests.celery_app.app", broker.app)
                response = api.get(f"{URL}?format=openmetrics", headers={"Accept": PROMETHEUS_2})
        finally:
            broker.close()
        assert (response.status_code, response["Content-Type"]) == (503, ERROR)
        assert int(response["Retry-After"]) > 0
        body = response.content.decode()
        assert body.count("\n") == 1
        assert "hunter2" not in body
        assert str(port) not in body


class TestAsking:
    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[Question]:
        """Return a list that holds the question of each request after it."""
        questions: list[Question] = []

        def noted(question: Question, *args: Any, **kwargs: Any) -> Report:
            questions.append(question)
            raise BrokerUnavailable

        monkeypatch.setattr(views, "share_report", noted)
        return questions

    def test_scrapers__the_same_question_without_query_task(
        self, api: APIClient, asked: list[Question]
    ) -> None:
        for accept in (PROMETHEUS_2, "text/plain;version=0.0.4"):
            api.get(URL, headers={"Accept": accept})
        assert asked == [Question(fields=ASKED, queues=True)] * 2

    def test_own_fields__those(self, api: APIClient, asked: list[Question]) -> None:
        api.get(f"{URL}?format=openmetrics&field=stats&worker=one@h")
        assert asked == [Question(fields=("stats",), workers=("one@h",), queues=True)]


class TestRealWorkers:
    def scrape(self, api: APIClient) -> Samples:
        response = api.get(URL, headers={"Accept": PROMETHEUS_2})
        assert (response.status_code, response["Content-Type"]) == (200, OPENMETRICS)
        return samples(response.content.decode())

    def test_two_idle_workers__up(self, api: APIClient, fleet: Broker, use: Use) -> None:
        use(fleet)
        found = self.scrape(api)
        for worker in ("one@fleet", "two@fleet"):
            gauges = about(found, worker)
            assert 10e6 < gauges.pop("celery_worker_resident_memory_peak_bytes") < 1e9
            assert 0 <= gauges.pop("celery_worker_uptime_seconds") < 3600
            assert gauges == {
                "celery_worker_up": 1,
                "celery_worker_tasks_active": 0,
                "celery_worker_tasks_reserved": 0,
                "celery_worker_tasks_scheduled": 0,
                "celery_worker_tasks_revoked": 0,
                "celery_worker_oldest_active_task_age_seconds": 0,
                "celery_worker_concurrency": 1,
                "celery_worker_prefetch_limit": 4,
            }

    def test_busy_then_frozen_worker__counted_then_down(
        self, api: APIClient, make_broker: MakeBroker, use: Use
    ) -> None:
        broker = use(make_broker())
        (worker,) = broker.fleet("one@h")
        broker.send(seconds=600)
        broker.send()

        def at_work() -> dict[str, float] | None:
            found = self.scrape(api)
            gauges = about(found, "one@h")
            if not gauges["celery_worker_oldest_active_task_age_seconds"]:
                return None
            assert found[("celery_task_started_total", "one@h", "tests.nap")] == 1
            return gauges

        gauges = wait_until(at_work)
        assert gauges["celery_worker_tasks_active"] == gauges["celery_worker_tasks_reserved"] == 1
        assert gauges["celery_worker_oldest_active_task_age_seconds"] < 60
        worker.freeze()
        found = self.scrape(api)
        assert about(found, "one@h") == {"celery_worker_up": 0}
        assert found[("celery_snapshot_workers_answered",)] == 0

    def test_scrape__no_other_command_reaches_the_workers(
        self, api: APIClient, make_broker: MakeBroker, use: Use
    ) -> None:
        broker = use(make_broker())
        with Mailbox(broker, "one@h", lambda mailbox, command: mailbox.answer(command)) as mailbox:
            self.scrape(api)
        assert sorted(mailbox.heard) == sorted([*ASKED, "active_queues"])


WITHOUT_EXTRA = """
import sys
sys.modules["prometheus_client"] = None
import django
django.setup()
from datetime import datetime, timezone
from types import SimpleNamespace
from rest_framework.test import APIRequestFactory, force_authenticate
from celery_stats import views
from celery_stats.shapes import FIELDS
from celery_stats.report import Report
report = Report(dict.fromkeys(FIELDS), {}, datetime.now(timezone.utc), 0.1)
views.share_report = lambda *args, **kwargs: report
user = SimpleNamespace(is_authenticated=True, is_active=True, is_staff=True)
for query, accept in (
    ("?format=openmetrics", "*/*"),
    ("", "application/openmetrics-text"),
    ("", "text/plain;version=0.0.4"),
    ("", "*/*"),
    ("", "text/html"),
):
    request = APIRequestFactory().get(f"/api/celery-stats/{query}", HTTP_ACCEPT=accept)
    force_authenticate(request, user)
    response = views.CeleryStatsView.as_view()(request).render()
    print(response.status_code, response["Content-Type"])
print("celery_stats.metrics" in sys.modules)
"""


def test_without_the_extra__406_and_everything_else_as_it_is() -> None:
    run = run_python(WITHOUT_EXTRA, "-W", "error")
    assert run.stderr == ""
    assert run.stdout.splitlines() == [
        "406 application/json",
        "406 application/json",
        "406 application/json",
        "200 application/json",
        "200 text/html; charset=utf-8",
        "False",
    ]
