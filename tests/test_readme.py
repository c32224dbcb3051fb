"""What the README says of the settings and of how to test, held against what is."""

from __future__ import annotations

import ast
import json
import re

import pytest

from celery_stats.conf import DEFAULTS
from tests.support import ROOT

README = (ROOT / "README.md").read_text()


def test_settings_table__is_conf() -> None:
    section = README.split("\n## Settings\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([A-Z_]+)` \| `(.+?)` \|", section, re.MULTILINE)
    assert {name: ast.literal_eval(default) for name, default in rows} == DEFAULTS


@pytest.mark.parametrize("extra", ["demo", "test"])
def test_commands__set_up_all_they_need(extra: str) -> None:
    (command,) = re.findall(rf"^    (python3 -m venv .*\[{extra}\].*)$", README, re.MULTILINE)
    assert command.startswith(
        f"python3 -m venv .venv && .venv/bin/pip install -e '.[{extra}]' && .venv/bin/python "
    )


def test_ci__runs_the_test_command_of_the_readme() -> None:
    """It finds the command by its form; this is that form."""
    pattern = re.search(r"sed -n 's/(.+?)/\\1/p' README", (ROOT / ".ci" / "run").read_text())
    assert pattern is not None
    basic = pattern[1].replace(r"\(", "(").replace(r"\)", ")")
    assert len(re.findall(basic, README, re.MULTILINE)) == 1


def test_clients__the_versions_that_are_tried() -> None:
    (sentence,) = re.findall(
        r"^Tried in the tests: (.+?), curl\.", README, re.MULTILINE | re.DOTALL
    )
    clients = ROOT / "tests" / "clients"
    installed = dict(re.findall(r"(\S+)==(\S+)", (clients / "requirements.txt").read_text()))
    node = json.loads((clients / "package.json").read_text())["devDependencies"]
    installed["openapi-typescript"] = node["openapi-typescript"]
    assert dict(re.findall(r"(\S+) ([0-9.]+)", sentence)) == installed
