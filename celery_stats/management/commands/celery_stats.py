"""Shows a snapshot in a terminal, or one after the other; as a probe, by its exit status."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser
from django.core.management.color import no_style
from django.http import QueryDict
from rest_framework.exceptions import ValidationError

from celery_stats import report as reports
from celery_stats.conf import PARAMETERS, conf
from celery_stats.control.broker import broker_for
from celery_stats.control.configuration import find_app
from celery_stats.control.exceptions import CeleryStatsError
from celery_stats.control.question import FIELDS, Question
from celery_stats.management.forget import forget_lines
from celery_stats.page.terminal import ERROR, Line, Screen, lines, printable, silent
from celery_stats.query import parse_question

#: Exit statuses. argparse also ends with 2 if the command line is wrong.
INCOMPLETE, NOT_ASKED = 1, 2

EXIT_STATUS = (
    "Exit status: 0 if every worker answered everything; 1 if there is no worker, or one did not "
    "answer everything; 2 if the broker is unavailable, or the command line is wrong. "
    "With --watch it is the status of the last snapshot."
)

#: Seconds between two snapshots.
INTERVAL, SHORTEST_INTERVAL = 2.0, 0.5


class Command(BaseCommand):
    help = "Show what every Celery worker is doing. Needs the broker, but no database."
    requires_system_checks: tuple[str, ...] = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = EXIT_STATUS
        repeatable: dict[str, Any] = {"action": "append", "default": []}
        parser.add_argument("--json", action="store_true", help="Print the API's answer.")
        parser.add_argument(
            "--field", choices=FIELDS, help="Ask only for this. May repeat.", **repeatable
        )
        parser.add_argument(
            "--worker",
            metavar="NAME",
            help="Ask only the worker of this full name. May repeat.",
            **repeatable,
        )
        parser.add_argument(
            "--task-id", metavar="ID", help="Look this task up. May repeat.", **repeatable
        )
        parser.add_argument(
            "--timeout",
            type=seconds,
            metavar="SECONDS",
            help="Give workers up after this silence, instead of the setting TIMEOUT. "
            "The setting DEADLINE still bounds the whole.",
        )
        parser.add_argument(
            "--watch",
            nargs="?",
            type=interval,
            const=INTERVAL,
            metavar="SECONDS",
            help="Show a new snapshot this often, until Ctrl-C. "
            f"The default is {INTERVAL:g}, the least {SHORTEST_INTERVAL:g} seconds.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if os.environ.get("NO_COLOR"):
            self.stderr.style_func = None
        self.question = parse(options)
        self.timeout: float | None = options["timeout"]
        self.json: bool = options["json"]
        self.watching = options["watch"] is not None
        plain = os.environ.get("NO_COLOR") or not self.stdout.isatty()
        self.colours = no_style() if plain and not options["force_color"] else self.style
        self.stream = options.get("stdout") or sys.stdout  # OutputWrapper hides it in Django 4.2.
        self.report: reports.Report | None = None
        try:
            if self.watching:
                self.watch(options["watch"])
            else:
                self.show(self.ask())
        except CeleryStatsError as exc:
            raise CommandError(no_snapshot(exc), returncode=NOT_ASKED) from exc
        except BrokenPipeError:
            # The reader has closed the pipe, as ``head`` does. Python would try to write the rest
            # when it ends, and complain.
            with Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), self.stream.fileno())
        if self.report is None:
            sys.exit(NOT_ASKED)
        app = find_app(conf.celery_app)
        broker_for(app).close()
        self.say_how_to_forget(app, self.report)
        if self.report.missing or not any(self.report.answers.values()):
            sys.exit(INCOMPLETE)

    def ask(self) -> reports.Report:
        """Return a report, and keep it for the exit status.

        Raises:
            CeleryStatsError: no snapshot could be taken. No report is kept then.
        """
        try:
            with reason_said_once():
                options = reports.ReportOptions.from_conf(conf, timeout=self.timeout)
                self.report = reports.get_report(self.question, options)
        except CeleryStatsError:
            self.report = None
            raise
        return self.report

    def watch(self, interval: float) -> None:
        """Show snapshot after snapshot until Ctrl-C: on a terminal, each in place of the last.

        Args:
            interval: seconds between two snapshots.
        """
        in_place = self.stdout.isatty() and not self.json
        screen = Screen(self.write, self.styled) if in_place else None
        try:
            while True:
                try:
                    self.show(self.ask(), screen)
                except CeleryStatsError as exc:
                    if screen:
                        screen.show([(no_snapshot(exc), ERROR)])
                    else:
                        self.stderr.write(no_snapshot(exc))
                if screen:
                    screen.wait(interval)
                else:
                    if not self.json:
                        self.write("\n")
                    time.sleep(interval)
        except KeyboardInterrupt:
            # The terminal has written ^C.
            self.write("\n" if in_place else "")

    def show(self, report: reports.Report, screen: Screen | None = None) -> None:
        """Write a report to the screen, if there is one, or below what is written already."""
        if self.json:
            self.write_json(report.json())
            for line, _role in silent(report):
                self.stderr.write(line)
            return
        shown = list(lines(report))
        if screen:
            screen.show(shown)
        else:
            self.write("".join(f"{self.styled(line)}\n" for line in shown))

    def write(self, text: str) -> None:
        """Write text at once."""
        self.stdout.write(text, ending="")
        self.stdout.flush()

    def write_json(self, body: bytes) -> None:
        """Write the body of the HTTP answer, byte for byte, whatever the locale is."""
        buffer = getattr(self.stdout, "buffer", None)
        if buffer is None:
            self.write(body.decode())
        else:
            buffer.write(body)
        self.write("\n" if self.watching or self.stdout.isatty() else "")

    def styled(self, line: Line) -> str:
        """Return a line in the colours of its role, and in the encoding of the output."""
        text, role = line
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        text = text.encode(encoding, "replace").decode(encoding)
        return str(getattr(self.colours, role)(text)) if role else text

    def say_how_to_forget(self, app: Any, report: reports.Report) -> None:
        """Write how to remove a missing worker from the broker's list, if that is necessary.

        A worker that was killed never leaves the list by itself.
        """
        for worker, fields in report.missing.items():
            # A worker that was asked for by name need not be in the list.
            if fields == report.question.fields and not report.question.workers:
                for line in forget_lines(app, worker):
                    self.stderr.write(line, no_style().SUCCESS)


def seconds(text: str) -> float:
    """Parse the value of ``--timeout``."""
    value = float(text)
    if not (isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError("must be more than 0")
    return value


def interval(text: str) -> float:
    """Parse the value of ``--watch``."""
    value = seconds(text)
    if value < SHORTEST_INTERVAL:
        raise argparse.ArgumentTypeError(f"must be at least {SHORTEST_INTERVAL:g}")
    return value


def parse(options: Mapping[str, Any]) -> Question:
    """Return the question that the options ask, within the API's limits.

    Raises:
        CommandError: a value is beyond them; the message is the API's.
    """
    params = QueryDict(mutable=True)
    for name in PARAMETERS:
        params.setlist(name, options[name] or [])
    try:
        question = parse_question(params)
    except ValidationError as exc:
        detail: Any = exc.detail
        mistakes = [f"--{name.replace('_', '-')}: {why[0]}" for name, why in detail.items()]
        raise CommandError(" ".join(mistakes), returncode=NOT_ASKED) from exc
    return replace(question, queues=not (options["json"] or options["field"]))


def no_snapshot(exc: CeleryStatsError) -> str:
    """Return the line that says why there is no snapshot."""
    return printable(f"No snapshot: {reports.reason(exc)}")


@contextmanager
def reason_said_once() -> Iterator[None]:
    """Keep Python from printing the logged reason if the project has no handler for it."""
    logger = logging.getLogger(reports.__name__)

    def wanted(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING or logger.hasHandlers()

    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)
