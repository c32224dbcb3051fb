"""The built wheel in an environment of its own, and projects that use it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.brokers import RedisServer
from tests.packages import build
from tests.projects import (
    Project,
    install_wheel,
    pip_install,
)

#: Beside the environment of the wheel, which has nothing but what the wheel requires.
OTHERS = (
    *("djangorestframework-simplejwt", "pyjwt"),
    *("gunicorn", "packaging", "gevent", "greenlet", "zope.event", "zope.interface"),
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the processes of pytest-xdist share, because an installation takes long."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "dropin"
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def once(path: Path) -> Iterator[bool]:
    """Tell whether a path has to be made; the other processes wait meanwhile."""
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = path.with_name(f"{path.name}.made")
        yield not made.exists()
        made.touch()


@pytest.fixture(scope="session")
def python(folder: Path) -> Path:
    """A fresh virtual environment with the wheel and what it requires, and nothing else."""
    venv = folder / "venv"
    with once(venv) as is_first:
        if is_first:
            install_wheel(venv, build(folder / "dist", "wheel"))
    return venv / "bin" / "python"


@pytest.fixture(scope="session")
def others(python: Path, folder: Path) -> Path:
    """A folder with what some projects have beside the wheel; for PYTHONPATH."""
    others = folder / "others"
    with once(others) as is_first:
        if is_first:
            pip_install(python, "--no-deps", "--target", others, *OTHERS)
    return others


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
