"""What the tests of the command line share: pictures that `Oracle` knows, and how a command is called."""

from __future__ import annotations

from oracle import standing

from dgcn.cli import main

PICTURES = {
    20: ((640, 480), [standing(200, 80, 300)]),
    60: ((640, 480), [standing(150, 60, 350), standing(450, 100, 280)]),
    140: ((320, 240), []),
}
"""By tone: (width, height) and the keypoints of the persons."""


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])
