"""The page in a real browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from celery import Celery

from tests.answers import ANSWERS, EMPTY, HOSTILE, STATS, TASK
from tests.brokers import RedisServer
from tests.chromium import PATH, SOON, OpenPage, Page, Record, needs_chromium, pages
from tests.processes import Process, wait_until

pytestmark = needs_chromium


# The browser


@dataclass
class Watch:
    """Collects what a page must not do: write to the console, and send to other hosts."""

    errors: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)
    #: HTTP statuses that a test brings about; the browser itself reports them as errors.
    expected: set[int] = field(default_factory=set)

    def look_at(self, page: Page) -> None:
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", lambda dialog: self.errors.append(f"dialog: {dialog.message}"))
        page.on("console", self._console)
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).hostname or ""))

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    @property
    def unexpected(self) -> list[str]:
        return [
            error
            for error in self.errors
            if not any(
                f"the server responded with a status of {s} " in error for s in self.expected
            )
        ]


@pytest.fixture
def watch() -> Iterator[Watch]:
    watch = Watch()
    yield watch
    assert watch.unexpected == []
    assert watch.hosts <= {"127.0.0.1"}


@pytest.fixture
def open_page(browser: Any, watch: Watch) -> Iterator[OpenPage]:
    with pages(browser, watch.look_at) as open_page:
        yield open_page


def expect(actual: Any) -> Any:
    from playwright.sync_api import expect

    expect.set_options(timeout=SOON)
    return expect(actual)


def shown_number(page: Page, key: str) -> int:
    return int(page.locator(f"#total-{key}").get_attribute("value"))


def axe(page: Page) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    return [
        f"{found['impact']} {found['id']}: {node['html'][:200]}"
        for found in Axe().run(page).response["violations"]
        for node in found["nodes"]
    ]


# The demo


@dataclass
class Demo:
    """``manage.py demo`` on a Redis of its own."""

    redis: RedisServer
    url: str = ""
    password: str = ""
    #: Cookies of users that are logged in, by name.
    users: dict[str, Any] = field(default_factory=dict)
    #: Settings in the environment of its workers.
    corner: dict[str, str] = field(default_factory=dict)

    def restart_redis(self) -> None:
        self.redis = RedisServer(port=self.redis.port)

    def start_worker(self, name: str, like: int, log: Path) -> Process:
        """Start one more worker on the broker of the one with that pid; its queue has its name."""
        environ = Path(f"/proc/{like}/environ").read_text().split("\0")
        self.corner = dict(item.split("=", 1) for item in environ if item.startswith("CELERY_"))
        return Process(
            [
                *(sys.executable, "-m", "celery", "-A", "project", "worker"),
                *("--hostname", name, "--queues", name, "--concurrency", "1"),
            ],
            log=log,
            env={"DJANGO_SETTINGS_MODULE": "project.settings", **self.corner},
        )

    def send(self, task: str, *args: Any, queue: str) -> str:
        """Send a task to a worker that :meth:`start_worker` started."""
        options = json.loads(self.corner["CELERY_BROKER_TRANSPORT_OPTIONS"])
        with Celery(broker=self.corner["CELERY_BROKER_URL"], set_as_current=False) as app:
            app.conf.broker_transport_options = options
            return str(app.send_task(f"project.tasks.{task}", args, queue=queue).id)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, browser: Any) -> Iterator[Demo]:
    redis = RedisServer()
    log = tmp_path_factory.mktemp("demo") / "log"
    process = Process(
        [sys.executable, "manage.py", "demo", "--port", "0"],
        log=log,
        env={
            "CELERY_BROKER_URL": f"redis://127.0.0.1:{redis.port}/0",
            "DJANGO_SETTINGS_MODULE": "project.settings",
        },
    )
    demo = Demo(redis)

    def ready() -> Any:
        text = log.read_text()
        assert process.popen.poll() is None, text
        return re.search(r"with the password (\S+)\s+(\S+)api/", text)

    try:
        found = wait_until(ready, seconds=60, what=f"the demo: {log}")
        demo.password, demo.url = found[1], found[2].rstrip("/")
        for name in ("support", "customer"):
            context = browser.new_context()
            page = context.new_page()
            page.goto(f"{demo.url}/login/?next={PATH}")
            log_in(page, name, demo.password)
            demo.users[name] = context.storage_state()
            context.close()
        yield demo
    finally:
        process.stop()
        demo.redis.stop()


def log_in(page: Page, name: str, password: str) -> None:
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"**{PATH}")


@pytest.fixture
def demo_page(demo: Demo, open_page: OpenPage) -> OpenPage:
    """The demo's page as its support user sees it."""

    def make(query: str = "", **options: Any) -> Page:
        return open_page(
            f"{demo.url}{PATH}{query}", storage_state=demo.users["support"], **options
        )

    return make


