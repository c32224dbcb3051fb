"""Clients of others, with real workers of every pool. clients/prepare.sh installs the clients."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rest_framework.authtoken.models import Token
from rest_framework.test import APIClient

from celery_stats.shapes import FIELDS
from tests.accounts.models import User
from tests.brokers import Broker, RedisServer
from tests.pools import BUSY, IDLE, Fleet, at_work

CLIENTS = Path(__file__).with_name("clients")
SCHEMA = Path(__file__).with_name("schema.yml")
TOOLS = os.environ.get("CELERY_STATS_TEST_CLIENTS")

pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(
        TOOLS is None, reason="CELERY_STATS_TEST_CLIENTS names no folder of clients/prepare.sh"
    ),
]


def run(*args: str | Path, **env: str) -> str:
    result = subprocess.run(
        args, env={**os.environ, **env}, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout


def tool(name: str) -> Path:
    assert TOOLS is not None
    python = Path(TOOLS, "venv", "bin", name)
    return python if python.exists() else Path(TOOLS, "node_modules", ".bin", name)


@pytest.fixture(scope="module")
def fleet(redis_server: RedisServer) -> Iterator[Fleet]:
    with at_work(redis_server, db=902) as fleet:
        yield fleet


@pytest.fixture
def token(fleet: Fleet, use: Callable[[Broker], Broker], api: APIClient) -> str:
    """A support user's token, with the endpoint pointed to the fleet."""
    use(fleet.broker)
    return api._credentials["HTTP_AUTHORIZATION"].removeprefix("Token ")


def without_what_changes(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without the figures that change by themselves."""
    for stats in (answer["stats"] or {}).values():
        for name in ("clock", "uptime", "rusage", "pool"):
            del stats[name]
    return answer


def test_waldur__reads_the_answer_unchanged(live_server: Any, token: str, api: APIClient) -> None:
    printed = run(tool("python"), CLIENTS / "waldur.py", live_server.url, token)
    read = json.loads(printed)
    answer = api.get("/api/celery-stats/").json()
    assert list(read) == list(FIELDS)
    assert read["stats"].keys() == answer["stats"].keys()
    assert without_what_changes(read) == without_what_changes(answer)


def test_waldur__reads_the_answer_without_workers(
    live_server: Any, token: str, make_broker: Callable[..., Broker], use: Callable[..., Broker]
) -> None:
    use(make_broker())
    printed = run(tool("python"), CLIENTS / "waldur.py", live_server.url, token)
    assert json.loads(printed) == dict.fromkeys(FIELDS)


def test_openapi_python_client__typed_objects_without_fallback(
    live_server: Any, token: str, fleet: Fleet, tmp_path: Path
) -> None:
    package = tmp_path / "celery_stats_client"
    # Its own directory stands first in the path, as it looks for its formatter there.
    path = f"{tool('python').parent}{os.pathsep}{os.environ['PATH']}"
    printed = run(
        tool("openapi-python-client"),
        *("generate", "--fail-on-warning", "--meta", "none"),
        *("--path", SCHEMA, "--output-path", package),
        PATH=path,
    )
    assert "Warning" not in printed
    printed = run(
        tool("python"),
        *(CLIENTS / "generated.py", live_server.url, token, *fleet.task_ids),
        PYTHONPATH=str(tmp_path),
    )
    result = json.loads(printed)
    for key, replies in result["body"].items():
        for pool, worker in fleet.workers.items():
            assert replies[worker] or (pool in IDLE and key in BUSY), (key, pool)
    assert result["seen"]["CeleryWorkerStats"] == len(fleet.workers)
    assert result["seen"]["CeleryWorkerPool"] == len(fleet.workers)
    assert result["seen"]["CeleryWorkerPoolWrites"] == 1
    assert result["seen"]["CeleryScheduledTask"] == len(fleet.workers)


def test_openapi_typescript__strict_program_of_all_six_keys(
    live_server: Any, token: str, fleet: Fleet, tmp_path: Path
) -> None:
    shutil.copy(CLIENTS / "snapshot.ts", tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    run(tool("openapi-typescript"), SCHEMA, "--output", tmp_path / "schema.d.ts")
    run(
        tool("tsc"),
        *("--strict", "--target", "es2022", "--module", "esnext"),
        *("--moduleResolution", "bundler", "--types", "node"),
        *("--typeRoots", tool("tsc").parent.parent / "@types"),
        tmp_path / "snapshot.ts",
    )
    printed = run("node", tmp_path / "snapshot.js", live_server.url, token, *fleet.task_ids)
    lines = [line.split(" ") for line in printed.splitlines()]
    for pool, worker in fleet.workers.items():
        keys = {key for key, name, *_ in lines if name == worker}
        assert keys | set(BUSY if pool in IDLE else ()) == set(FIELDS)
    assert ["revoked", "solo@pools", "REVOKED-1", "REVOKED-2"] in lines
    assert ["stats", "prefork@pools", "1", "N/A", "fair", "redis", "true"] in lines
    assert ["stats", "solo@pools", "1", "null", "", "redis", "true"] in lines


def test_httpie__two_fields_of_one_worker(live_server: Any, token: str) -> None:
    answer = json.loads(
        run(
            tool("http"),
            *("--ignore-stdin", "--check-status", f"{live_server.url}/api/celery-stats/"),
            *(f"Authorization:Token {token}", "worker==solo@pools"),
            *("field==scheduled", "field==stats"),
        )
    )
    assert answer["stats"]["solo@pools"]["pool"]["implementation"].endswith("solo:TaskPool")
    assert [key for key, value in answer.items() if value] == ["scheduled", "stats"]


def test_curl__a_task_by_its_id(live_server: Any, token: str, fleet: Fleet) -> None:
    answer = json.loads(
        run(
            *("curl", "--silent", "--fail", "--get", f"{live_server.url}/api/celery-stats/"),
            *("--header", f"Authorization: Token {token}"),
            *("--data-urlencode", "worker=threads@pools", "--data", "field=query_task"),
            *("--data", "&".join(f"task_id={task_id}" for task_id in fleet.task_ids)),
        )
    )
    states = {state for state, _ in answer["query_task"]["threads@pools"].values()}
    assert {"active", "reserved"} <= states


@pytest.mark.django_db(transaction=True)
def test_schemathesis__no_issues(
    live_server: Any,
    fleet: Fleet,
    use: Callable[[Broker], Broker],
    support_user: User,
    tmp_path: Path,
) -> None:
    """All its checks, of valid and invalid requests; it finds the schema from outside."""
    use(fleet.broker)
    token = Token.objects.create(user=support_user).key
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{live_server.url}/api/schema/"),
        *("--include-path", "/api/celery-stats/", "--header", f"Authorization: Token {token}"),
        *("--checks", "all", "--mode", "all", "--phases", "coverage,fuzzing,stateful"),
        *("--max-examples", "25", "--generation-database", "none", "--no-color"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    assert "No issues found" in done.stdout
    assert "1 selected" in done.stdout
