"""The lines and the filter of the page, in a real browser over recorded answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.chromium import OpenPage, Page, Record, Recorded, needs_chromium, pages

pytestmark = needs_chromium


def task(task_id: str, name: str, queue: str = "celery") -> dict[str, Any]:
    return {"id": task_id, "name": name, "delivery_info": {"routing_key": queue}}


def stats(slots: int = 4, **total: int) -> dict[str, Any]:
    return {"pool": {"max-concurrency": slots}, "total": total}


@pytest.fixture
def server(recorded: Record) -> Recorded:
    return recorded()


@pytest.fixture
def open_page(browser: Any) -> Iterator[OpenPage]:
    """Open pages that must not write to the console, not even about their security policy."""
    complaints: list[str] = []

    def listen(page: Page) -> None:
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text))

    with pages(browser, listen) as open_page:
        yield open_page
    assert complaints == []


def refresh(page: Page) -> None:
    """Refresh the page in place, and wait for the end."""
    before = page.locator("#taken").get_attribute("datetime")
    page.evaluate("document.getElementById('refresh').click()")
    page.wait_for_function(
        "before => document.getElementById('taken').dateTime !== before", arg=before
    )


def address(page: Page) -> str:
    return str(page.evaluate("location.href"))


def words(page: Page, where: str) -> str:
    """Return what a screen reader says about a line, without the time."""
    (title,) = page.locator(f"{where} svg[role='img'] title").all_text_contents()
    return " ".join([title.split(" since ")[0], title.partition(": ")[2]])


class TestTrends:
    def test_totals__a_line_and_its_words_for_each(
        self, server: Recorded, open_page: OpenPage
    ) -> None:
        page = None
        for active, reserved in ((1, 0), (3, 2), (2, 2)):
            server.say(
                {
                    "active": {"a@h": [task(str(n), "x") for n in range(active)]},
                    "reserved": {"a@h": [task(str(n), "x") for n in range(reserved)]},
                    "scheduled": {"a@h": []},
                    "stats": {"a@h": stats(x=5)},
                }
            )
            if page is None:
                page = open_page(server.url)
                assert page.locator(".trend").count() == 0
            else:
                refresh(page)
        assert words(page, "[data-key=active]") == "Active lowest 1, highest 3, now 2"
        assert words(page, "[data-key=reserved]") == "Reserved lowest 0, highest 2, now 2"
        assert words(page, "[data-key=scheduled]") == "Scheduled lowest 0, highest 0, now 0"
        assert words(page, ".worker .busy") == "Busy lowest 1, highest 3, now 2"
        assert page.locator("[data-key=revoked] .trend").count() == 0
        path = page.locator("[data-key=active] .trend path").get_attribute("d")
        heights = [float(point.split(" ")[1]) for point in path[1:].split("L")]
        assert heights == [13.0, 1.0, 7.0]
        busy = page.locator(".worker .trend path").get_attribute("d")
        assert [float(point.split(" ")[1]) for point in busy[1:].split("L")] == [14.5, 5.5, 10.0]

    def test_queue__a_line(self, server: Recorded, open_page: OpenPage) -> None:
        page = None
        for length in (5, 12, 7):
            server.say({"stats": {"a@h": stats()}}, queues={"mail": length})
            if page is None:
                page = open_page(server.url)
            else:
                refresh(page)
        assert words(page, ".queues [data-key=mail]") == "Waiting lowest 5, highest 12, now 7"

    def test_line__drawn_with_a_colour_and_a_size(
        self, server: Recorded, open_page: OpenPage
    ) -> None:
        server.say({"active": {"a@h": []}, "stats": {"a@h": stats()}})
        page = open_page(server.url)
        refresh(page)
        svg = page.locator("[data-key=active] .trend")
        assert svg.evaluate("svg => getComputedStyle(svg).stroke") == "rgb(23, 105, 91)"
        assert svg.bounding_box()["width"] > 50

    def test_processed__a_minute_by_worker(self, server: Recorded, open_page: OpenPage) -> None:
        def say(**processed: int) -> None:
            server.say({"stats": {f"{name}@h": stats(x=n) for name, n in processed.items()}})

        say(a=1000, b=10)
        page = open_page(server.url)
        set_time(page, 0)
        # Worker a does not answer, then does again. Worker b is started again.
        for seconds, processed in ((10, {"b": 16}), (20, {"a": 1009, "b": 4})):
            say(**processed)
            refresh_at(page, seconds)
        assert page.locator(".rate").inner_text() == "30 a minute"
        assert words(page, "[data-key=processed]") == (
            "Processed a minute lowest 0, highest 36, now 30"
        )

    def test_worker_that_leaves_and_returns__a_gap(
        self, server: Recorded, open_page: OpenPage
    ) -> None:
        page = None
        for names in ("ab", "a", "ab", "ab"):
            server.say({"active": {f"{n}@h": [] for n in names}, "stats": {"a@h": stats()}})
            if page is None:
                page = open_page(server.url)
            else:
                refresh(page)
        path = page.locator(".worker[data-key='b@h'] .trend path").get_attribute("d")
        assert path.count("M") == 2

    def test_a_day__as_many_points_as_before_and_the_peak_kept(
        self, server: Recorded, open_page: OpenPage
    ) -> None:
        server.say({"active": {"a@h": []}, "stats": {"a@h": stats()}})
        page = open_page(server.url)
        # One report every thirty seconds, as if the server had sent it.
        page.evaluate(
            """async () => {
                const taken = document.getElementById("taken");
                const total = document.getElementById("total-active");
                const start = Date.parse(taken.dateTime);
                for (let n = 1; n <= 2880; n += 1) {
                    total.setAttribute("value", n === 117 ? 99 : 3);
                    taken.dateTime = new Date(start + 30000 * n).toISOString();
                    await Promise.resolve();
                }
            }"""
        )
        path = page.locator("[data-key=active] .trend path").get_attribute("d")
        points = [point.split(" ") for point in path[1:].split("L")]
        assert 120 <= len(points) <= 240
        assert [float(points[0][0]), float(points[-1][0])] == [0.0, 100.0]
        # It is at the 117th of 2,880 reports.
        peak = min(points, key=lambda point: float(point[1]))
        assert float(peak[0]) == pytest.approx(4.06, abs=1)
        assert words(page, "[data-key=active]") == "Active lowest 3, highest 99, now 3"

    def test_no_script__neither_lines_nor_filter(
        self, server: Recorded, open_page: OpenPage
    ) -> None:
        server.say({"active": {"a@h": []}, "stats": {"a@h": stats()}})
        page = open_page(server.url, java_script_enabled=False)
        assert page.locator("#total-active").inner_text() == "0"
        assert page.locator(".trend").count() == 0
        assert not page.locator("#filter").is_visible()


def set_time(page: Page, seconds: int) -> None:
    """Make every report of the page have this time from now on."""
    page.evaluate(
        """seconds => {
            window.at = new Date(Date.UTC(2040, 0, 1, 0, 0, seconds)).toISOString();
            if (window.real) return;
            window.real = window.fetch;
            window.fetch = async (...asked) => {
                const response = await window.real(...asked);
                const text = await response.text();
                const changed = text.replace(/datetime="[^"]*"/, `datetime="${window.at}"`);
                return new Response(changed, response);
            };
            document.getElementById("taken").dateTime = window.at;
        }""",
        seconds,
    )


def refresh_at(page: Page, seconds: int) -> None:
    set_time(page, seconds)
    refresh(page)


class TestFilter:
    @pytest.fixture
    def page(self, server: Recorded, open_page: OpenPage) -> Page:
        self.open_page, self.server = open_page, server
        server.say(
            {
                "active": {
                    "one@h": [task("11111111-0000", "mail.send", "mail")],
                    "two@h": [task("22222222-0000", "shop.order", "orders")],
                },
                "reserved": {"two@h": [task("33333333-0000", "mail.send", "mail")]},
                "revoked": {"one@h": ["11111111-9999"]},
                "stats": {"one@h": stats(**{"mail.send": 3}), "two@h": stats(**{"shop.order": 1})},
            },
            missing={"three@h": ["stats"]},
            queues={"mail": 4, "orders": 0},
        )
        return open_page(server.url)

    def rows(self, page: Page) -> dict[str, list[str]]:
        """Return the keys of the visible rows of each list."""
        lists = {
            "workers": ".worker",
            "missing": "#missing > li",
            "queues": ".queues tbody tr",
            "tasks": ".tasks tbody tr, .revoked .id",
        }
        return {
            name: [
                row.get_attribute("data-key")[:8]
                for row in page.locator(selector).all()
                if row.is_visible()
            ]
            for name, selector in lists.items()
        }

    @pytest.mark.parametrize(
        ("text", "workers", "missing", "queues", "tasks"),
        [
            ("", ["one@h", "two@h"], ["three@h"], ["mail", "orders"], ["1", "2", "3"]),
            ("ORDER", ["two@h"], [], ["orders"], ["2"]),
            ("two@", ["two@h"], [], [], ["2", "3"]),
            ("three", [], ["three@h"], [], []),
            ("mail two", [], [], [], ["3"]),
            ("11111111-9", [], [], [], ["1"]),
            ("nothing like it", [], [], [], []),
        ],
    )
    def test_text__the_rows_that_hold_every_word(
        self,
        page: Page,
        text: str,
        workers: list[str],
        missing: list[str],
        queues: list[str],
        tasks: list[str],
    ) -> None:
        page.get_by_label("Filter").fill(text)
        expected = {"workers": workers, "missing": missing, "queues": queues}
        expected["tasks"] = [8 * digit for digit in tasks]
        assert self.rows(page) == expected
        shown = sum(map(len, expected.values()))
        said = page.locator("#filter-status").inner_text()
        assert said == (f"{shown} of 9 rows" if text else "")

    def test_refresh__stays_narrowed_and_asks_the_same(self, page: Page) -> None:
        page.get_by_label("Filter").fill("two@")
        before = self.rows(page)
        with page.expect_request(lambda request: request.resource_type == "fetch") as asked:
            refresh(page)
        assert asked.value.url == self.server.url
        assert self.rows(page) == before

    def test_address__holds_the_filter_for_another_visitor(self, page: Page) -> None:
        page.get_by_label("Filter").fill("mail & 100% ")
        assert address(page) == f"{self.server.url}#filter=mail%20%26%20100%25"
        page.get_by_label("Filter").fill("two@")
        assert address(page) == f"{self.server.url}#filter=two%40"
        other = self.open_page(address(page))
        assert other.get_by_label("Filter").input_value() == "two@"
        assert self.rows(other) == self.rows(page)
        page.get_by_label("Filter").fill("")
        assert address(page) == self.server.url

    def test_nothing_matches__no_empty_table_and_said(self, page: Page) -> None:
        page.get_by_label("Filter").fill("nothing like it")
        assert page.locator("main table:visible").count() == 0
        content = "one => getComputedStyle(one, '::after').content"
        captions = page.locator("#workers .caption, #queues .caption, #active .caption")
        assert {caption.evaluate(content) for caption in captions.all()} == {
            '"No row matches the filter."'
        }
        page.get_by_label("Filter").fill("")
        assert page.locator("main table:visible").count() >= 3
        assert captions.first.evaluate(content) == "none"

    def test_jump_within_the_page__keeps_the_filter(self, page: Page) -> None:
        page.get_by_label("Filter").fill("two@")
        page.evaluate("location.hash = 'tasks'")
        page.wait_for_url("**#filter=two%40")
        assert page.get_by_label("Filter").input_value() == "two@"

    def test_address_that_is_no_filter__no_error(
        self, server: Recorded, open_page: OpenPage
    ) -> None:
        server.say({"active": {"a@h": []}})
        page = open_page(f"{server.url}#filter=%E0%A4%A")
        assert page.get_by_label("Filter").input_value() == ""