def answer_of(page: Page, query: str = "") -> dict[str, Any]:
    """Return what the user of the page gets as JSON."""
    url = page.url.partition("?")[0].partition("#")[0]
    response = page.request.get(f"{url}?format=json{query}")
    assert response.ok
    return dict(response.json())


def test_log_in(demo: Demo, open_page: OpenPage, watch: Watch) -> None:
    page = open_page(f"{demo.url}{PATH}?task_id=x")
    assert urlsplit(page.url).path == "/login/"
    page.get_by_label("Username").fill("support")
    page.get_by_label("Password").fill(demo.password)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Every worker answered")).to_be_visible()
    assert page.url == f"{demo.url}{PATH}?task_id=x"


def test_ordinary_user(demo: Demo, open_page: OpenPage, watch: Watch) -> None:
    watch.expected = {403}
    page = open_page(f"{demo.url}{PATH}", storage_state=demo.users["customer"])
    expect(page.get_by_role("heading", name="You may not see this page")).to_be_visible()
    expect(page.get_by_text("You are logged in as customer.")).to_be_visible()
    assert page.locator(".worker, .tasks, #look-up").count() == 0
    assert page.get_by_text("session").count() == 0
    assert axe(page) == []
    requests: list[Any] = []
    page.on("request", lambda request: requests.append(request))
    page.wait_for_timeout(6000)  # There is no condition to await, because nothing may happen.
    assert requests == []


def test_numbers_equal_the_json(demo_page: OpenPage) -> None:
    def numbers(answer: dict[str, Any]) -> dict[str, int]:
        totals = {
            key: sum(len(reply) for reply in answer[key].values())
            for key in ("active", "reserved", "scheduled")
        }
        totals["revoked"] = len({i for reply in answer["revoked"].values() for i in reply})
        totals["processed"] = sum(
            n for stats in answer["stats"].values() for n in stats["total"].values()
        )
        return totals

    page = demo_page()

    def stood_still() -> dict[str, Any] | None:
        """Load the page between two equal answers, so that it must show the same."""
        before = answer_of(page)
        page.reload()
        after = answer_of(page)
        return after if numbers(before) == numbers(after) else None

    answer = wait_until(stood_still)
    expected = numbers(answer)
    assert {key: shown_number(page, key) for key in expected} == expected
    assert expected["active"] >= 2
    assert page.locator("#answering").inner_text() == str(len(answer["stats"])) == "2"
    for name, stats in answer["stats"].items():
        cells = page.locator(".worker", has_text=name).locator("td[data-label]").all_inner_texts()
        busy = len(answer["active"][name])
        assert cells[:5] == [
            "prefork",
            f"{busy} of {stats['pool']['max-concurrency']}",
            str(len(answer["reserved"][name])),
            str(len(answer["scheduled"][name])),
            str(stats["prefetch_count"]),
        ]


def test_worker_and_task_come_and_go_without_a_reload(
    demo: Demo, demo_page: OpenPage, tmp_path: Path
) -> None:
    page = demo_page()
    page.evaluate("window.same = true")
    pid = answer_of(page)["stats"]["worker1@demo"]["pid"]
    worker = demo.start_worker("late@demo", pid, tmp_path / "log")
    try:
        expect(page.locator(".worker[data-key='late@demo']")).to_contain_text("0 of 1")
        task_id = demo.send("back_up", "<invoices>", 60, queue="late@demo")
        row = page.locator(f"#active tr[data-key='{task_id}']")
        expect(row).to_contain_text(
            re.compile(r"\d s.*project\.tasks\.back_up.*'<invoices>', 60", re.DOTALL)
        )
        expect(page.locator(".worker[data-key='late@demo']")).to_contain_text("1 of 1")
        worker.popen.send_signal(signal.SIGQUIT)  # It ends at once, without waiting for its task.
        expect(page.locator("#health-heading")).to_have_text("Workers are missing")
        expect(page.locator("#missing")).to_contain_text(
            re.compile(r"late@demo\s*(was here until \d\d:\d\d:\d\d|did not answer)")
        )
        expect(page.locator("#missing-count")).to_have_text("1")
        expect(row).to_have_count(0)
        expect(page.locator(".worker")).to_have_count(2)
        assert page.evaluate("window.same") is True
    finally:
        worker.stop()


