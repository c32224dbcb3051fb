"""Writes the expected answers again."""

from __future__ import annotations

import os

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
django.setup()

from tests.recorded.replay import EXPECTED, RECORDED, answers  # noqa: E402 - needs the settings

for path in EXPECTED.glob("*"):
    path.unlink()
for name in RECORDED:
    for file, content in answers(name):
        (EXPECTED / file).write_bytes(content)
