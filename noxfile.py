"""The commands of every day, and the tests with every version that is claimed.

    nox                  lint, types and the quick tests, with the tools of this environment
    nox -s format        formats the code
    nox -s tests         all tests, with the versions of this environment
    nox -s versions      the oldest and the newest versions, and workers of each version of Celery
    nox -s pythons       the newest versions on the other Pythons of this machine
    nox -s coverage      all tests; fails if a line or a branch of the package is not run
    nox -s docs          the documentation site

The tests need redis-server. They use RabbitMQ too if CELERY_STATS_TEST_AMQP_URL names one.
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

#: The newest Python that is looked for. Raise it when the packages support a newer one.
NEWEST_MINOR = 14

TEMPLATES = "celery_stats/templates"


def newest_python() -> str:
    """Return the newest Python in PATH or from pyenv; this one if none of them is newer."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    for minor in range(NEWEST_MINOR, sys.version_info.minor, -1):
        name = f"python3.{minor}"
        found = [shutil.which(name), *map(str, sorted(pyenv.glob(f"3.{minor}.*/bin/{name}")))]
        for python in filter(None, found):
            # pyenv has a launcher for every version, also for those that are not installed.
            done = subprocess.run([python, "--version"], capture_output=True, check=False)  # noqa: S603
            if done.returncode == 0:
                return python
    return sys.executable


nox.options.sessions = ["lint", "types", "quick"]

#: The oldest versions that pyproject.toml permits, with the kombu of Celery 5.4's time.
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

THE_APP = ["--editable", "."]

#: What workers of each version have installed, with the kombu of its time. The app does not
#: support Celery 5.3, so those workers are only started without it.
WORKERS = {
    "5.3": ["celery[redis]==5.3.*", "kombu==5.3.*"],
    "5.4": ["celery[redis]==5.4.*", "kombu==5.4.*", *THE_APP],
    "5.5": ["celery[redis]==5.5.*", "kombu==5.5.*", *THE_APP],
    "5.6": ["celery[redis]==5.6.*", "kombu==5.6.*", *THE_APP],
    "newest": ["celery[redis]", *THE_APP],
}

#: Test modules that do not depend on these versions, or that need many other packages.
LEFT_OUT = (
    "demo",
    "faults",
    "hostile",
)

#: The arguments of pytest: all tests on Redis, and fleets of several versions on every broker.
ARGUMENTS = [
    "tests",
    *(f"--ignore=tests/test_{name}.py" for name in LEFT_OUT),
    *("-k", "test_mixed_fleet or not (amqp or filesystem)"),
]

#: The arguments for the tests of the built package. .ci/run runs them with newer versions.
WHEEL = ["--ignore=tests/dropin/test_recipes.py", "--ignore=tests/dropin/test_setting_up.py"]
WHEEL += ["-m", "not browser and not clients"]

SHOWN = ("Django", "djangorestframework", "drf-spectacular", "celery", "kombu", "redis")


@nox.session(python=False)
def format(session: nox.Session) -> None:  # noqa: A001 - the name of the session
    """Format the code and the templates."""
    run_tool(session, "ruff", "format", ".")
    run_tool(session, "djlint", TEMPLATES, "--reformat", "--quiet")


@nox.session(python=False)
def lint(session: nox.Session) -> None:
    """Find mistakes, and imports that the layers forbid."""
    run_tool(session, "ruff", "check", ".")
    run_tool(session, "ruff", "format", "--check", ".")
    run_tool(session, "lint-imports")
    run_tool(session, "djlint", TEMPLATES, "--check", "--lint", "--quiet")


@nox.session(python=False)
def types(session: nox.Session) -> None:
    """Check the types."""
    run_tool(session, "mypy")


@nox.session(python=False)
def quick(session: nox.Session) -> None:
    """Run the tests that need no broker."""
    run_tool(session, "python", "-m", "pytest", "-m", "quick", "-n", "2", *session.posargs)


@nox.session(python=False)
def tests(session: nox.Session) -> None:
    """Run all tests that need nothing but a broker."""
    run_tool(session, "python", "-m", "pytest", *session.posargs)


@nox.session
@nox.parametrize("python,client", [(sys.executable, "oldest"), (newest_python(), "newest")])
def versions(session: nox.Session, client: str) -> None:
    """Run the tests on Redis and of the built package, with workers of every version."""
    if client == "newest" and session.python == sys.executable:
        session.warn("No newer Python is installed: the newest Django may need one.")
    env = install(session, client)
    pythons = {version: worker(session, version) for version in WORKERS}
    env["CELERY_STATS_TEST_WORKERS"] = json.dumps(pythons)
    wheel = WHEEL if client == "oldest" else []
    test(session, client, *ARGUMENTS, *wheel, env=env)


@nox.session(python=["3.10", "3.12", "3.13"])
def pythons(session: nox.Session) -> None:
    """Run the tests on Redis with the newest versions that this Python can use."""
    env = install(session, "newest")
    test(session, str(session.python), *ARGUMENTS, env=env)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run all tests; fail if a line or a branch of the package is not run."""
    session.install("--editable", ".[test]", "pytest-cov>=7", "coverage>=7.10")
    session.run("python", "-m", "pytest", "--cov", "--cov-report=term", "--cov-fail-under=100")


@nox.session
def docs(session: nox.Session) -> None:
    """Make the documentation site in ``build/docs``; fail for a broken link."""
    session.install("--editable", ".[docs]")
    session.run("sphinx-build", "-W", "--keep-going", "-q", "-c", "docs", ".", "build/docs")


@nox.session(python=False)
def table(session: nox.Session) -> None:
    """Print what ran, and how it ended."""
    rows = [json.loads(path.read_text()) for path in sorted(results(session).glob("*.json"))]
    cells = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        sys.stdout.write(f"{line.rstrip()}\n")


def run_tool(session: nox.Session, name: str, *args: str) -> None:
    """Run a program of the environment that nox itself is installed in."""
    session.run(str(Path(sys.executable).with_name(name)), *args, external=True)


def install(session: nox.Session, client: str) -> dict[str, str]:
    """Install the package and what its tests need; return the variables that fix the versions."""
    constraints = Path(session.create_tmp(), "constraints.txt").resolve()
    constraints.write_text("\n".join(CLIENTS[client]))
    env = {"PIP_CONSTRAINT": str(constraints)}
    packages = ["--editable", ".[test]", "celery[redis]", "hatchling", "hatch-fancy-pypi-readme"]
    session.install(*packages, env=env)
    return env


def worker(session: nox.Session, version: str) -> str:
    """Make an environment for workers of a version; return its Python."""
    folder = Path(session.cache_dir, "workers", version)
    python = folder / "bin" / "python"
    if not python.exists():
        session.run(sys.executable, "-m", "virtualenv", "--quiet", str(folder), external=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-compile"]
    session.run(*pip, *WORKERS[version], external=True)
    return str(python)


def test(session: nox.Session, client: str, *args: str, env: dict[str, str]) -> None:
    """Run pytest, and write for the table what ran, and how it ended."""
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