def test_lists__share_their_columns(recorded: Record, open_page: OpenPage) -> None:
    server = recorded()
    held = {"eta": "2030-01-01T00:00:00+00:00", "request": {**TASK, "id": "held"}}
    server.say(
        {
            **ANSWERS,
            "active": {"a@h": tasks("runs", "x" * 300)},
            "reserved": {"a@h": tasks("waits")},
            "scheduled": {"a@h": [held]},
            "revoked": {"a@h": ["gone"], "b@h": ["gone"]},
        }
    )
    page = open_page(server.url)
    for width in (1200, 1600):
        page.set_viewport_size({"width": width, "height": 900})
        for title in ("Task", "Arguments", "Worker", "Queue"):
            heads = page.locator(".tasks thead th").get_by_text(title, exact=True)
            lefts = {head.bounding_box()["x"] for head in heads.all()}
            assert (heads.count(), len(lefts)) == (3, 1), (width, title)


def test_banner__keeps_its_margins(recorded: Record, open_page: OpenPage, watch: Watch) -> None:
    server = recorded()
    page = open_page(server.url)
    page.route(server.url, lambda route: route.abort())
    page.get_by_role("link", name="Refresh").click()
    banner = page.locator("#connection")
    expect(banner).to_be_visible()
    for width in (390, 1200, 1360, 1600):
        page.set_viewport_size({"width": width, "height": 900})
        box, below = banner.bounding_box(), page.locator("#health").bounding_box()
        assert (box["x"], box["width"]) == (below["x"], below["width"]), width
    watch.errors = [error for error in watch.errors if "Failed to load resource" not in error]


def test_look_up(demo_page: OpenPage) -> None:
    page = demo_page()
    name, reply = next((n, r) for n, r in answer_of(page)["scheduled"].items() if r)
    task_id = reply[0]["request"]["id"]
    page.get_by_label("Task id").fill(task_id)
    page.get_by_role("button", name="Look up").click()
    result = page.locator(".looked-up")
    expect(result).to_contain_text(f"On {name} until its ETA, due in")
    expect(result).to_contain_text("delivery_info.routing_key")
    expect(result).to_be_in_viewport()
    page.get_by_label("Task id").fill("<unknown>")
    page.keyboard.press("Enter")
    expect(result).to_contain_text("No worker that answered knows it")
    page.get_by_role("link", name="Clear").click()
    expect(page.locator(".looked-up")).to_have_count(0)


def test_without_javascript(demo_page: OpenPage) -> None:
    page = demo_page(java_script_enabled=False)
    taken = page.locator("#taken").inner_text()
    assert not page.get_by_role("button", name="Pause").is_visible()
    assert not page.locator(".copy").first.is_visible()
    worker = page.locator(".worker").first
    assert not worker.locator(".more").is_visible()
    worker.locator("summary").click()
    assert worker.locator(".more").is_visible()
    assert "broker" in worker.locator(".more").inner_text().lower()

    def refreshed() -> bool:
        page.get_by_role("link", name="Refresh").click()
        return bool(page.locator("#taken").inner_text() != taken)

    wait_until(refreshed)
    page.get_by_label("Task id").fill("nope")
    page.get_by_role("button", name="Look up").click()
    assert "No worker that answered knows it" in page.locator(".looked-up").inner_text()


def test_keyboard_only(demo_page: OpenPage) -> None:
    page = demo_page()
    focused = "document.activeElement.textContent.trim() || document.activeElement.id"

    def tab_to(text: str) -> None:
        for _ in range(200):
            page.keyboard.press("Tab")
            if page.evaluate(focused).startswith(text):
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline not in ("none", ""), f"{text} has the focus unseen"
                return
        raise AssertionError(f"no way to {text}")

    tab_to("Skip to the content")
    page.keyboard.press("Enter")
    tab_to("worker1@demo")
    page.keyboard.press("Enter")
    expect(page.locator(".more").first).to_be_visible()
    tab_to("task-id")
    page.keyboard.type("nope")
    page.keyboard.press("Enter")
    expect(page.locator(".looked-up")).to_contain_text("No worker that answered knows it")
    tab_to("Pause")
    page.keyboard.press("Space")
    expect(page.locator("#status")).to_contain_text("Paused")


def test_accessibility(demo_page: OpenPage) -> None:
    page = demo_page("?task_id=nope")
    page.locator(".worker summary").first.click()
    for scheme, width in product(("light", "dark"), (1280, 360)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 800})
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(20, 24, 27)") is (scheme == "dark")
        assert axe(page) == [], (scheme, width)
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(overflow) == 0, (scheme, width)


