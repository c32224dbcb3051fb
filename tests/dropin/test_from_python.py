"""``docs/from-python.md``, done as it says; and its names, as a type checker sees them."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.processes import ROOT
from tests.projects import Project, pip_install, run

pytestmark = pytest.mark.dropin

BLOCKS = dict(
    re.findall(
        r"^```python\n# (\S+)\n(.*?)^```",
        (ROOT / "docs" / "from-python.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
)

ASK = """
import asyncio
from shop.health import Workers
from shop.tasks import mail_missing_workers
print(asyncio.run(Workers().get_result()).error)
print(mail_missing_workers())
"""


@pytest.fixture
def shop(project: Project, python: Path) -> Project:
    """A project with the code of every example."""
    others = project.folder / "others"
    packages = ("django-health-check>=4", "dnspython")
    pip_install(python, "--no-deps", "--target", others, *packages)
    project.env["PYTHONPATH"] = str(others)
    for name, code in BLOCKS.items():
        (project.folder / name).write_text(code)
    return project


def test_examples__do_what_they_say(shop: Project, worker: str) -> None:
    assert sorted(BLOCKS) == ["shop/health.py", "shop/tasks.py", "shop/tests.py", "shop/views.py"]
    assert shop.manage("test", "shop") is not None
    # Django says before it what it has imported, from 5.2 on.
    assert shop.manage("shell", "-c", ASK).endswith("None\nNone\n")


@pytest.mark.skipif(find_spec("mypy") is None, reason="mypy is not installed")
def test_public_names__typed_from_the_wheel(python: Path, tmp_path: Path) -> None:
    code = tmp_path / "names.py"
    code.write_text((ROOT / "tests" / "public_names.py").read_text())
    command = (sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--config-file=")
    told = run(*command, "--python-executable", python, code, cwd=tmp_path)
    assert told == "Success: no issues found in 1 source file\n"
