"""``docs/setting-up.md`` from an empty project: every file written, every command run."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, ProxyHandler, Request, build_opener

import pytest
import yaml

from tests.brokers import RedisServer
from tests.packages import build
from tests.processes import ROOT, Process, free_port, wait_until
from tests.projects import environment, reach_index

pytestmark = pytest.mark.dropin

PAGE = (ROOT / "docs" / "setting-up.md").read_text()
TEXT = PAGE.partition("\n## From an empty project\n")[2]
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


class Reader:
    """Somebody who follows the page in a folder.

    Attributes:
        outputs: what each block of commands printed.
    """

    def __init__(self, folder: Path, changes: dict[str, str]) -> None:
        self.folder = folder
        self.changes = changes
        self.outputs: list[str] = []
        self.terminals: list[Process] = []

    def write(self, block: str) -> None:
        """Append to the file that the first line names."""
        found = re.fullmatch(r"# (\S+)\n(.*)", block, re.DOTALL)
        assert found is not None
        with (self.folder / found[1]).open("a") as file:
            file.write(found[2])

    def run(self, block: str) -> None:
        """Run commands; those for another terminal are left running."""
        script = f"set -e; cd {self.folder}; [ ! -d .venv ] || . .venv/bin/activate\n{block}"
        args = ["bash", "-c", script]
        if block.startswith("# A "):
            log = self.folder / f"terminal{len(self.terminals)}.log"
            self.terminals.append(Process(args, log=log, env={"PYTHONUNBUFFERED": "1"}))
            ready = " ready." if "celery" in block else "Quit the server"
            wait_until(lambda: ready in log.read_text(), seconds=60, what=str(log))
            return
        env = environment()
        done = subprocess.run(
            args, env=env, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
        self.outputs.append(done.stdout)

    def follow(self, kind: str, block: str) -> None:
        for old, new in self.changes.items():
            block = block.replace(old, new)
        (self.run if kind == "sh" else self.write)(block)


@pytest.fixture
def reader(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Reader]:
    reach_index()
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE")  # of these tests' own project
    wheel = build(tmp_path / "dist", "wheel")
    folder = tmp_path / "shop"
    folder.mkdir()
    changes = {
        "pip install drf-celery-stats": f"pip install --quiet {wheel}",
        "redis://localhost:6379/0": f"redis://127.0.0.1:{redis_server.port}/997",
        "127.0.0.1:8000": f"127.0.0.1:{free_port()}",
    }
    for old in changes:
        assert old in TEXT
    reader = Reader(folder, changes)
    yield reader
    for terminal in reader.terminals:
        terminal.stop()


def test_page__from_nothing_to_the_first_answer(reader: Reader) -> None:
    for kind, block in BLOCKS:
        reader.follow(kind, block)
    assert any(text.startswith("1 worker answered") for text in reader.outputs)
    answer, end = json.JSONDecoder().raw_decode(reader.outputs[-1])
    assert len(answer["stats"]) == 1
    paths = yaml.safe_load(reader.outputs[-1][end:])["paths"]
    assert "/api/celery-stats/" in paths

    address = f"http://{reader.changes['127.0.0.1:8000']}/api/celery-stats/"
    browser = build_opener(ProxyHandler({}), HTTPCookieProcessor(CookieJar()))
    browser.addheaders = [("Accept", "text/html")]
    with browser.open(address) as response:
        form, url = response.read().decode(), response.url
    assert "/admin/login/?next=/api/celery-stats/" in url
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form)
    assert token is not None
    fields = {
        "username": "ada",
        "password": "correct-horse",
        "next": "/api/celery-stats/",
        "csrfmiddlewaretoken": token[1],
    }
    with browser.open(Request(url, urlencode(fields).encode())) as response:
        assert response.url == address
        assert "Every worker answered" in response.read().decode()
