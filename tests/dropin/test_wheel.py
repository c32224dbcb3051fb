"""The built wheel in projects of its own: what the README says to add, and nothing else."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.processes import ROOT
from tests.projects import (
    CELERY,
    Project,
    run,
)

pytestmark = pytest.mark.dropin


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
