"""The versions that are claimed, run: ``nox`` runs them and ends with a table.

The newest versions run on the newest Python that the machine has, in PATH or from pyenv, since
Django's newest takes no other; the rest runs on the Python at hand. ``nox -s pythons`` runs those
beside it that are installed, ``nox -s coverage`` measures the tests. Needs redis-server, and tries
RabbitMQ too where CELERY_STATS_TEST_AMQP_URL names one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import nox

#: The newest Python that is looked for; a newer one is added when its packages are there.
NEWEST_MINOR = 14


def newest_python() -> str:
    """Return the newest Python that is installed, and no older one than that at hand."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    for minor in range(NEWEST_MINOR, sys.version_info.minor, -1):
        name = f"python3.{minor}"
        found = [shutil.which(name), *map(str, sorted(pyenv.glob(f"3.{minor}.*/bin/{name}")))]
        for python in filter(None, found):
            # A shim of pyenv's may stand for a version that is not installed.
            done = subprocess.run([python, "--version"], capture_output=True, check=False)  # noqa: S603
            if done.returncode == 0:
                return python
    return sys.executable


nox.options.sessions = ["versions"]

#: The floors of pyproject.toml, with the kombu of Celery 5.4's time. The newest are unbound.
CLIENTS = {
    "oldest": [
        "celery==5.4.*",
        "django==4.2.*",
        "djangorestframework==3.15.*",
        "drf-spectacular==0.27.*",
        "kombu==5.3.*",
        "redis==5.0.*",
    ],
    "newest": [],
}

#: What a worker with this app has installed besides Celery.
THE_APP = ["--editable", "."]

#: Workers, each with the kombu of its time. The app does not support Celery 5.3, so these
#: workers are only started without it; the others are started with the app and without it.
WORKERS = {
    "5.3": ["celery[redis]==5.3.*", "kombu==5.3.*"],
    "5.4": ["celery[redis]==5.4.*", "kombu==5.4.*", *THE_APP],
    "5.5": ["celery[redis]==5.5.*", "kombu==5.5.*", *THE_APP],
    "5.6": ["celery[redis]==5.6.*", "kombu==5.6.*", *THE_APP],
    "newest": ["celery[redis]", *THE_APP],
}

#: What does not depend on these versions, or needs much beside them.
LEFT_OUT = (
    "demo",
    "faults",
    "hostile",
)

#: pytest's arguments: everything on Redis, and fleets of several versions on every broker.
ARGUMENTS = [
    "tests",
    *(f"--ignore=tests/test_{name}.py" for name in LEFT_OUT),
    *("-k", "test_mixed_fleet or not (amqp or filesystem)"),
]

#: The built package in projects of its own. With newer versions .ci/run tests it.
WHEEL = ["--ignore=tests/dropin/test_recipes.py", "--ignore=tests/dropin/test_setting_up.py"]
WHEEL += ["-m", "not browser and not clients"]

SHOWN = ("Django", "djangorestframework", "drf-spectacular", "celery", "kombu", "redis")


@nox.session
@nox.parametrize("python,client", [(sys.executable, "oldest"), (newest_python(), "newest")])
def versions(session: nox.Session, client: str) -> None:
    """The tests on Redis, the built package, and workers of every version on one broker."""
    if client == "newest" and session.python == sys.executable:
        session.warn("No newer Python is installed: the newest Django may need one.")
    env = install(session, client)
    pythons = {version: worker(session, version) for version in WORKERS}
    env["CELERY_STATS_TEST_WORKERS"] = json.dumps(pythons)
    wheel = WHEEL if client == "oldest" else []
    test(session, client, *ARGUMENTS, *wheel, env=env)


@nox.session(python=["3.10", "3.12", "3.13"])
def pythons(session: nox.Session) -> None:
    """The tests on Redis with the newest versions that this Python takes."""
    env = install(session, "newest")
    test(session, str(session.python), *ARGUMENTS, env=env)


@nox.session
def coverage(session: nox.Session) -> None:
    """All tests, with every line and branch of the package taken."""
    session.install("--editable", ".[test]", "pytest-cov>=7", "coverage>=7.10")
    session.run("python", "-m", "pytest", "--cov", "--cov-report=term", "--cov-fail-under=100")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation site, in ``build/docs``; a broken link is an error."""
    session.install("--editable", ".[docs]")
    session.run("sphinx-build", "-W", "--keep-going", "-q", "-c", "docs", ".", "build/docs")


@nox.session(python=False)
def table(session: nox.Session) -> None:
    """What ran, and how it ended."""
    rows = [json.loads(path.read_text()) for path in sorted(results(session).glob("*.json"))]
    cells = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        sys.stdout.write(f"{line.rstrip()}\n")


def install(session: nox.Session, client: str) -> dict[str, str]:
    """Install the package and its tests; return the environment that keeps to the versions."""
    constraints = Path(session.create_tmp(), "constraints.txt").resolve()
    constraints.write_text("\n".join(CLIENTS[client]))
    env = {"PIP_CONSTRAINT": str(constraints)}
    packages = ["--editable", ".[test]", "celery[redis]", "hatchling", "hatch-fancy-pypi-readme"]
    session.install(*packages, env=env)
    return env


def worker(session: nox.Session, version: str) -> str:
    """Return the Python of an environment with a Celery version and, but for 5.3, the app."""
    folder = Path(session.cache_dir, "workers", version)
    python = folder / "bin" / "python"
    if not python.exists():
        session.run(sys.executable, "-m", "virtualenv", "--quiet", str(folder), external=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-compile"]
    session.run(*pip, *WORKERS[version], external=True)
    return str(python)


def test(session: nox.Session, client: str, *args: str, env: dict[str, str]) -> None:
    """Run pytest and write down what ran, and how it ended."""
    session.notify("table")
    report = Path(session.create_tmp(), "report.xml")
    session.run(
        *("python", "-m", "pytest", *args, f"--junitxml={report}"), env=env, success_codes=[0, 1]
    )
    suite = ElementTree.parse(report).find("testsuite")  # noqa: S314 - pytest's own
    assert suite is not None
    number = {name: int(suite.attrib[name]) for name in ("tests", "skipped", "failures", "errors")}
    failed = number["failures"] + number["errors"]
    ends = [f"{number['tests'] - failed - number['skipped']} passed"]
    ends += [f"{failed} failed"] * bool(failed) + [f"{number['skipped']} skipped"]
    listed = session.run("python", "-m", "pip", "list", "--format=json", silent=True, log=False)
    python = session.run("python", "--version", silent=True, log=False)
    found = {package["name"]: package["version"] for package in json.loads(str(listed))}
    row = {
        "": f"{re.split('[-(]', session.name)[0]} {client}",
        "Python": str(python).split()[-1],
        **{name: found[name] for name in SHOWN},
        "result": f"{', '.join(ends)} in {float(suite.attrib['time']):.0f} s",
    }
    Path(results(session), f"{row['']}.json").write_text(json.dumps(row))
    if failed:
        session.error(row["result"])


def results(session: nox.Session) -> Path:
    folder = Path(session.cache_dir, "results")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
