"""Shows a snapshot in a terminal, or one after the other; as a probe, by its exit status."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser
from django.core.management.color import no_style

from celery_stats.conf import conf
from celery_stats.control.broker import connections_for
from celery_stats.control.configuration import find_app
from celery_stats.control.exceptions import CeleryStatsError
from celery_stats.management.forget import NotForgotten, forget
from celery_stats.page.findings import forgettable, notes
from celery_stats.page.pasted import pasted_question
from celery_stats.page.terminal import ERROR, Line, Screen, lines, printable
from celery_stats.page.text import plural
from celery_stats.query import PARAMETERS, WrongQuestion, make_question
from celery_stats.report import Report, ReportOptions, reason, share_report
from celery_stats.shapes import unexpected_replies

#: Exit statuses. argparse also ends with 2 if the command line is wrong.
INCOMPLETE, NOT_ASKED = 1, 2

EXIT_STATUS = (
    "Exit status: 0 if every worker answered everything; 1 if there is no worker, or one did not "
    "answer everything, or reported an error; 2 if the broker is unavailable, or the command line "
    "is wrong. With --watch it is the status of the last snapshot. Called from Python, the "
    "command raises a CommandError whose returncode is this status."
)

#: Seconds between two snapshots.
INTERVAL, SHORTEST_INTERVAL = 2.0, 0.5

#: Names of missing workers in an error.
NAMES_SHOWN = 10


class Command(BaseCommand):
    help = "Show what every Celery worker is doing. Needs the broker, but no database."
    requires_system_checks: tuple[str, ...] = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = EXIT_STATUS
        for name, parameter in PARAMETERS.items():
            parser.add_argument(
                f"--{name.replace('_', '-')}",
                action="append",
                default=[],
                choices=parameter.choices or None,
                metavar=parameter.metavar,
                help=f"{parameter.meaning} May repeat.",
            )
        parser.add_argument("--json", action="store_true", help="Print the API's answer.")
        parser.add_argument(
            "--timeout",
            type=float,
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
        parser.add_argument(
            "--forget",
            metavar="NAME",
            help="Remove the worker of this full name from the broker's list, if it does not "
            "answer. For a worker that was killed, on Redis.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if os.environ.get("NO_COLOR"):
            self.stderr.style_func = None
        self.json: bool = options["json"]
        self.watching = options["watch"] is not None
        plain = os.environ.get("NO_COLOR") or not self.stdout.isatty()
        self.colours = no_style() if plain and not options["force_color"] else self.style
        self.stream = options.get("stdout") or sys.stdout  # OutputWrapper hides it in Django 4.2.
        try:
            self.run(options)
        except WrongQuestion as exc:
            mistakes = [f"--{name.replace('_', '-')}: {text}" for name, text in exc.errors.items()]
            raise CommandError(" ".join(mistakes), returncode=NOT_ASKED) from None
        except NotForgotten as exc:
            raise CommandError(
                printable(f"Not forgotten: {exc}."), returncode=INCOMPLETE
            ) from None
        except CeleryStatsError as exc:
            raise CommandError(no_snapshot(exc), returncode=NOT_ASKED) from None

    def run(self, options: Mapping[str, Any]) -> None:
        """Do what the options say; see ``handle`` for the errors."""
        self.options = ReportOptions.from_conf(conf, timeout=options["timeout"])
        if options["forget"]:
            forget(options["forget"], self.options)
            self.write(printable(f"{options['forget']} is forgotten.") + "\n")
            return
        values = {name: options[name] or [] for name in PARAMETERS}
        self.question = make_question(values) if self.json else pasted_question(values)
        #: The last snapshot, or why there is none. It decides the exit status.
        self.last: Report | CeleryStatsError = CeleryStatsError("none was asked for")
        try:
            if self.watching:
                self.watch(options["watch"])
            else:
                self.last = share_report(self.question, self.options)
                self.show(self.last)
        except BrokenPipeError:
            # The reader has closed the pipe, as ``head`` does. Python would try to write the rest
            # when it ends, and complain.
            with Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), self.stream.fileno())
        if isinstance(self.last, CeleryStatsError):
            raise self.last
        self.conclude(self.last)

    def conclude(self, report: Report) -> None:
        """Close the connection, and say how to forget workers that may have been killed.

        Raises:
            CommandError: there is no worker, or one did not answer everything.
        """
        connections_for(find_app(self.options.app)).close()
        for name in forgettable(report):
            command = shlex.join(["python", "manage.py", "celery_stats", "--forget", name])
            self.stderr.write(
                printable(f"If the process of {name} is gone and not only frozen: {command}"),
                no_style().SUCCESS,
            )
        # A probe is not read on a terminal, and may send its standard output to nowhere.
        for note in notes(report) if self.json or not self.stdout.isatty() else ():
            self.stderr.write(note, no_style().SUCCESS)
        if report.missing:
            raise CommandError(incomplete(report), returncode=INCOMPLETE)
        if not any(report.answers.values()):
            raise CommandError("No worker answered.", returncode=INCOMPLETE)
        if unexpected_replies(report.answers):
            raise CommandError("A worker reported an error.", returncode=INCOMPLETE)

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
                    self.last = share_report(self.question, self.options)
                    self.show(self.last, screen)
                except CeleryStatsError as exc:
                    self.last = exc
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

    def show(self, report: Report, screen: Screen | None = None) -> None:
        """Write a report to the screen, if there is one, or below what is written already."""
        if self.json:
            self.write_json(report.json())
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
        """Write the body of the HTTP answer: byte for byte, but for what a terminal would obey."""
        buffer = getattr(self.stdout, "buffer", None)
        if self.stdout.isatty():
            text = body.decode()
            self.write(text if text.isprintable() else "".join(map(escaped, text)))
        elif buffer is None:
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


def interval(text: str) -> float:
    """Parse the value of ``--watch``."""
    value = float(text)
    if not (isfinite(value) and value >= SHORTEST_INTERVAL):
        raise argparse.ArgumentTypeError(f"must be at least {SHORTEST_INTERVAL:g}")
    return value


def no_snapshot(exc: CeleryStatsError) -> str:
    """Return the line that says why there is no snapshot."""
    return printable(f"No snapshot: {reason(exc)}")


def incomplete(report: Report) -> str:
    """Return the line that names the missing workers, the first of them at least."""
    names = list(report.missing)
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    known = ", ".join(names[:NAMES_SHOWN])
    return printable(f"{plural(len(names), 'worker')} did not answer everything: {known}{more}.")


def escaped(character: str) -> str:
    """Return a character of JSON, or its escape in JSON if a terminal would obey or hide it."""
    return character if character.isprintable() else json.dumps(character)[1:-1]
