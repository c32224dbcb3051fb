"""``docker-compose.yml``, as far as it can be held against the project without Docker."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from tests.processes import ROOT, run_python

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def test_services__all_watched_and_restarted() -> None:
    assert list(SERVICES) == ["redis", "postgres", "web", "worker1", "worker2"]
    assert all(service["healthcheck"]["test"] for service in SERVICES.values())
    assert {service["restart"] for service in SERVICES.values()} == {"unless-stopped"}


def test_workers__probed_by_the_command_under_their_own_names() -> None:
    for name in ("worker1", "worker2"):
        started = re.search(r"--hostname (\S+)", SERVICES[name]["command"])
        assert started is not None
        assert SERVICES[name]["healthcheck"]["test"] == (
            f"python manage.py celery_stats --field stats --worker {started[1]} || [ $$? -eq 2 ]"
        )


def test_database__the_one_of_the_service() -> None:
    """What the web server and the workers get is what PostgreSQL was told, by Django's account."""
    database = SERVICES["postgres"]["environment"]
    url = SERVICES["web"]["environment"]["DJANGO_DATABASE_URL"]
    password = re.search(r"\$\{(POSTGRES_PASSWORD):\?[^}]*\}", url)
    assert password is not None
    code = "import json; from project import settings; print(json.dumps(settings.DATABASES))"
    done = run_python(code, DJANGO_DATABASE_URL=url.replace(password[0], "0f1e"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["default"] == {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": database["POSTGRES_DB"],
        "USER": database["POSTGRES_USER"],
        "PASSWORD": "0f1e",
        "HOST": "postgres",
        "PORT": None,
        "CONN_MAX_AGE": None,
        "CONN_HEALTH_CHECKS": True,
    }
    assert SERVICES["web"]["depends_on"]["postgres"] == {"condition": "service_healthy"}
