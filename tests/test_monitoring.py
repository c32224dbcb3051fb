"""The files in docs/monitoring, read by promtool and by a Prometheus that scrapes real workers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit
from urllib.request import urlopen

import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from rest_framework.test import APIClient

from celery_stats.metrics import openmetrics
from celery_stats.report import Report
from tests.answers import ANSWERS, NOW
from tests.brokers import Broker, MakeBroker, Use, Worker
from tests.processes import ROOT, Process, free_port, wait_until

DOCS = ROOT / "docs" / "monitoring"
URL = "/api/celery-stats/"

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("promtool") and shutil.which("prometheus")),
    reason="not installed: prometheus, promtool",
)


def alerts() -> dict[str, dict[str, Any]]:
    (group,) = yaml.safe_load((DOCS / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def promtool(*args: str, folder: Path = DOCS, text: str = "") -> str:
    """Run promtool, with a text as its input, and return what it prints."""
    run = subprocess.run(
        ["promtool", *args], cwd=folder, input=text, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr) == (0, ""), run.stdout + run.stderr
    return run.stdout


@pytest.fixture
def broker(make_broker: MakeBroker, use: Use) -> Broker:
    return use(make_broker(worker_prefetch_multiplier=1))


def test_dashboard__rows_are_full_and_each_panel_has_its_place() -> None:
    panels = json.loads((DOCS / "dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    taken = sorted((p["y"], x) for p in places for x in range(p["x"], p["x"] + p["w"]))
    assert taken == [(y, x) for y in (0, 4, 12, 20, 28) for x in range(24)]


@needs_prometheus
class TestPromtool:
    def test_configuration__valid(self, tmp_path: Path) -> None:
        for name in ("prometheus.yml", "alerts.yml"):
            shutil.copy(DOCS / name, tmp_path)
        (tmp_path / "celery-stats.token").write_text("0123456789")
        promtool("check", "config", "prometheus.yml", folder=tmp_path)

    def test_rules__no_complaint_and_each_fires_in_its_test(self) -> None:
        assert "6 rules found" in promtool("check", "rules", "alerts.yml")
        assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")
        tests = yaml.safe_load((DOCS / "alerts_test.yml").read_text())["tests"]
        fired = [
            each["alertname"]
            for test in tests
            for each in test["alert_rule_test"]
            if each.get("exp_alerts")
        ]
        assert fired == list(alerts())

    def test_metrics_of_a_worker__no_complaint(self, broker: Broker, api: APIClient) -> None:
        broker.fleet("one@h")
        broker.send()

        def at_work() -> str:
            text = api.get(URL, headers={"Accept": "text/plain;version=0.0.4"}).content.decode()
            return text if "celery_task_started_total{" in text else ""

        # promtool does not like the names that celery-exporter gave to these two.
        theirs = ("celery_active_consumer_count", "celery_active_process_count")
        lines = wait_until(at_work).splitlines(keepends=True)
        ours = "".join(line for line in lines if not any(name in line for name in theirs))
        assert promtool("check", "metrics", text=ours) == ""


@dataclass
class Prometheus:
    """A Prometheus server with the configuration of the docs."""

    port: int

    def get(self, path: str, **query: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urlencode(query)}"
        with urlopen(url, timeout=10) as response:
            return json.load(response)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        return list(self.get("query", query=expression)["result"])

    def health(self) -> str:
        """Return the state of the target, as the targets page shows it: up, down or unknown."""
        targets = self.get("targets")["activeTargets"]
        return str(targets[0]["health"]) if targets else "unknown"

    def firing(self) -> set[tuple[str, str]]:
        """Return the name of each alert that fires, and its worker or an empty string."""
        return {
            (alert["labels"]["alertname"], alert["labels"].get("hostname", ""))
            for alert in self.get("alerts")["alerts"]
            if alert["state"] == "firing"
        }


@pytest.fixture
def prometheus(live_server: Any, api: APIClient, tmp_path: Path) -> Iterator[Prometheus]:
    """A Prometheus that scrapes the live server once a second.

    It has the configuration of the docs, but for the address, and all times are one second.
    """
    config = yaml.safe_load((DOCS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (job,) = config["scrape_configs"]
    job |= {"scheme": "http", "scrape_timeout": "1s"}
    job["static_configs"] = [{"targets": [urlsplit(live_server.url).netloc]}]
    rules = yaml.safe_load((DOCS / "alerts.yml").read_text())
    for rule in rules["groups"][0]["rules"]:
        rule["for"] = "1s"
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(rules))
    token = api._credentials["HTTP_AUTHORIZATION"].removeprefix("Token ")
    (tmp_path / "celery-stats.token").write_text(f"{token}\n")
    port = free_port()
    process = Process(
        [
            "prometheus",
            f"--config.file={tmp_path}/prometheus.yml",
            f"--storage.tsdb.path={tmp_path}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        log=tmp_path / "log",
    )
    server = Prometheus(port)

    def ready() -> bool:
        assert process.popen.poll() is None, process.log.read_text()
        return "Server is ready" in process.log.read_text()

    try:
        wait_until(ready, what=f"prometheus: {process.log}")
        yield server
    finally:
        process.stop()


@needs_prometheus
class TestScrape:
    @pytest.fixture(autouse=True)
    def quick(self, settings: Any) -> None:
        settings.DRF_CELERY_STATS = {**settings.DRF_CELERY_STATS, "TIMEOUT": 0.3, "DEADLINE": 0.6}

    @pytest.fixture
    def workers(self, broker: Broker) -> list[Worker]:
        return broker.fleet("one@h", "two@h")

    def test_two_workers_at_work__up_and_every_panel_has_data(
        self, prometheus: Prometheus, broker: Broker, workers: list[Worker]
    ) -> None:
        wait_until(lambda: prometheus.health() == "up")
        for _ in range(6):
            broker.send(seconds=600)
        wait_until(lambda: prometheus.query("sum(celery_worker_tasks_active) == 2"))
        wait_until(lambda: prometheus.query("celery_queue_length == 2"))
        dashboard = json.loads((DOCS / "dashboard.json").read_text())
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                expression = target["expr"].replace("$__rate_interval", "1m")
                expression = expression.replace("$job", ".+")
                found = wait_until(
                    lambda expression=expression: prometheus.query(expression), what=expression
                )
                for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                    assert all(label in series["metric"] for series in found), expression
        assert prometheus.firing() == set()

    def test_frozen_worker__missing_until_it_answers(
        self, prometheus: Prometheus, workers: list[Worker]
    ) -> None:
        wait_until(lambda: prometheus.query("celery_snapshot_workers_answered == 2"))
        workers[1].freeze()
        wait_until(lambda: prometheus.firing() == {("CeleryWorkerMissing", "two@h")})
        workers[1].thaw()
        wait_until(lambda: prometheus.firing() == set())

    def test_worker_restarted__its_counter_begins_again(
        self, prometheus: Prometheus, broker: Broker
    ) -> None:
        counter = 'celery_task_started_total{hostname="one@h", name="tests.nap"}'
        (worker,) = broker.fleet("one@h")
        for _ in range(3):
            broker.send()
        wait_until(lambda: prometheus.query(f"{counter} == 3"))
        worker.stop()
        broker.fleet("one@h")
        for _ in range(2):
            broker.send()
        wait_until(lambda: prometheus.query(f"{counter} == 2"))
        # Prometheus adds the two counts up: it sees the reset.
        assert prometheus.query(f"resets({counter}[1m]) == 1")

    def test_no_worker__that_alert(self, prometheus: Prometheus, broker: Broker) -> None:
        wait_until(lambda: prometheus.firing() == {("CeleryNoWorkers", "")})
        assert prometheus.health() == "up"

    def test_broker_away__down_and_that_alert(
        self, prometheus: Prometheus, make_broker: MakeBroker, use: Callable[..., Any]
    ) -> None:
        use(make_broker(broker_url=f"redis://127.0.0.1:{free_port()}/0"))
        wait_until(lambda: prometheus.firing() == {("CeleryBrokerUnavailable", "")})
        (target,) = prometheus.get("targets")["activeTargets"]
        assert target["health"] == "down"
        assert target["lastError"] == "server returned HTTP status 503 Service Unavailable"


class TestDocs:
    def test_readme__names_every_series_with_its_labels_and_type(self) -> None:
        active_queues = {"a@h": [{"name": "mail"}]}
        report = Report(ANSWERS, {}, NOW, 0.01, {"mail": 7}, active_queues=active_queues)
        families = text_string_to_metric_families(openmetrics(report).decode())
        documented = re.findall(
            r"^\| `(celery_\w+)` \| ?([^|]*?) \| (gauge|counter) \|",
            (DOCS / "README.md").read_text(),
            re.M,
        )
        assert documented == [
            (
                family.samples[0].name,
                ", ".join(f"`{label}`" for label in sorted(family.samples[0].labels)),
                family.type,
            )
            for family in families
        ]

    def test_readme__names_every_alert(self) -> None:
        text = (DOCS / "README.md").read_text()
        assert re.findall(r"^\| `(Celery\w+)` \|", text, re.M) == list(alerts())

    def test_readme__names_every_file(self) -> None:
        linked = re.findall(r"^\| \[([\w.]+)\]\(\1\)", (DOCS / "README.md").read_text(), re.M)
        assert {*linked, "README.md"} == {path.name for path in DOCS.iterdir()}
