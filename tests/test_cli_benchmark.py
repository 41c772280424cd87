"""The command `dgcn benchmark`."""

from __future__ import annotations

import json
import os

import pytest
import torch
from cli_cases import run
from oracle import Oracle

from dgcn.cli import benchmark

STAGES = ["read", "scale", "network", "decoder", "draw"]


def test_every_way_is_measured_in_turns(oracle, folder, tmp_path, monkeypatch, capsys) -> None:
    """Seven pictures, four to a turn. A last batch that is not full takes part in the pipeline only."""
    monkeypatch.setattr(benchmark, "TURN", 4)
    forward, seen = Oracle.forward, []

    def counting(self: Oracle, images):
        seen.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(Oracle, "forward", counting)
    output = tmp_path / "speed.json"
    threads = torch.get_num_threads()
    arguments = ("--images", 7, "--batch-size", 1, 2, "--threads", threads, "--json-output", output)
    assert run("benchmark", "--source", folder, *arguments, "--device", "cpu") == 0
    warm_up = 2
    assert sum(seen) == 7 + 7 + warm_up * 1 + 6 + 7 + warm_up * 2

    document = json.loads(output.read_text())
    assert document["command"].startswith(f"dgcn benchmark --source {folder} --images 7")
    assert document["machine"]["CPU"]
    assert document["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert [each["batch_size"] for each in document["runs"]] == [1, 2]
    for measured in document["runs"]:
        assert list(measured["stages"]) == STAGES
        assert all(0 < stage["median_ms"] <= stage["p95_ms"] for stage in measured["stages"].values())
        assert {"growing", "refining"} <= measured["decoder"].keys()
        assert min(measured["pictures_per_second"].values()) > 0
        assert measured["memory_mib"] > 0
        assert measured["hardware"] == f"CPU, threads: {threads}"
    printed = capsys.readouterr().out
    assert printed.count("pictures/s") == 2
    assert [line.split()[0] for line in printed.splitlines() if line[:1].isalpha() and "MiB" not in line][
        -6:-1
    ] == STAGES


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "-1"], "--threads must be at least 0, got -1"),
        (["--source", "-"], "--source must name pictures, got "),
        (["--source", "{folder}", "--json-output", "{folder}/20.png"], "20.png cannot be written: it is an input"),
        (["--source", "{folder}/none.jpg"], "none.jpg"),
    ],
)
def test_bad_requests_take_one_line(arguments, message, folder, capsys) -> None:
    before = {entry.name: entry.stat().st_mtime_ns for entry in os.scandir(folder)}
    assert run("benchmark", *(argument.format(folder=folder) for argument in arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dgcn benchmark: error: ")
    assert message in line
    assert {entry.name: entry.stat().st_mtime_ns for entry in os.scandir(folder)} == before
