"""The pages of the repository as a site: `make docs`.

The source folder is the repository itself, so that links between pages are those that hold on GitHub. README.md is the
first page; the pages that it links to are the others, in its order. Two more are made here from the code: the --help of
every command, and the Python interface from its docstrings.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
from importlib.metadata import version as version_of
from pathlib import Path

from sphinx.application import Sphinx

from dgcn.cli import COMMANDS, main
from dgcn.skeleton import Skeleton

os.environ["COLUMNS"] = "88"  # the width of the --help, which fits the page

project = "dgcn"
version = release = version_of("dgcn")
copyright = "the authors of dgcn, MIT licence"
root_doc = "README"
include_patterns = ["**.md", "docs/api.rst"]
exclude_patterns = [".*", "build", "dist", "runs", "demo"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["html_image"]
myst_heading_anchors = 3
default_role = "code"
highlight_language = "none"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
maximum_signature_line_length = 100
suppress_warnings = ["toc.not_included"]  # pages that are linked from other pages only

# As the default of a parameter its own would fill the page.
Skeleton.__repr__ = lambda self: f"Skeleton({self.name!r}, ...)"  # type: ignore[method-assign]

html_theme = "furo"
html_title = f"dgcn {release}"


def add_toctree(app: Sphinx, page: str, source: list[str]) -> None:
    if page == root_doc:
        linked = re.findall(r"\]\(([\w/.-]+)\.md\)", source[0])
        pages = ["docs/api", *dict.fromkeys(linked)]
        source[0] += "\n```{toctree}\n:hidden:\n:titlesonly:\n\n" + "\n".join(pages) + "\n```\n"


def add_help(app: Sphinx, page: str, source: list[str]) -> None:
    if page == "docs/commands":
        for command in COMMANDS:
            output = io.StringIO()
            with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
                main([command, "--help"])
            source[0] += f"\n## dgcn {command}\n\n```text\n{output.getvalue()}```\n"


def prepare_docstring(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Make an indented block a literal one, as in Markdown; keep an attribute's text together.

    Napoleon takes what precedes a colon in an attribute's first line as its type; so that line becomes a comment."""
    text = re.sub(r"^(\S.*)\n\n(?=    )", r"\1\n\n::\n\n", "\n".join(lines), flags=re.MULTILINE)
    lines[:] = [*(["..", ""] if what == "attribute" else []), *text.split("\n")]


def open_at_readme(app: Sphinx, exception: Exception | None) -> None:
    if exception is None:
        shutil.copy(Path(app.outdir, "README.html"), Path(app.outdir, "index.html"))


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_toctree)
    app.connect("source-read", add_help)
    app.connect("autodoc-process-docstring", prepare_docstring, priority=400)  # before Napoleon
    app.connect("build-finished", open_at_readme)
