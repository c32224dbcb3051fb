"""Projects by ``startproject``, in which the built wheel is put to use as a user would do it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.processes import ROOT, Process, wait_until

README = (ROOT / "README.md").read_text()
STAFF = {"username": "staff", "password": "x", "is_staff": True}
PLAIN = {"username": "plain", "password": "x"}

#: The packages are installed without bytecode: each module is compiled once, not each time.
BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}

# From Celery's "First steps with Django".
CELERY = """
import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

app = Celery("shop")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
"""
INIT = """
from .celery import app as celery_app

__all__ = ("celery_app",)
"""


def readme_lines(name: str) -> str:
    """Return what the README adds to a list, such as ``INSTALLED_APPS``."""
    found = re.search(rf"^{name} = \[\n(.*?)^\]", README, re.MULTILINE | re.DOTALL)
    assert found, f"the README adds nothing to {name}"
    return found[1].replace("    # …\n", "")


class Recipe:
    """The code under a heading of ``docs/recipes.md``."""

    def __init__(self, heading: str) -> None:
        text = (ROOT / "docs" / "recipes.md").read_text()
        found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
        assert found, f"there is no recipe {heading!r}"
        self.blocks = re.findall(r"^```\w+\n(.*?)^```", found[1], re.MULTILINE | re.DOTALL)

    def add_to(self, project: Project, **changes: str) -> None:
        """Append each block to the file that its first line names."""
        for block in self.blocks:
            name, code = re.fullmatch(r"# (\S+)\n(.*)", block, re.DOTALL).groups()  # type: ignore[union-attr]
            for old, new in changes.items():
                assert old in code
                code = code.replace(old, new)
            with (project.folder / name).open("a") as file:
                file.write(f"\n{code}")


def environment() -> dict[str, str]:
    """Return this process's, without what leads to these tests' own project."""
    ours = ("DJANGO_SETTINGS_MODULE", "PYTHONPATH", *BYTECODE)
    return {name: value for name, value in os.environ.items() if name not in ours}


def run(*args: str | Path, cwd: Path, stdin: str = "", **env: str) -> str:
    """Run a program; return its standard output, fail with all of it."""
    done = subprocess.run(
        args,
        cwd=cwd,
        env={**environment(), **env},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip_install(python: Path, *args: str | Path) -> None:
    """Install into a Python's environment, which need not have a pip of its own."""
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    # Without bytecode of what no test imports: half the time.
    run(*pip, "install", "--quiet", "--no-compile", "--retries", "0", *args, cwd=ROOT)


def reach_index() -> None:
    """Skip the test where pip reaches no package index."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--retries", "0", "--no-deps"]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*command, "--dest", folder, "djangorestframework"],
            capture_output=True,
            text=True,
            check=False,
        )
    if "No matching distribution" in done.stderr:
        pytest.skip("pip reaches no package index")


def install_wheel(folder: Path, wheel: Path) -> Path:
    """Make a virtual environment with a wheel and its requirements; return its Python."""
    reach_index()
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=ROOT)
    python = folder / "bin" / "python"
    pip_install(python, wheel)
    return python


class Project:
    """A project by ``startproject``, with Celery set up by Celery's documentation."""

    def __init__(self, python: Path, folder: Path, broker_url: str) -> None:
        self.python = python
        self.folder = folder
        self.settings = folder / "shop" / "settings.py"
        self.urls = folder / "shop" / "urls.py"
        run(python, "-m", "django", "startproject", "shop", folder, cwd=folder)
        (folder / "shop" / "celery.py").write_text(CELERY)
        (folder / "shop" / "__init__.py").write_text(INIT)
        self.configure(f"CELERY_BROKER_URL = {broker_url!r}")
        #: The environment's variables that its programs get beside the usual ones.
        self.env: dict[str, str] = {}

    def add_endpoint(self) -> None:
        """Do as the README says."""
        self.insert(self.settings, "INSTALLED_APPS = [\n", readme_lines("INSTALLED_APPS"))
        self.insert(self.urls, "urlpatterns = [\n", readme_lines("urlpatterns"))
        self.insert(self.urls, "\nfrom django.urls import ", "include, ")

    def add_app(self, name: str) -> None:
        self.insert(self.settings, "INSTALLED_APPS = [\n", f"    {name!r},\n")

    def add_path(self, line: str) -> None:
        self.insert(self.urls, "urlpatterns = [\n", f"    {line},\n")

    def configure(self, text: str) -> None:
        with self.settings.open("a") as file:
            file.write(f"\n{text}\n")

    def insert(self, path: Path, after: str, text: str) -> None:
        before, found, rest = path.read_text().partition(after)
        assert found, f"{path} has no {after!r}"
        path.write_text(before + found + text + rest)

    @contextmanager
    def worker(self, *args: str) -> Iterator[Process]:
        """A Celery worker of the project."""
        log = self.folder / "worker.log"
        command = [
            str(self.python),
            "-m",
            "celery",
            "-A",
            "shop",
            "worker",
            "-l",
            "INFO",
            "-c",
            "1",
        ]
        env = {
            "PYTHONPATH": str(self.folder),
            "DJANGO_SETTINGS_MODULE": "shop.settings",
            **BYTECODE,
        }
        process = Process([*command, *args], log=log, env=env)
        try:
            wait_until(lambda: " ready." in log.read_text(), seconds=30, what=f"{log}")
            # On Redis it says so shortly before it listens to commands.
            run(self.python, "-m", "celery", "-A", "shop", "status", "-t", "5", cwd=self.folder)
            yield process
        finally:
            process.stop()

    def manage(self, *args: str) -> str:
        return run(self.python, "manage.py", *args, cwd=self.folder, **self.env)

    def visit(self, *paths: str, **asked: Any) -> dict[str, Any]:
        """Run the checks, then ask; see ``tests/visit.py``."""
        asked = {"users": {"staff": STAFF, "plain": PLAIN}, "paths": paths, **asked}
        seen: dict[str, Any] = json.loads(
            run(
                *(self.python, "-W", "error", "-"),
                cwd=self.folder,
                stdin=(ROOT / "tests" / "visit.py").read_text(),
                VISIT=json.dumps(asked),
                DJANGO_SETTINGS_MODULE="shop.settings",
                **self.env,
            )
        )
        assert Path(seen["file"]).is_relative_to(self.python.parent.parent)
        assert seen["imported"] == []
        assert seen["at_start"] == {"connected": [], "threads": 1}
        return seen["answers"]  # type: ignore[no-any-return]
