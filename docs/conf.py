"""Sphinx's configuration: the documentation site, made from the Markdown files as they are.

The source directory is the root of the repository, so that links between the files lead to the
same places on the site and where the repository is browsed. ``nox -s docs`` builds it.
"""

from __future__ import annotations

from django.conf import settings

from celery_stats import __version__

settings.configure()  # autodoc imports the package, which reads settings.

project = "drf-celery-stats"
author = "drf-celery-stats contributors"
copyright = author  # noqa: A001 - Sphinx's name
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md"]
# Headings have the anchors that GitHub gives them.
myst_heading_anchors = 4
autodoc_typehints = "description"
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = f"{project} {release}"
html_extra_path = ["site"]
html_show_copyright = False
html_show_sphinx = False
