"""OpenPifPaf beside dgcn: it needs another Python and another torch, so it runs in a process of its own.

$PEER_PYTHON names an interpreter with openpifpaf 0.13.11 (Python 3.10, torch 1.13.1). Without one, benchmarks time dgcn
alone.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

NAME = "OpenPifPaf 0.13.11"
PYTHON = os.environ.get("PEER_PYTHON")
MISSING = {} if PYTHON else {NAME: "PEER_PYTHON names no interpreter that has it"}


class Worker:
    """peer_worker.py in another process. A call has it work so often, and returns the seconds of one time there."""

    def __init__(self, python: str, *arguments: str) -> None:
        command = [python, str(Path(__file__).with_name("peer_worker.py")), *arguments]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ask(self, **question: object) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.process.args} ended with status {self.process.wait()}")
        return json.loads(answer)

    def load(self, folder: Path, **scene: Any) -> np.ndarray:
        """Hands over the input, through a file in ``folder``, and returns the result."""
        path = folder / "scene.npz"
        np.savez(path, **scene)
        return np.array(self.ask(load=str(path))["result"], np.float32)

    def __call__(self, calls: int = 1) -> float:
        return self.ask(calls=calls)["seconds"]

    def close(self) -> None:
        self.process.communicate()
