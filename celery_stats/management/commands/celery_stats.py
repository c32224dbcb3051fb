"""The snapshot in a terminal, and as a probe by its exit status."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from math import isfinite
from pathlib import Path
from shutil import get_terminal_size
from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser
from django.core.management.color import no_style
from django.http import QueryDict
from rest_framework.exceptions import ValidationError

from celery_stats import report as reports
from celery_stats.conf import conf
from celery_stats.control.broker import broker_for
from celery_stats.control.configuration import find_app
from celery_stats.control.exceptions import CeleryStatsError
from celery_stats.control.question import FIELDS, Question
from celery_stats.management.forget import forget_line
from celery_stats.management.text import lines, printable, silent
from celery_stats.query import parse_question

#: Exit statuses. argparse, too, ends with 2 where the command line is wrong.
INCOMPLETE, NOT_ASKED = 1, 2

EXIT_STATUS = (
    "Exit status: 0 if every worker answered everything; 1 if there is no worker, or one did not "
    "answer everything; 2 if the broker is unavailable, or the command line is wrong."
)

#: Columns to fill where the output is no terminal and COLUMNS is not set: no line is cut.
UNLIMITED = 10_000


class Command(BaseCommand):
    help = "Show what every Celery worker is doing. Needs the broker, but no database."
    requires_system_checks: tuple[str, ...] = ()

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, epilog=EXIT_STATUS, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
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

    def handle(self, *args: Any, **options: Any) -> None:
        if os.environ.get("NO_COLOR"):
            self.stderr.style_func = None
        question = parse(options)
        question = replace(question, queues=not (options["json"] or options["field"]))
        try:
            with reason_said_once():
                asked = reports.ReportOptions.from_conf(conf, timeout=options["timeout"])
                report = reports.get_report(question, asked)
        except CeleryStatsError as exc:
            said = printable(reports.reason(exc))
            raise CommandError(f"No snapshot: {said}", returncode=NOT_ASKED) from exc
        broker_for(find_app(conf.celery_app)).close()

        stream = options.get("stdout") or sys.stdout  # what OutputWrapper hides in Django 4.2
        try:
            self.write(report, question, options, stream)
            stream.flush()
        except BrokenPipeError:
            # Whoever reads has seen enough, as ``head`` does. Python would write the rest at its
            # end, and complain.
            with Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())
        self.say_how_to_forget(report, question)
        if report.missing or not any(report.answers.values()):
            sys.exit(INCOMPLETE)

    def write(
        self,
        report: reports.Report,
        question: Question,
        options: Mapping[str, Any],
        stream: Any,
    ) -> None:
        if options["json"]:
            self.write_json(report.json())
            for line, _role in silent(report, question, UNLIMITED):
                self.stderr.write(line)
        else:
            style = self.style_for(options)
            width = get_terminal_size((UNLIMITED, 0)).columns
            for line, role in lines(report, question, width):
                self.stdout.write(encodable(line, stream), getattr(style, role, None))

    def say_how_to_forget(self, report: reports.Report, question: Question) -> None:
        """Write how workers leave the broker's list, which a killed one never does by itself."""
        app = find_app(conf.celery_app)
        for worker, owed in report.missing.items():
            # Who was asked for by name need not be in the list.
            line = None if question.workers else forget_line(app, worker)
            if line and owed == question.fields:
                self.stderr.write(f"If {worker} is gone for good: {line}", no_style().SUCCESS)

    def style_for(self, options: Mapping[str, Any]) -> Any:
        """Django's colours, also gone where NO_COLOR is set or ``stdout`` is not its own."""
        plain = os.environ.get("NO_COLOR") or not self.stdout.isatty()
        return no_style() if plain and not options["force_color"] else self.style

    def write_json(self, body: bytes) -> None:
        """Write the body of the HTTP answer, byte by byte, whatever the locale."""
        buffer = getattr(self.stdout, "buffer", None)
        if buffer is None:
            self.stdout.write(body.decode(), ending="")
        else:
            buffer.write(body)
        if self.stdout.isatty():
            self.stdout.write()


def seconds(text: str) -> float:
    value = float(text)
    if not (isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError("must be more than 0")
    return value


def parse(options: Mapping[str, Any]) -> Question:
    """Return what the options ask, within the API's limits.

    Raises:
        CommandError: with the API's words for what is wrong.
    """
    params = QueryDict(mutable=True)
    for name in ("task_id", "worker", "field"):
        if options[name]:
            params.setlist(name, options[name])
    try:
        return parse_question(params)
    except ValidationError as exc:
        detail: Any = exc.detail
        mistakes = [f"--{name.replace('_', '-')}: {why[0]}" for name, why in detail.items()]
        raise CommandError(" ".join(mistakes), returncode=NOT_ASKED) from exc


@contextmanager
def reason_said_once() -> Iterator[None]:
    """Keep Python from printing the logged reason where the project has no handler for it."""
    logger = logging.getLogger(reports.__name__)

    def wanted(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING or logger.hasHandlers()

    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


def encodable(text: str, stream: Any) -> str:
    """The text with question marks for what the stream's encoding does not have."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)