def test_session_ends(demo_page: OpenPage, watch: Watch) -> None:
    watch.expected = {401, 403}
    page = demo_page()
    page.context.clear_cookies()
    expect(page.locator("#connection")).to_contain_text("Your session has ended")
    expect(page.locator("#connection").get_by_role("link", name="Log in again")).to_be_visible()
    assert page.locator("#status").inner_text().startswith("Stopped, last answer ")
    requests: list[Any] = []
    page.on("request", lambda request: requests.append(request))
    page.wait_for_timeout(6000)  # There is no condition to await, because nothing may happen.
    assert requests == []


def test_worker_frozen__is_missing_until_it_returns(demo: Demo, demo_page: OpenPage) -> None:
    page = demo_page()
    pid = answer_of(page)["stats"]["worker2@demo"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        expect(page.locator("#health-heading")).to_have_text("Workers are missing")
        expect(page.locator("#missing")).to_contain_text("worker2@demo did not answer")
        expect(page.locator("#announcement")).to_contain_text("Workers are missing, worker2@demo")
        assert axe(page) == []
    finally:
        os.kill(pid, signal.SIGCONT)
    expect(page.locator("#health-heading")).to_have_text("Every worker answered")
    expect(page.locator("#missing > li")).to_have_count(0)


def test_broker_stops_and_returns(demo: Demo, demo_page: OpenPage, watch: Watch) -> None:
    watch.expected = {503}
    page = demo_page()
    fresh = demo_page()
    workers = page.locator(".worker")
    expect(workers).to_have_count(2)
    demo.redis.stop()
    heading = page.get_by_role("heading", name="The workers could not be asked")
    expect(heading).to_be_visible()
    expect(page.get_by_text("Below is the last answer")).to_be_visible()
    expect(workers).to_have_count(2)
    fresh.reload()
    expect(fresh.get_by_role("heading", name="The workers could not be asked")).to_be_visible()
    assert axe(page) == []
    assert axe(fresh) == []
    demo.restart_redis()
    for each in (page, fresh):
        # Not the workers: those of kombu 5.7 end if they hold messages when Redis goes away.
        expect(each.locator("#answering")).to_be_visible(timeout=60_000)
        expect(each.get_by_role("heading", name="The workers could not be asked")).to_have_count(0)
        expect(each.get_by_text("Below is the last answer")).to_be_hidden()


# A page over a recorded answer


def tasks(*ids: str) -> list[dict[str, Any]]:
    return [{**TASK, "id": task_id} for task_id in ids]


def refresh(page: Page) -> None:
    """Refresh the page in place, and wait for the end."""
    with page.expect_response(lambda response: response.request.resource_type == "fetch"):
        # The mouse would take focus and selection away.
        page.evaluate("document.getElementById('refresh').click()")
    page.wait_for_timeout(50)


def test_refresh__leaves_the_reader_alone(recorded: Record, open_page: OpenPage) -> None:
    server = recorded()
    stats = {f"w{n:02}@h": STATS for n in range(30)}
    server.say({"stats": stats, "active": {"w05@h": tasks("one", "two")}})
    page = open_page(server.url)
    page.locator(".worker[data-key='w20@h'] summary").click()
    page.get_by_label("Task id").fill("half typed")
    page.evaluate("window.same = document.querySelector('.worker[data-key=\"w20@h\"]')")
    page.evaluate(
        "getSelection().selectAllChildren(document.querySelector('#active [data-key=two] .task'))"
    )
    page.locator(".worker[data-key='w21@h'] summary").focus()
    page.locator(".worker[data-key='w20@h']").scroll_into_view_if_needed()
    top = "scrollY"
    before = page.evaluate(top)
    assert before > 0

    del stats["w00@h"], stats["w19@h"]
    stats["w20b@h"] = {**STATS, "uptime": 5}
    server.say({"stats": stats, "active": {"w05@h": tasks("zero", "two", "three")}})
    refresh(page)
    expect(page.locator("#active [data-key=three]")).to_have_count(1)
    expect(page.locator(".worker[data-key='w00@h']")).to_have_count(0)
    assert page.locator("#active [data-key=one]").count() == 0
    worker = page.locator(".worker[data-key='w20@h']")
    assert page.evaluate("window.same.isConnected && window.same.dataset.key") == "w20@h"
    assert worker.locator(".more").is_visible()
    assert page.locator(".worker details[open]").count() == 1
    assert page.evaluate("document.activeElement.textContent.trim()") == "w21@h"
    assert page.get_by_label("Task id").input_value() == "half typed"
    assert page.evaluate("String(getSelection())") == "reports.build"
    names = page.locator(".worker").evaluate_all("all => all.map(one => one.dataset.key)")
    assert names == sorted(stats)
    # The browser keeps what the reader sees in place, although a row above has gone.
    assert abs(page.evaluate(top) - before) < 200

    # The element with the focus is gone. The focus moves to its section, not to the top.
    del stats["w21@h"]
    server.say({"stats": stats})
    refresh(page)
    expect(page.locator(".worker[data-key='w21@h']")).to_have_count(0)
    assert page.evaluate("document.activeElement.id") == "workers"


def test_refresh__pauses(recorded: Record, open_page: OpenPage) -> None:
    server = recorded()
    page = open_page()
    page.clock.install()
    page.goto(server.url)
    requests: list[Any] = []
    page.on("request", lambda request: requests.append(request))

    def after_a_while() -> int:
        requests.clear()
        for _ in range(40):
            page.clock.run_for(500)
            page.wait_for_timeout(20)
        return len(requests)

    assert after_a_while() >= 2
    page.get_by_role("button", name="Pause").click()
    assert after_a_while() == 0
    assert page.locator("#status").inner_text().startswith("Paused, last answer")
    page.get_by_role("button", name="Resume").click()
    assert after_a_while() >= 2

    hide = "now => {Object.defineProperty(document, 'hidden', {value: now, configurable: true});"
    hide += "document.dispatchEvent(new Event('visibilitychange'));}"
    page.evaluate(hide, True)
    page.wait_for_timeout(200)
    assert after_a_while() == 0
    page.evaluate(hide, False)
    assert after_a_while() >= 2


def test_refresh__server_away_and_back(
    recorded: Record, open_page: OpenPage, watch: Watch
) -> None:
    server = recorded()
    page = open_page(server.url)
    banner = page.locator("#connection")
    expect(banner).to_be_hidden()
    page.route(server.url, lambda route: route.abort())
    page.get_by_role("link", name="Refresh").click()
    expect(banner).to_contain_text(re.compile(r"cannot be reached.*from \d\d:\d\d:\d\d"))
    assert axe(page) == []
    page.unroute(server.url)
    page.route(server.url, lambda route: route.fulfill(status=500, body="<p>Oops</p>"))
    expect(banner).to_contain_text("The server answered with an error (500)")
    page.unroute(server.url)
    expect(banner).to_be_hidden()
    watch.errors = [error for error in watch.errors if "Failed to load resource" not in error]


def test_status_and_title__say_whether_the_answer_is_of_now(
    recorded: Record, open_page: OpenPage, watch: Watch
) -> None:
    watch.expected = {503}
    server = recorded()
    page = open_page(server.url)
    status = page.locator("#status")
    expect(status).to_have_text(re.compile(r"Live, updated \d\d:\d\d:\d\d"))
    assert page.title() == "Every worker answered \N{EN DASH} Celery workers"
    server.say(status=503)
    refresh(page)
    expect(status).to_have_text(re.compile(r"Trying again, last answer \d\d:\d\d:\d\d"))
    assert page.title() == "The workers could not be asked \N{EN DASH} Celery workers"
    page.route(server.url, lambda route: route.abort())
    page.evaluate("document.getElementById('refresh').click()")
    expect(page).to_have_title("No answer \N{EN DASH} Celery workers")
    expect(status).to_have_text(re.compile("Trying again, last answer"))
    page.unroute(server.url)
    server.say(ANSWERS)
    # Within one interval after the server is back.
    expect(status).to_have_text(re.compile("Live, updated"), timeout=6000)
    assert page.title() == "Every worker answered \N{EN DASH} Celery workers"
    watch.errors = [error for error in watch.errors if "Failed to load resource" not in error]


def test_look_up__says_who_had_the_task_when_it_ends(
    recorded: Record, open_page: OpenPage
) -> None:
    server = recorded()
    page = open_page(f"{server.url}?task_id={TASK['id']}")
    result = page.locator(".looked-up")
    expect(result).to_contain_text("Running on a@h")
    server.say({**ANSWERS, "active": {"a@h": []}})
    for _ in range(2):
        refresh(page)
        ended = result.locator(".ended")
        expect(ended).to_have_text(re.compile(r"It was running on a@h until \d\d:\d\d:\d\d\."))
    expect(page.locator("#announcement")).to_contain_text("It was running on a@h until")
    server.say(ANSWERS)
    refresh(page)
    expect(ended).to_have_count(0)


def test_look_up__several_ids_as_pasted(recorded: Record, open_page: OpenPage) -> None:
    page = open_page(recorded().url)
    seven = " ".join(f"'{n}{TASK['id'][1:].upper()}'," for n in range(2, 9))
    page.get_by_label("Task id").fill(seven)
    page.keyboard.press("Enter")
    expect(page.locator(".looked-up")).to_have_count(7)
    expect(page.locator(".looked-up", has_text="Running on a@h")).to_have_count(1)
    assert page.get_by_label("Task id").input_value() == seven


def test_first_trend__nothing_moves(recorded: Record, open_page: OpenPage) -> None:
    server = recorded()
    server.say(ANSWERS, queues={"mail": 3}, active_queues={"a@h": [{"name": "mail"}]})
    for width in (390, 800, 1024, 1600):
        page = open_page(server.url, viewport={"width": width, "height": 900})
        sections = page.locator("main > section, #workers tr:visible")
        before = [section.bounding_box()["y"] for section in sections.all()]
        page.wait_for_timeout(1100)  # The time of a snapshot must differ for a trend.
        refresh(page)
        expect(page.locator(".trend").first).to_be_attached()
        assert [section.bounding_box()["y"] for section in sections.all()] == before, width


@pytest.mark.parametrize("width", [390, 800, 1024, 1200, 1600])
def test_widths__nothing_overflows_once_trends_are_drawn(
    recorded: Record, open_page: OpenPage, width: int
) -> None:
    server = recorded()
    names = ["worker-12@ip-10-0-17-204.eu-central-1.compute.internal", "a@h"]
    stats = {**STATS, "autoscaler": {"max": 100, "min": 3, "current": 4}}
    server.say(
        {"stats": dict.fromkeys(names, stats), "active": {names[0]: tasks("one", "two")}},
        queues={"mail" * 20: 1_000_000, "celery": 0},
        active_queues={name: [{"name": "celery"}] for name in names},
    )
    page = open_page(server.url, viewport={"width": width, "height": 900})
    page.wait_for_timeout(1100)  # The time of a snapshot must differ for a trend.
    refresh(page)
    expect(page.locator(".worker .trend").first).to_be_attached()
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(overflow) == 0
    inside = """() => [...document.querySelectorAll('table')].filter(
        table => table.scrollWidth > table.clientWidth + 1).map(table => table.className)"""
    assert page.evaluate(inside) == []
    assert axe(page) == []


def fleet(*names: str, busy: int = 4) -> dict[str, Any]:
    """Return the answers of workers that have something under each key."""
    stats = {**STATS, "uptime": 12_950_000}
    held = {"eta": "2030-01-01T00:00:00+00:00", "request": {**TASK, "time_start": None}}
    long = {"name": "billing.invoices.tasks.create_for_customer", "hostname": names[-1]}
    running = [{**task, **long} for task in tasks(*(str(n) for n in range(busy)))]
    return {
        "stats": dict.fromkeys(names, stats),
        "active": dict.fromkeys(names, running),
        "reserved": dict.fromkeys(names, running[:1]),
        "scheduled": dict.fromkeys(names, [held] if busy else []),
        "revoked": dict.fromkeys(names, ["gone"] if busy else []),
        "query_task": {},
    }


LONG = "worker-12@ip-10-0-17-204.eu-central-1.compute.internal"
CONSUMED = {name: [{"name": "reports"}] for name in ("a@h", LONG)}
ERRORS = {"stats": {"a@h": "odd"}, "reserved": {"a@h": {"error": "EncodeError()"}, LONG: []}}
#: Each state of the page, as ``Recorded.say`` takes it.
STATES: dict[str, dict[str, Any]] = {
    "quiet": {
        "answers": fleet("a@h", LONG, busy=0), "queues": {"reports": 0}, "active_queues": CONSUMED,
    },
    "busy": {
        "answers": fleet("a@h", LONG), "queues": {"reports": 7}, "active_queues": CONSUMED,
    },
    "backlog": {
        "answers": fleet("a@h", LONG), "queues": {"billing.invoices": 52_310}, "active_queues": {},
    },
    "missing": {"answers": fleet("a@h"), "missing": {LONG: list(EMPTY), "a@h": ["reserved"]}},
    "errors": {
        "answers": {**fleet("a@h", LONG), **ERRORS}, "silent_subscribers": 2, "unreadable": 1,
    },
    "none": {"queues": {"reports": 7}},
    "unavailable": {"status": 503},
    "many": {"answers": fleet(*(f"{n}-{LONG}" for n in range(60)), busy=1)},
}  # fmt: skip


@pytest.mark.parametrize("state", STATES)
def test_states__readable_in_both_colour_schemes_and_at_each_width(
    recorded: Record, open_page: OpenPage, watch: Watch, state: str
) -> None:
    watch.expected = {503}
    server = recorded()
    server.say(**STATES[state])
    page = open_page(f"{server.url}?task_id={TASK['id']}%20nope")
    page.wait_for_timeout(1100)  # The time of a snapshot must differ for a trend.
    refresh(page)
    for summary in page.locator(".looked-up summary, .worker summary, .revoked summary").all()[:5]:
        summary.click()
    cut = """() => [document.documentElement, ...document.querySelectorAll(
        'table, .worker, .tasks > tbody > tr, .health, .totals, .totals div, .looked-up, pre'
    )].filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.className)"""
    for width in (390, 800, 1024, 1200, 1600):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(cut) == [], width
    for scheme, width in product(("light", "dark"), (1200, 390)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 900})
        assert axe(page) == [], (scheme, width)


