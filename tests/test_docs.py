"""The documents, compared with the code: links, commands, tables and numbers."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from typing import Any

import pytest
import yaml
from django.core.management import find_commands, get_commands

from benchmarks.presence import SITUATIONS
from celery_stats import query, renderers, report, sharing, worker
from celery_stats.conf import DEFAULTS
from celery_stats.control import broker, limits
from celery_stats.control.presence import Presence, amqp
from celery_stats.exceptions import ServiceUnavailable
from celery_stats.page import fleet as page
from celery_stats.page import tasks
from celery_stats.query import PARAMETERS
from celery_stats.shapes import FIELDS
from tests.processes import ROOT

PATHS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text() for path in PATHS if path.exists()
}
README = DOCUMENTS["README.md"]
CONTRIBUTING = DOCUMENTS["CONTRIBUTING.md"]
ENDPOINT = DOCUMENTS["docs/endpoint.md"]

every_document = pytest.mark.parametrize("name", sorted(DOCUMENTS))


def prose(text: str) -> str:
    """Return a document without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def section(text: str, heading: str) -> str:
    """Return what is under a heading, up to the next heading of any level."""
    found = re.search(
        rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", text, re.MULTILINE | re.DOTALL
    )
    assert found, f"there is no heading {heading!r}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """Return the cells of each row of the tables in a text, without the rows of headings."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rules = {
        number for number, row in enumerate(cells) if all(re.fullmatch(":?-+:?", c) for c in row)
    }
    return [row for number, row in enumerate(cells) if not {number, number + 1} & rules]


