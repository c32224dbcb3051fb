"""``docs/recipes.md``, done as it says in projects that have the built wheel."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen
from uuid import uuid4

import kombu
import pytest
import yaml

from tests.brokers import AMQP_URL
from tests.processes import Process, free_port, wait_until
from tests.projects import (
    BYTECODE,
    Project,
    Recipe,
    environment,
    run,
)

pytestmark = pytest.mark.dropin


def test_recipe__own_permission(project: Project, worker: str) -> None:
    Recipe("Who may read it").add_to(project)
    (found,) = project.visit("/api/celery-stats/", groups={"plain": "operators"}).values()
    assert found == {"anonymous": [403, None], "staff": [403, None], "plain": [200, [worker]]}


def add_tokens(project: Project) -> None:
    """A path that gives REST framework's tokens."""
    project.add_path('path("token/", obtain_auth_token)')
    project.insert(
        project.urls,
        "\nfrom django.urls import include, path\n",
        "from rest_framework.authtoken.views import obtain_auth_token\n",
    )


def test_recipe__waldurs_typescript_client(project: Project, worker: str) -> None:
    Recipe("Waldur's TypeScript client").add_to(project)
    add_tokens(project)
    for scheme in ("Bearer Token", "Token"):
        (found,) = project.visit("/api/celery-stats/", token="/token/", scheme=scheme).values()
        assert found == {"anonymous": [401, None], "staff": [200, [worker]], "plain": [403, None]}
    (found,) = project.visit("/api/celery-stats/").values()  # by session
    assert found["staff"] == [200, [worker]]


def test_recipe__waldurs_second_path(project: Project, worker: str) -> None:
    Recipe("Waldur's second path").add_to(project)
    answers = project.visit("/api/stats/celery/", "/api/celery-stats/")
    assert [found["staff"] for found in answers.values()] == [[200, [worker]]] * 2


def test_recipe__own_token_class(project: Project, worker: str) -> None:
    Recipe("Tokens of another kind").add_to(project)
    add_tokens(project)
    (found,) = project.visit("/api/celery-stats/", token="/token/").values()
    assert found == {"anonymous": [401, None], "staff": [200, [worker]], "plain": [403, None]}
    (found,) = project.visit("/api/celery-stats/").values()  # by session
    assert found["staff"] == [401, None]


def test_recipe__query_parameters_of_others(project: Project, worker: str) -> None:
    Recipe("Query parameters of others").add_to(project)
    answers = project.visit("/api/celery-stats/?x-auth-token=1", "/api/celery-stats/?token=1")
    assert [found["staff"] for found in answers.values()] == [[200, [worker]], [400, None]]


def test_recipe__a_second_path(project: Project, worker: str) -> None:
    Recipe("A second path").add_to(project)
    answers = project.visit("/internal/celery-stats/", "/api/celery-stats/")
    assert [found["staff"] for found in answers.values()] == [[200, [worker]]] * 2


def test_recipe__several_apps(project: Project, worker: str, broker_url: str) -> None:
    """Billing's workers are those that are there; the project's own are on another database."""
    project.configure(f"CELERY_BROKER_URL = {broker_url.replace('/999', '/998')!r}")
    billing = project.folder / "billing"
    billing.mkdir()
    (billing / "celery.py").write_text(
        f'from celery import Celery\napp = Celery(broker="{broker_url}", set_as_current=False)'
    )
    Recipe("Several Celery apps").add_to(project)
    answers = project.visit("/api/celery-stats/", "/api/billing/celery-stats/")
    assert [found["staff"] for found in answers.values()] == [[200, []], [200, [worker]]]


@pytest.mark.skipif(AMQP_URL is None, reason="CELERY_STATS_TEST_AMQP_URL names no RabbitMQ")
def test_recipe__rabbitmq(project: Project) -> None:
    assert AMQP_URL is not None
    Recipe("RabbitMQ").add_to(project, **{"amqp://guest:guest@127.0.0.1:5672//": AMQP_URL})
    # The broker is shared: without names of its own, others' workers would answer.
    names = {
        "CONTROL_EXCHANGE": f"dropin{uuid4().hex[:12]}",
        "EVENT_EXCHANGE": f"dropin{uuid4().hex[:12]}",
        "TASK_DEFAULT_QUEUE": f"dropin{uuid4().hex[:12]}",
    }
    project.configure("\n".join(f"CELERY_{key} = {name!r}" for key, name in names.items()))
    try:
        with project.worker("--hostname", "rabbit@dropin"):
            (found,) = project.visit("/api/celery-stats/").values()
            assert found["staff"] == [200, ["rabbit@dropin"]]
    finally:
        with kombu.Connection(AMQP_URL) as connection:
            channel = connection.channel()
            channel.queue_delete(names["TASK_DEFAULT_QUEUE"])
            control = names["CONTROL_EXCHANGE"]
            for name in (*names.values(), f"{control}.pidbox", f"reply.{control}.pidbox"):
                channel.exchange_delete(name)