def test_totals__a_number_of_many_digits_moves_nothing(
    recorded: Record, open_page: OpenPage
) -> None:
    server = recorded()
    page = open_page(server.url)
    for width in (390, 800, 1024, 1200):
        server.say(ANSWERS)
        page.goto(server.url)
        page.set_viewport_size({"width": width, "height": 900})
        top = page.locator("#workers").bounding_box()["y"]
        page.wait_for_timeout(1100)
        server.say({**ANSWERS, "stats": {"a@h": {**STATS, "total": {"x": 4000}}}})
        refresh(page)
        expect(page.locator(".rate")).to_contain_text(",")
        assert page.locator("#workers").bounding_box()["y"] == top, width


def test_right_to_left__arguments_keep_their_order(recorded: Record, open_page: OpenPage) -> None:
    server = recorded()
    task = {**TASK, "args": ["\u05d0\u05d1", "\u05d2\u05d3"], "kwargs": {}}
    server.say({**ANSWERS, "active": {"a@h": [task]}})
    page = open_page(server.url)
    left = """letter => {
        const text = document.querySelector('#active .arguments bdi').firstChild;
        const range = document.createRange();
        range.setStart(text, text.data.indexOf(letter));
        range.setEnd(text, text.data.indexOf(letter) + 1);
        return range.getBoundingClientRect().left;
    }"""
    assert page.evaluate(left, "\u05d0") < page.evaluate(left, "\u05d2")


