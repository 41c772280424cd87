"""The command `dgcn`: one file per sub-command, each a `main(argv)` that returns an exit status.

0: done; 1: done, but not all of it; 2: a mistake in the request, named in one line; 130: interrupted.
Python's development mode (`python -X dev -m dgcn ...`) shows the traceback of a mistake as well.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version

COMMANDS = {
    "demo": "find the people in a photograph: the quickest way to see dgcn work",
    "predict": "find people in pictures: overlays and COCO-format JSON",
    "eval": "measure a checkpoint on a COCO keypoint set",
    "train": "train a model on a COCO keypoint set",
    "check": "report on this installation and test that it works",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sub-command that `argv` (default: the process's arguments) names; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="dgcn",
        description="Dynamic graph convolutional network for bottom-up multi-person pose estimation.",
        epilog="commands:\n"
        + "\n".join(f"  {name:<9}{summary}" for name, summary in COMMANDS.items())
        + "\n\n`dgcn COMMAND --help` has the flags and examples of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dgcn {version('dgcn')}")
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="one of the commands below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="flags of that command")
    args = parser.parse_args(argv)
    command = importlib.import_module(f"{__name__}.{args.command}")  # here, so that --help need not wait for torch
    try:
        return command.main(args.arguments)
    except KeyboardInterrupt as interrupt:
        print(f"dgcn {args.command}: {str(interrupt) or 'interrupted; nothing was written'}", file=sys.stderr)
        return 130
    except (OSError, ValueError) as error:
        if sys.flags.dev_mode:
            raise
        print(f"dgcn {args.command}: error: {_describe(error)}", file=sys.stderr)
        return 2


def _describe(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)
