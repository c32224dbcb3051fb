"""The built wheel in projects of its own: what the README says to add, and nothing else."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen
from uuid import uuid4

import kombu
import pytest
import yaml

from tests.brokers import AMQP_URL, RedisServer
from tests.packages import build
from tests.processes import ROOT, Process, free_port, wait_until
from tests.projects import (
    BYTECODE,
    CELERY,
    Project,
    Recipe,
    environment,
    install_wheel,
    pip_install,
    run,
)

pytestmark = pytest.mark.dropin

#: Beside the environment of the wheel, which has nothing but what the wheel requires.
OTHERS = (
    *("djangorestframework-simplejwt", "pyjwt"),
    *("gunicorn", "packaging", "gevent", "greenlet", "zope.event", "zope.interface"),
)


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment with the wheel and what it requires, and nothing else."""
    folder = tmp_path_factory.mktemp("dropin")
    return install_wheel(folder / "venv", build(folder / "dist", "wheel"))


@pytest.fixture(scope="session")
def others(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what some projects have beside the wheel; for PYTHONPATH."""
    folder = tmp_path_factory.mktemp("others")
    pip_install(python, "--no-deps", "--target", folder, *OTHERS)
    return folder


@pytest.fixture(scope="session")
def broker_url(redis_server: RedisServer) -> str:
    return f"redis://127.0.0.1:{redis_server.port}/999"


@pytest.fixture
def make_project(python: Path, tmp_path: Path, broker_url: str) -> Callable[..., Project]:
    return lambda: Project(python, tmp_path, broker_url)


@pytest.fixture
def project(make_project: Callable[..., Project]) -> Project:
    project = make_project()
    project.add_endpoint()
    return project


@pytest.fixture(scope="session")
def worker(
    python: Path, broker_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The name of a worker of a project without the endpoint, for all projects."""
    project = Project(python, tmp_path_factory.mktemp("worker"), broker_url)
    name = "shop@dropin"
    with project.worker("--hostname", name):
        yield name


def test_wheel__brings_all_that_redis_needs(project: Project, worker: str) -> None:
    """The worker, too, runs with the wheel and its requirements, and nothing else."""
    pip = (sys.executable, "-m", "pip", "--python", project.python)
    listed = json.loads(run(*pip, "list", "--format", "json", cwd=project.folder))
    # One that asks for packaging, one that comes along with other environments.
    assert not {"gunicorn", "setuptools"} & {package["name"] for package in listed}
    assert project.manage("celery_stats", "--field", "stats").startswith("1 worker answered")


def test_readme_lines_alone__staff_only(project: Project, worker: str) -> None:
    assert project.manage("check") == "System check identified no issues (0 silenced).\n"
    assert project.manage("makemigrations", "--check", "--dry-run") == "No changes detected\n"
    assert project.visit("/api/celery-stats/") == {
        "/api/celery-stats/": {
            "anonymous": [403, None],
            "staff": [200, [worker]],
            "plain": [403, None],
        }
    }


def test_any_path__whatever_the_versioning(project: Project, worker: str) -> None:
    project.add_path('path("", include("celery_stats.urls", namespace="root"))')
    project.add_path('path("<str:version>/", include("celery_stats.urls", namespace="deep"))')
    paths = ("/celery-stats/", "/api/celery-stats/", "/v2/celery-stats/")
    for scheme in ("URLPath", "Namespace", "AcceptHeader"):
        project.configure(
            "REST_FRAMEWORK = {'DEFAULT_VERSIONING_CLASS': "
            f"'rest_framework.versioning.{scheme}Versioning', 'ALLOWED_VERSIONS': ['v1']}}"
        )
        answers = project.visit(*paths)
        assert [found["staff"] for found in answers.values()] == [[200, [worker]]] * 3
        assert [found["plain"] for found in answers.values()] == [[403, None]] * 3


def test_schema_view__right(project: Project) -> None:
    project.add_app("drf_spectacular")
    project.configure(
        'REST_FRAMEWORK = {"DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema"}'
    )
    told = yaml.safe_load(project.manage("spectacular", "--validate", "--fail-on-warn"))
    known = yaml.safe_load((ROOT / "tests" / "schema.yml").read_text())
    operation, expected = (
        {k: v for k, v in schema["paths"]["/api/celery-stats/"]["get"].items() if k != "security"}
        for schema in (told, known)
    )
    # The extra for metrics is not installed.
    (format_parameter,) = (each for each in expected["parameters"] if each["name"] == "format")
    format_parameter["schema"]["enum"].remove("openmetrics")
    assert operation == expected
    assert told["components"]["schemas"] == known["components"]["schemas"]


def test_custom_user_without_is_staff(make_project: Callable[..., Project], worker: str) -> None:
    project = make_project()
    project.add_endpoint()
    people = project.folder / "people"
    people.mkdir()
    (people / "__init__.py").touch()
    (people / "models.py").write_text("""
from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.db import models


class Manager(BaseUserManager):
    def create_user(self, email, password=None, **fields):
        person = self.model(email=email, **fields)
        person.set_password(password)
        person.save()
        return person


class Person(AbstractBaseUser):
    email = models.EmailField(unique=True)
    is_support = models.BooleanField(default=False)
    objects = Manager()
    USERNAME_FIELD = "email"
""")
    project.settings.write_text(
        project.settings.read_text().replace("    'django.contrib.admin',\n", "")
    )
    project.urls.write_text(re.sub(r".*admin.*\n", "", project.urls.read_text()))
    project.add_app("people")
    project.configure('AUTH_USER_MODEL = "people.Person"')
    project.manage("makemigrations", "people")
    users = {
        "support": {"email": "support@example.com", "is_support": True},
        "plain": {"email": "plain@example.com"},
    }
    assert project.visit("/api/celery-stats/", users=users) == {
        "/api/celery-stats/": {
            "anonymous": [403, None],
            "support": [200, [worker]],
            "plain": [403, None],
        }
    }


def test_jwt_only(project: Project, worker: str, others: Path) -> None:
    project.env["PYTHONPATH"] = str(others)
    project.configure(
        'REST_FRAMEWORK = {"DEFAULT_AUTHENTICATION_CLASSES": '
        '["rest_framework_simplejwt.authentication.JWTAuthentication"]}\n'
        'SECRET_KEY = "0123456789abcdef" * 4'
    )
    project.insert(
        project.urls,
        "\nfrom django.urls import include, path\n",
        "from rest_framework_simplejwt.views import TokenObtainPairView\n",
    )
    project.add_path('path("api/token/", TokenObtainPairView.as_view())')
    assert project.visit("/api/celery-stats/", token="/api/token/") == {
        "/api/celery-stats/": {
            "anonymous": [401, None],
            "staff": [200, [worker]],
            "plain": [403, None],
        }
    }


def test_celery_app_that_is_not_the_current_one(
    make_project: Callable[..., Project], worker: str
) -> None:
    project = make_project()
    project.add_endpoint()
    app = CELERY.replace('Celery("shop")', 'Celery("shop", set_as_current=False)')
    (project.folder / "shop" / "celery.py").write_text(app)
    (project.folder / "shop" / "__init__.py").write_text("")
    (found,) = project.visit("/api/celery-stats/").values()
    assert found["staff"] != [200, [worker]]  # the current app has Celery's default broker
    project.configure('DRF_CELERY_STATS = {"CELERY_APP": "shop.celery:app"}')
    (found,) = project.visit("/api/celery-stats/").values()
    assert found["staff"] == [200, [worker]]
    assert project.manage("celery_stats", "--field", "stats").startswith("1 worker answered")


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


def test_recipe__twice(project: Project, worker: str) -> None:
    Recipe("Twice").add_to(project)
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
        "Queue   Waiting",
        "celery        0",
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
