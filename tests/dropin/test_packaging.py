"""What is published, and what is not."""

from __future__ import annotations

import email.message
import email.parser
import re
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import pytest

import celery_stats
from tests.packages import build, run
from tests.processes import ROOT

pytestmark = pytest.mark.dropin

PACKAGE = ROOT / "celery_stats"

#: Each missed by somebody if it were left out: type checkers, the page, ``manage.py``, the schema.
NEEDED = {
    "celery_stats/apps.py",
    "celery_stats/management/commands/celery_stats.py",
    "celery_stats/py.typed",
    "celery_stats/schema.yml",
    "celery_stats/static/celery_stats/page.css",
    "celery_stats/static/celery_stats/page.js",
    "celery_stats/templates/celery_stats/page.html",
}


def sources() -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("sdist"), "sdist")


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        return email.parser.Parser().parsestr(archive.read(name).decode())


def test_wheel__the_package_and_its_licence_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = f"drf_celery_stats-{celery_stats.__version__}.dist-info"
    about = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "licenses/LICENSE")}
    assert names == sources() | about
    assert names >= NEEDED
    assert wheel.name == f"drf_celery_stats-{celery_stats.__version__}-py3-none-any.whl"


def test_sdist__the_package_and_its_papers_alone(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {PurePosixPath(name) for name in archive.getnames()}
    inside = {name.relative_to(name.parts[0]).as_posix() for name in names}
    # The tests are not: they need the demo project, and a clone has both.
    papers = {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "PKG-INFO"}
    assert inside - {".gitignore"} == sources() | papers


def test_wheel_from_the_sdist__the_same(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        # Not an argument: Debian 12's Python 3.11.2 has none.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(tmp_path)
    (unpacked,) = tmp_path.iterdir()
    again = build(tmp_path / "wheel", "wheel", source=unpacked)
    assert again.read_bytes() == wheel.read_bytes()


def test_metadata__complete(metadata: email.message.Message) -> None:
    assert metadata["Version"] == celery_stats.__version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["Keywords"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert str(metadata.get_payload()).startswith("# drf-celery-stats")
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])


def test_description__no_link_that_leads_nowhere(metadata: email.message.Message) -> None:
    text = str(metadata.get_payload())
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert links
    assert [link for link in links if not link.startswith("https://")] == []
    assert "Setting up" in text
    assert "| Recipes |" in text


def test_classifiers__the_pythons_that_nox_runs(metadata: email.message.Message) -> None:
    noxfile = (ROOT / "noxfile.py").read_text()
    (run_by_nox,) = re.findall(r"^@nox\.session\(python=\[(.*)\]\)$", noxfile, re.MULTILINE)
    classifiers = metadata.get_all("Classifier", [])
    claimed = [c.rpartition(" ")[2] for c in classifiers if "Python :: 3." in c]
    # The other sessions run on the Python at hand.
    assert {*re.findall(r"[\d.]+", run_by_nox), "3.11"} == set(claimed)


def test_requirements__what_is_imported(metadata: email.message.Message) -> None:
    given = metadata.get_all("Requires-Dist", [])
    names = {re.split("[^a-z-]", line)[0] for line in given if "extra ==" not in line}
    # kombu comes with Celery, which says which of them go together; PyYAML with drf-spectacular.
    # redis and packaging are what kombu imports for Redis.
    assert names == {
        *("celery", "django", "djangorestframework", "drf-spectacular"),
        *("packaging", "redis"),
    }


@pytest.mark.skipif(find_spec("twine") is None, reason="twine is not installed")
def test_twine_check__passes(wheel: Path, sdist: Path) -> None:
    assert run("twine", "--no-color", "check", "--strict", wheel, sdist).count("PASSED") == 2