def test_worker_that_was_here(recorded: Record, open_page: OpenPage) -> None:
    """The broker forgets a worker that stops normally, but the page does not."""
    server = recorded()
    both = {**ANSWERS, "stats": {"a@h": STATS, "b@h": STATS}}
    server.say(both)
    page = open_page(server.url)
    server.say(ANSWERS)
    refresh(page)
    item = page.locator("#missing > li")
    expect(item).to_contain_text(re.compile(r"b@h\s*was here until \d\d:\d\d:\d\d"))
    expect(page.locator("#health-heading")).to_have_text("Workers are missing")
    expect(page.locator("#missing-count")).to_have_text("1")
    server.say(both)
    refresh(page)
    expect(item).to_have_count(0)
    expect(page.locator("#health-heading")).to_have_text("Every worker answered")
    server.say(ANSWERS)
    refresh(page)
    page.get_by_role("button", name="Forget b@h").click()
    expect(item).to_have_count(0)
    expect(page.locator("#health-heading")).to_have_text("Every worker answered")


def test_refresh__new_rows_look_like_old_ones(recorded: Record, open_page: OpenPage) -> None:
    server = recorded()
    server.say({"active": {"a@h": tasks("11111111-one")}})
    page = open_page(server.url)
    server.say({"active": {"a@h": tasks("11111111-one", "22222222-two")}})
    refresh(page)
    buttons = page.locator("#active .copy")
    expect(buttons).to_have_count(2)
    assert len({button.bounding_box()["x"] for button in buttons.all()}) == 1


