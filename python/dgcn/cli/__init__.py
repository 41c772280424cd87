"""The command `dgcn`: one file per sub-command, each a `main(argv)` that returns an exit status.

0: done; 1: done, but not all of it; 2: a mistake in the request, named in one line; 130: interrupted; 141: nobody reads
what is printed.
Python's development mode (`python -X dev -m dgcn ...`) shows the traceback of a mistake as well.
"""

from __future__ import annotations

import argparse
import importlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version

from ..memory import keep_freed_memory
from .common import describe

COMMANDS = {
    "demo": "find the people in a photograph: the quickest way to see dgcn work",
    "predict": "find people in pictures and videos: overlays, COCO-format JSON, CSV",
    "video": "find people in a video and follow them: a video, JSON lines and CSV",
    "benchmark": "measure how long each stage from a file to persons takes here",
    "data": "check a data set, and draw samples of it",
    "graph": "write the graphs of a data set or of a checkpoint as JSON and figures",
    "train": "train a model on a data set",
    "eval": "measure a checkpoint on a data set",
    "export": "write a model as ONNX or as a program of torch.export",
    "plot": "draw losses, learning rate and AP of training runs",
    "ablate": "train and measure the rows of a table of the paper's ablation",
    "model": "print the layers, parameters and MACs of a network",
    "check": "report on this installation and test that it works",
}


class _Formatter(logging.Formatter):
    """Messages as they are, and warnings as those of a sub-command."""

    def __init__(self, command: str = "") -> None:
        super().__init__()
        self._command = command

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return f"dgcn {self._command}: warning: {text}" if record.levelno >= logging.WARNING else text


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sub-command that `argv` (default: the process's arguments) names; returns the exit status."""
    keep_freed_memory()
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the caller; the next file that is opened would take its place
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - until the process ends
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what its encoding lacks appears as \xd7, say
            stream.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:] if argv is None else argv
    console = logging.StreamHandler()
    console.setFormatter(_Formatter(*arguments[:1]))
    logging.basicConfig(level=logging.INFO, handlers=[console])
    warnings.filterwarnings("ignore", module=r"PIL\.")  # on EXIF blocks and large pictures, without the file's name
    try:
        return _run(arguments)
    except BrokenPipeError:  # the reader of stdout, say `head`, has gone
        return 141
    finally:
        try:
            sys.stdout.flush()
        except OSError:  # reported by now; to nowhere with the rest, or the interpreter complains as it exits
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="dgcn",
        description="Dynamic graph convolutional network for bottom-up multi-person pose estimation.",
        epilog="commands:\n"
        + "\n".join(f"  {name:<10}{summary}" for name, summary in COMMANDS.items())
        + "\n\n`dgcn COMMAND --help` has the flags and examples of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dgcn {version('dgcn')}")
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="one of the commands below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="flags of that command")
    if not argv:
        parser.print_help(sys.stderr)
        return 2
    args = parser.parse_args(argv)
    try:
        command = importlib.import_module(f"{__name__}.{args.command}")  # here, so that --help need not wait for torch
        status = command.main(args.arguments)
        sys.stdout.flush()  # while a full disk can be reported
        return status
    except KeyboardInterrupt as interrupt:
        print(f"dgcn {args.command}: {str(interrupt) or 'interrupted'}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except (ImportError, MemoryError, OSError, ValueError) as error:
        if sys.flags.dev_mode:
            raise
        print(f"dgcn {args.command}: error: {describe(error)}", file=sys.stderr)
        return 2