def test_recipe__gunicorn_and_gevent(project: Project, worker: str, others: Path) -> None:
    (command,) = Recipe("gunicorn and gevent").blocks
    port = free_port()
    assert "127.0.0.1:8000" in command
    project.configure(
        'DRF_CELERY_STATS = {"PERMISSION_CLASSES": ["rest_framework.permissions.AllowAny"]}'
    )
    args = shlex.split(command.replace(":8000", f":{port}"))
    log = project.folder / "gunicorn.log"
    command_line = [str(project.python), "-m", *args, "--chdir", str(project.folder)]
    env = {"DJANGO_SETTINGS_MODULE": "shop.settings", "PYTHONPATH": str(others), **BYTECODE}
    server = Process(command_line, log=log, env=env)
    try:
        wait_until(lambda: "Booting worker" in log.read_text(), what=f"{log}")
        with ThreadPoolExecutor(20) as pool:
            url = f"http://127.0.0.1:{port}/api/celery-stats/?field=stats"
            bodies = pool.map(lambda n: urlopen(f"{url}&task_id={n % 3}").read(), range(60))
        assert [list(json.loads(body)["stats"]) for body in bodies] == [[worker]] * 60
    finally:
        server.stop()


def test_recipe__probe_from_cron(project: Project, worker: str, broker_url: str) -> None:
    (line,) = Recipe("A probe from cron").blocks
    command = line.split(maxsplit=5)[5].replace("/srv/shop", str(project.folder))
    programs = project.folder / "bin"
    programs.mkdir()
    (programs / "mail").write_text('#!/bin/sh\necho "mail $*"; cat\n')
    (programs / "mail").chmod(0o755)
    path = f"{programs}:{project.python.parent}:{os.environ['PATH']}"

    def at_the_hour() -> str:
        return run("sh", "-c", command, cwd=Path("/"), PATH=path)

    assert at_the_hour() == ""
    project.configure(f"CELERY_BROKER_URL = {broker_url.replace('/999', '/998')!r}")
    mail, summary, *rest = at_the_hour().splitlines()
    assert mail == "mail -s Celery workers ops@example.com"
    assert summary.startswith("No worker answered at ")
    assert rest == [
        "",
        "Queue   Waiting  Consumed by",
        "celery        0  \N{EN DASH}",
        "CommandError: No worker answered.",
    ]
    project.configure('CELERY_BROKER_URL = "redis://127.0.0.1:1/0"')
    assert "No snapshot: BrokerUnavailable" in at_the_hour()


def worker_and_probes() -> tuple[str, dict[str, str]]:
    """The worker's command, and each probe's as a shell in the container gets it."""
    docker, kubernetes = (yaml.safe_load(b) for b in Recipe("Probes of containers").blocks)
    service = docker["services"]["worker"]
    (container,) = kubernetes["containers"]
    assert container["command"] == shlex.split(service["command"])
    probes = {"docker": service["healthcheck"]["test"].replace("$$", "$")}
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        sh, option, probes[name] = container[name]["exec"]["command"]
        assert (sh, option) == ("sh", "-c")
    return service["command"], probes


def test_recipe__probes(project: Project) -> None:
    command, probes = worker_and_probes()
    path = f"{project.python.parent}:{os.environ['PATH']}"
    env = {**environment(), "PATH": path, "HOSTNAME": socket.gethostname()}

    def healthy() -> set[str]:
        # At once: most of the time they wait.
        running = {
            name: subprocess.Popen(
                ["sh", "-c", probe],
                cwd=project.folder,
                env=env,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for name, probe in probes.items()
        }
        return {name for name, process in running.items() if process.wait(60) == 0}

    assert healthy() == set()
    args = shlex.split(command)
    with project.worker(*args[args.index("worker") + 1 :]) as process:
        assert healthy() == set(probes)
        process.freeze()
        assert healthy() == set()
        project.configure('CELERY_BROKER_URL = "redis://127.0.0.1:1/0"')
        # Nobody is restarted because the broker is away.
        assert healthy() == {"docker", "startupProbe", "livenessProbe"}