def test_health__is_announced_once(recorded: Record, open_page: OpenPage) -> None:
    server = recorded()
    page = open_page(server.url)
    announcement = page.locator("#announcement")
    refresh(page)
    assert announcement.inner_text() == ""
    server.say(ANSWERS, missing={"z@h": ["stats"]})
    refresh(page)
    expect(announcement).to_have_text("Workers are missing, z@h")
    # The words are not joined, although the script removes indentation.
    assert page.locator("#missing > li").text_content().split() == ["z@h", "did", "not", "answer"]
    page.evaluate(
        "new MutationObserver(() => window.again = true)"
        ".observe(document.getElementById('announcement'), {childList: true})"
    )
    refresh(page)
    assert page.evaluate("window.again") is None


def test_copy(recorded: Record, open_page: OpenPage) -> None:
    page = open_page(recorded().url, permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name=f"Copy id {TASK['id']}").click()
    expect(page.locator("#announcement")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == TASK["id"]


def test_copy__without_the_clipboard_of_tls(recorded: Record, open_page: OpenPage) -> None:
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    page.add_init_script("navigator.clipboard.writeText = undefined")
    page.goto(recorded().url)
    page.get_by_role("button", name=f"Copy id {TASK['id']}").click()
    expect(page.locator("#announcement")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == TASK["id"]


def test_no_workers(recorded: Record, open_page: OpenPage) -> None:
    server = recorded()
    server.say(EMPTY)
    page = open_page(server.url)
    expect(page.get_by_text("celery -A project worker")).to_be_visible()
    assert axe(page) == []
    server.say(ANSWERS)
    refresh(page)
    expect(page.locator(".worker")).to_have_count(1)


def test_hostile_names(recorded: Record, open_page: OpenPage, watch: Watch) -> None:
    """No part of a name runs, neither in the first document nor in one that is patched in."""
    hostile = [
        HOSTILE,
        "</code></td></table></main><script>document.title='gone'</script>",
        "<svg/onload=document.title='gone'>",
        "javascript:document.title='gone'",
        "x" * 10_000,
        "__proto__",
        "live",
        "\u202e\u0000\ud83d\ude00",
    ]

    def answer(n: int) -> dict[str, Any]:
        """Put all names everywhere; their order forces rows to be patched and moved."""
        names = hostile[n:] + hostile[:n]
        found: dict[str, Any] = {key: {} for key in ANSWERS}
        for name in names:
            task = {**TASK, "id": name, "name": name, "args": [name], "kwargs": {name: name}}
            found["active"][name] = [{**task, "id": each} for each in names]
            found["scheduled"][name] = [{"eta": name, "request": task}]
            found["reserved"][name] = {"error": name}
            found["revoked"][name] = names
            found["query_task"][name] = {"x": [name, task]}
            found["stats"][name] = {
                **STATS,
                "total": {name: 1},
                "broker": {name: name},
                name: name,
            }
        return found

    server = recorded()
    server.say(answer(0), missing={name: [name] for name in hostile})
    page = open_page(f"{server.url}?task_id=x")
    policy = page.request.get(server.url, headers={"Accept": "text/html"}).headers
    assert policy["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
    for n in range(3):
        for summary in page.locator(".worker summary").all():
            summary.click()
        assert page.title().endswith("Celery workers")
        assert page.locator("main script, main img, main [onload], main [onerror]").count() == 0
        assert page.locator("script").count() == 4
        assert page.locator(".worker").count() == len(hostile)
        expect(page.locator(".worker", has_text="onerror=alert").first).to_be_visible()
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(overflow) == 0
        server.say(answer(n + 1), missing={name: [name] for name in hostile[n:]})
        refresh(page)


def test_many_workers_and_tasks(recorded: Record, open_page: OpenPage) -> None:
    names = [f"worker-{n:03}@node-{n % 20}.example.org" for n in range(200)]
    answers = {
        "stats": dict.fromkeys(names, STATS),
        "active": {name: tasks(*(f"{name}-{n}" for n in range(10))) for name in names},
        "reserved": {name: tasks(*(f"{name}-r{n}" for n in range(15))) for name in names},
        "revoked": {name: [f"revoked-{n}" for n in range(500)] for name in names},
    }
    server = recorded()
    server.say(answers)
    page = open_page(server.url)
    assert page.locator(".worker").count() == 200
    expect(page.locator("#reserved .caption")).to_contain_text("Showing 100 of 3,000.")
    for replies in answers.values():
        del replies[names[-1]]
    server.say(answers)
    refresh(page)
    expect(page.locator("#reserved .caption")).to_contain_text("Showing 100 of 2,985.")
    expect(page.locator("#revoked .caption")).to_contain_text("Showing 100 of 500.")
    assert page.locator(".worker").count() == 199


def test_other_prefix_login_and_static_url(
    recorded: Record, open_page: OpenPage, watch: Watch
) -> None:
    server = recorded(prefix="/tools", STATIC_URL="/assets/v2/", LOGIN_URL="/tools/sign-in/")
    page = open_page(server.url)
    assert page.evaluate("getComputedStyle(document.body).margin") == "0px"
    refresh(page)
    expect(page.locator("#status")).to_contain_text("Live, updated")
    page.get_by_label("Task id").fill("nope")
    page.get_by_role("button", name="Look up").click()
    expect(page.locator(".looked-up")).to_contain_text("No worker that answered knows it")
    assert page.url.startswith(f"{server.url}?task_id=nope")

    closed = recorded(prefix="/tools", LOGIN_URL="/tools/sign-in/?from=stats", DRF_CELERY_STATS={})
    watch.expected = {404}  # The test project has no log-in page.
    page = open_page(closed.url)
    assert page.url == closed.url.replace(PATH, f"/sign-in/?from=stats&next=/tools{PATH}")
