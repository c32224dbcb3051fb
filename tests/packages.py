"""The package as it is published."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.processes import ROOT


def run(*args: str | Path, folder: Path = ROOT) -> str:
    """Run a program of this Python's; return its output, fail with it."""
    done = subprocess.run(
        [sys.executable, "-m", *args],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def build(folder: Path, target: str, source: Path = ROOT) -> Path:
    """Build the ``wheel`` or the ``sdist`` into an empty folder."""
    if find_spec("hatchling") is None or find_spec("hatch_fancy_pypi_readme") is None:
        pytest.skip("hatchling and its plugin, which build the package, are not installed")
    run("hatchling", "build", "--target", target, "--directory", folder, folder=source)
    (built,) = folder.iterdir()
    return built