def anchors(text: str) -> set[str]:
    """Return the fragments of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


class TestLinks:
    @every_document
    def test_link__leads_to_a_file_and_a_heading(self, name: str) -> None:
        broken = []
        for link in re.findall(r"\]\(([^)\s]+)\)", prose(DOCUMENTS[name])):
            if re.match(r"https?:", link):
                continue
            path, _, fragment = link.partition("#")
            target = (ROOT / name).parent / path if path else ROOT / name
            if not target.exists() or (fragment and fragment not in anchors(target.read_text())):
                broken.append(link)
        assert broken == []

    def test_readme__leads_to_every_document(self) -> None:
        linked = set(re.findall(r"\]\(([\w./-]+\.md)\)", section(README, "More")))
        assert linked == DOCUMENTS.keys() - {"README.md"}


class TestCommands:
    @every_document
    def test_manage_py__the_command_exists(self, name: str) -> None:
        known = {*get_commands(), *find_commands(str(ROOT / "project" / "management"))}
        used = set(re.findall(r"manage\.py ([a-z_]+)", DOCUMENTS[name]))
        assert used - known == set()

    @every_document
    def test_nox__the_session_exists(self, name: str) -> None:
        noxfile = (ROOT / "noxfile.py").read_text()
        known = set(re.findall(r"^@nox\.\w+.*\ndef (\w+)\(session: nox", noxfile, re.MULTILINE))
        assert set(re.findall(r"nox -s (\w+)", DOCUMENTS[name])) - known == set()

    @every_document
    def test_benchmark__exists_and_has_the_options(self, name: str) -> None:
        used = re.findall(r"python (?:-m )?benchmarks[./](\w+)(?:\.py)?([^`\n]*)", DOCUMENTS[name])
        for module, arguments in used:
            code = (ROOT / "benchmarks" / f"{module}.py").read_text()
            for option in re.findall(r"--\w+", arguments):
                assert f'"{option}"' in code

    @pytest.mark.parametrize("extra", ["demo", "test"])
    def test_readme__sets_up_all_it_needs(self, extra: str) -> None:
        (command,) = re.findall(rf"^    (python3 -m venv .*\[{extra}\].*)$", README, re.MULTILINE)
        assert command.startswith(
            f"python3 -m venv .venv && .venv/bin/pip install -e '.[{extra}]' && .venv/bin/python "
        )

    def test_ci__runs_the_test_command_of_the_readme(self) -> None:
        """It finds the command by its form; this is that form."""
        pattern = re.search(r"sed -n 's/(.+?)/\\1/p' README", (ROOT / ".ci" / "run").read_text())
        assert pattern is not None
        basic = pattern[1].replace(r"\(", "(").replace(r"\)", ")")
        assert len(re.findall(basic, README, re.MULTILINE)) == 1


class TestReadme:
    def test_settings__are_those_of_conf(self) -> None:
        defaults = {
            key.strip("`"): ast.literal_eval(default.strip("`"))
            for key, default, _ in rows(section(README, "Settings"))
        }
        assert defaults == DEFAULTS
        assert list(defaults) == list(DEFAULTS)

    def test_requirements__are_those_of_the_package(self) -> None:
        project = (ROOT / "pyproject.toml").read_text()
        floors = dict(re.findall(r'^  "([a-z-]+)>=([\d.]+)",$', project, re.MULTILINE))
        (python,) = re.findall(r'^requires-python = ">=([\d.]+)"$', project, re.MULTILINE)
        table = {name: text.split(" or later")[0] for name, text in rows(README)[:5]}
        assert table == {
            "Python": python,
            "Django": floors["django"],
            "Django REST framework": floors["djangorestframework"],
            "drf-spectacular": floors["drf-spectacular"],
            "Celery": floors["celery"],
        }


def test_setting_up__has_the_lines_of_the_readme() -> None:
    form = r"^```python\n# (?:settings|urls)\.py.*?^```$"
    blocks = re.findall(form, README, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    assert [block for block in blocks if block not in DOCUMENTS["docs/setting-up.md"]] == []
    # A pattern that matches everything may stand among the others.
    assert blocks[1].index('path("api/"') < blocks[1].index("# …")


class TestEndpoint:
    def test_keys__are_the_fields_in_order(self) -> None:
        assert [row[0] for row in rows(section(ENDPOINT, "Keys"))] == [f"`{f}`" for f in FIELDS]

    def test_parameters__are_those_that_are_read(self) -> None:
        table = rows(section(ENDPOINT, "Query parameters"))
        assert [row[0] for row in table] == [f"`{name}`" for name in PARAMETERS]

    def test_statuses__are_those_of_the_schema(self) -> None:
        schema = yaml.safe_load((ROOT / "tests" / "schema.yml").read_text())
        responses = schema["paths"]["/api/celery-stats/"]["get"]["responses"]
        table = rows(section(ENDPOINT, "Status codes"))
        assert [row[0] for row in table] == sorted(responses)

    def test_formats__are_those_of_the_renderers(self) -> None:
        table = [
            (row[0].strip("`"), row[1].strip("`")) for row in rows(section(ENDPOINT, "Formats"))
        ]
        assert table == [
            (renderers.ReportJSONRenderer.format, renderers.ReportJSONRenderer.media_type),
            (renderers.PageRenderer.format, renderers.PageRenderer.media_type),
            (renderers.OpenMetricsRenderer.format, renderers.OpenMetricsRenderer.media_type),
            ("", renderers.PrometheusRenderer.media_type),
        ]

    def test_clients__the_versions_that_the_tests_use(self) -> None:
        clients = ROOT / "tests" / "clients"
        installed = dict(re.findall(r"(\S+)==(\S+)", (clients / "requirements.txt").read_text()))
        node = json.loads((clients / "package.json").read_text())["devDependencies"]
        installed["openapi-typescript"] = node["openapi-typescript"]
        assert dict(rows(section(ENDPOINT, "Clients"))) == installed


@pytest.mark.parametrize(
    ("name", "text", "value", "expected"),
    [
        ("endpoint.md", "up to 100 times", query.MAX_VALUES, 100),
        ("endpoint.md", "at most 255 characters", query.MAX_LENGTH, 255),
        ("endpoint.md", "`Retry-After: 5`", ServiceUnavailable.wait, 5),
        ("endpoint.md", "of up to 64 KiB", report.MAX_INDENTED, 64 * 2**10),
        ("endpoint.md", "100 tasks of each list", tasks.TASKS_SHOWN, 100),
        ("endpoint.md", "300 workers", page.WORKERS_SHOWN, 300),
        ("production.md", "taken at the same time | 8 |", sharing.MAX_RUNS, 8),
        ("production.md", "after their deadline | 32 |", sharing.MAX_THREADS, 32),
        ("production.md", "| 1 for each Celery app |", broker.MAX_KEPT, 1),
        ("production.md", "not used is closed | 10 |", broker.MAX_IDLE, 10.0),
        ("production.md", "that are remembered | 10 000 |", limits.MAX_NODES, 10_000),
        ("production.md", "size of one reply | 8 MiB |", limits.MAX_REPLY, 8 * 2**20),
        ("production.md", "to one question | 32 MiB |", limits.MAX_REPLIES, 32 * 2**20),
        ("production.md", "in one reply | 300 000 |", limits.MAX_REPLY_CONTAINERS, 300_000),
        ("production.md", "to one question | 1 500 000 |", limits.MAX_REPLIES_VALUES, 1_500_000),
        ("production.md", "has the app | 1 MiB |", worker.MAX_JOINT, 2**20),
        ("production.md", "to one command | 8 MiB |", worker.MAX_ALONE, 8 * 2**20 - 2**16),
        ("production.md", "worker's name | 255 |", limits.MAX_NODE_NAME, 255),
        ("how-it-works.md", "a quarter of the time", amqp.GRACE_SHARE, 0.25),
        ("how-it-works.md", "1 ms at least", amqp.MIN_GRACE, 0.001),
    ],
)
def test_number__is_that_of_the_code(name: str, text: str, value: Any, expected: Any) -> None:
    assert value == expected
    assert text in " ".join(DOCUMENTS[f"docs/{name}"].split())


def test_presence__has_a_row_for_each_situation_of_the_benchmark() -> None:
    table = rows(section(DOCUMENTS["docs/how-it-works.md"], "Measured"))
    assert [row[0] for row in table] == list(SITUATIONS)


class TestContributing:
    def test_drawing__has_every_module(self) -> None:
        (drawing,) = re.findall(r"^```\n(.*?)^```$", CONTRIBUTING, re.MULTILINE | re.DOTALL)
        package = ROOT / "celery_stats"
        modules = [path.name for path in package.rglob("*.py") if path.name != "__init__.py"]
        modules.append("__init__.py")  # of control/presence; the others are empty or small
        assert Counter(re.findall(r"\w+\.py", drawing)) == Counter(modules)

    def test_path__exists(self) -> None:
        pattern = r"`((?:benchmarks|celery_stats|docs|project|tests)/[\w./-]*)`"
        paths = set(re.findall(pattern, CONTRIBUTING))
        assert {path for path in paths if not (ROOT / path).exists()} == set()

    def test_name__occurs_in_the_file_of_its_row(self) -> None:
        wrong = []
        for first, *others in rows(CONTRIBUTING):
            files = [ROOT / path for path in re.findall(r"`([\w./]+\.py)`", first)]
            code = "\n".join(path.read_text() for path in files)
            names = re.findall(r"`(\w+)`", " ".join(others)) if files else []
            wrong += [(first, name) for name in names if not re.search(rf"\b{name}\b", code)]
        assert wrong == []

    def test_methods_of_a_strategy__in_order_and_abstract_where_required(self) -> None:
        table = [row for row in rows(CONTRIBUTING) if row[0].strip("`") in vars(Presence)]
        names = [row[0].strip("`") for row in table]
        assert names == [name for name in vars(Presence) if name in names]
        required = {row[0].strip("`") for row in table if row[2] == "yes"}
        assert required == Presence.__abstractmethods__
