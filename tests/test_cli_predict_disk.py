"""What `dgcn predict` leaves on the disk: after a kill, on a full disk, and where a file cannot be written."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from cli_cases import run
from conftest import limited_files
from oracle import Oracle

from dgcn.cli.common import write_overlay
from dgcn.predict import torch_network
from dgcn.skeleton import COCO


def test_predict_interrupted_keeps_what_is_done(oracle, folder, tmp_path, monkeypatch, capsys) -> None:
    forward = Oracle.forward

    def interrupted(self: Oracle, images):
        if images[0, 0, 99, 99] == 60:
            raise KeyboardInterrupt
        return forward(self, images)

    monkeypatch.setattr(Oracle, "forward", interrupted)
    assert run("predict", "--source", folder, "-o", tmp_path / "out") == 130
    assert "interrupted; 2 of 3 pictures were finished and written" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]) == 2


ON_THE_WAY = 3  # pictures that are read, in the network or decoded while the one before is written


@pytest.fixture
def series(folder) -> Path:
    """A folder of ten pictures with a person each."""
    (folder / "series").mkdir()
    for number in range(10):
        shutil.copy(folder / "20.png", folder / "series" / f"{number}.png")
    return folder / "series"


def whole_lines(journal: Path) -> list[dict]:
    """The pictures of a journal. What follows the last line break is in work: a write is not one step to another thread
    that reads the file, nor to a kill."""
    return [json.loads(line) for line in journal.read_text().split("\n")[:-1]]


def test_results_reach_the_disk_as_they_come(oracle, series, tmp_path, monkeypatch) -> None:
    """What a kill would leave: a line for each picture that is done, and no JSON yet."""
    forward, seen = Oracle.forward, []

    def look(self: Oracle, images):
        (journal,) = tmp_path.glob("out/set.json.*.partial")
        seen.append(whole_lines(journal))
        return forward(self, images)

    monkeypatch.setattr(Oracle, "forward", look)
    path = tmp_path / "out" / "set.json"
    assert run("predict", "--source", series, "-o", tmp_path / "out", "--json-output", path) == 0
    assert all(len(pictures) >= number - ON_THE_WAY for number, pictures in enumerate(seen))
    found = json.loads(path.read_text())
    assert [picture["image"] for picture in seen[-1]] == found["images"][: len(seen[-1])]
    assert seen[-1][1]["annotations"][0].items() <= found["annotations"][1].items()
    assert not list(tmp_path.glob("out/*.partial"))


def test_what_a_killed_run_left_is_kept(oracle, folder, tmp_path, capsys) -> None:
    left = tmp_path / "out" / "predictions.json.1.partial"
    left.parent.mkdir()
    left.write_text("results\n")
    assert run("predict", "--source", folder, "-o", tmp_path / "out") == 0
    assert f"{left} has the results of another run" in capsys.readouterr().err
    assert left.read_text() == "results\n"
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]) == 3


def signal_at(number: int, sent: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """This process gets a signal as the picture of this number, from 1, comes to the network. Returns what grows by an
    element with each picture that does."""
    forward, seen = Oracle.forward, []

    def counting(self: Oracle, images):
        seen.append(len(seen) + 1)
        if len(seen) == number:
            os.kill(os.getpid(), sent)
        return forward(self, images)

    monkeypatch.setattr(Oracle, "forward", counting)
    return seen


def test_after_a_signal_what_is_on_its_way_is_written(oracle, series, tmp_path, monkeypatch, capsys) -> None:
    seen = signal_at(4, signal.SIGTERM, monkeypatch)
    handler = signal.getsignal(signal.SIGTERM)
    assert run("predict", "--source", series, "-o", tmp_path / "out") == 130
    assert signal.getsignal(signal.SIGTERM) is handler
    count = len(seen)
    assert 4 <= count <= 4 + ON_THE_WAY
    assert f"interrupted; {count} of 10 pictures were finished and written" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]) == count


def test_interrupted_before_the_first_picture(oracle, folder, tmp_path, monkeypatch) -> None:
    def interrupted(self: Oracle, images) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Oracle, "forward", interrupted)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions.json").write_text("of an earlier run")
    assert run("predict", "--source", folder, "-o", tmp_path / "out") == 130
    assert {path.name: path.read_text() for path in tmp_path.glob("out/*")} == {"predictions.json": "of an earlier run"}


def test_killed(oracle, series, tmp_path, monkeypatch) -> None:
    """SIGKILL at the eighth picture: journal, CSV and overlays have those before that were not on their way."""
    signal_at(8, signal.SIGKILL, monkeypatch)
    output = tmp_path / "out"
    arguments = ("predict", "--source", series, "-o", output, "--csv-output", output / "poses.csv")
    process = multiprocessing.get_context("fork").Process(target=run, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    names = [each["image"]["file_name"] for each in whole_lines(output / "predictions.json.1.partial")]
    assert names == [f"{number}.png" for number in range(len(names))]
    assert 7 - ON_THE_WAY <= len(names) <= 7
    done = names[:-1]  # of the last one the kill may have come before its row or its overlay
    with open(output / "poses.csv", newline="") as file:
        rows = [row["source"] for row in csv.DictReader(file)]
    assert rows[: 17 * len(done)] == [name for name in done for _ in range(17)]
    assert {f"{Path(name).stem}.dgcn.jpg" for name in done} <= {path.name for path in output.iterdir()}


def test_a_full_disk_keeps_what_is_done(oracle, folder, tmp_path, capsys) -> None:
    """The second picture with a person does not fit the journal."""
    arguments = ("predict", "--source", folder, "-o", tmp_path, "--no-overlay", "--csv-output", tmp_path / "a.csv")
    with limited_files(1500):
        assert run(*arguments) == 1
    output = capsys.readouterr()
    journal = tmp_path / "predictions.json.1.partial"
    assert output.err == f"dgcn predict: error: {journal}: File too large; 2 of 3 pictures were finished and written\n"
    assert "1 persons in 2 of 3 pictures" in output.out
    found = json.loads((tmp_path / "predictions.json").read_text())
    assert [image["file_name"] for image in found["images"]] == ["140.png", "20.png"]
    assert len(found["annotations"]) == 1
    assert not journal.exists()
    with open(tmp_path / "a.csv", newline="") as file:
        assert [row["source"] for row in csv.DictReader(file)] == ["20.png"] * 17


def test_where_the_json_does_not_fit_either(oracle, folder, tmp_path, capsys) -> None:
    with limited_files(2500):
        assert run("predict", "--source", folder, "-o", tmp_path, "--no-overlay") == 1
    (journal,) = tmp_path.glob("*.partial")
    assert [len(picture["annotations"]) for picture in whole_lines(journal)] == [0, 1, 2]
    expected = f"{tmp_path / 'predictions.json'}: File too large; the results are in {journal}"
    assert capsys.readouterr().err == f"dgcn predict: error: {expected}\n"


def test_a_full_disk_stops_at_the_first_overlay(oracle, folder, tmp_path, capsys) -> None:
    """One line, not one for each picture."""
    with limited_files(1500):
        assert run("predict", "--source", folder, "-o", tmp_path) == 1
    expected = f"{tmp_path / '140.dgcn.jpg'}: File too large; 0 of 3 pictures were finished and written"
    assert capsys.readouterr().err == f"dgcn predict: error: {expected}\n"
    assert {path.name for path in tmp_path.iterdir()} == {"pictures", "predictions.json"}


def test_an_overlay_that_cannot_be_written_costs_nothing_else(oracle, folder, tmp_path, capsys) -> None:
    long = (folder / "20.png").rename(folder / f"{'n' * 250}.png")
    (tmp_path / "out" / "60.dgcn.jpg").mkdir(parents=True)
    assert run("predict", "--source", folder, "-o", tmp_path / "out") == 1
    output = capsys.readouterr()
    warnings = sorted(output.err.splitlines())
    assert len(warnings) == 2
    assert re.search(r"60\.dgcn\.jpg.*: Is a directory", warnings[0])
    assert f"{long.stem}.dgcn.jpg" in warnings[1]
    assert "File name too long" in warnings[1]
    assert "3 persons in 3 of 3 pictures" in output.out
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["annotations"]) == 3


def test_an_overlay_too_wide_for_a_jpeg(tmp_path) -> None:
    path = tmp_path / "wide.jpg"
    with pytest.raises(ValueError, match=rf"{path}: 65501 x 2 px do not fit a JPEG"):
        write_overlay(path, np.zeros((2, 65501, 3), np.uint8), [], COCO)
    write_overlay(path, np.zeros((2, 65500, 3), np.uint8), [], COCO)


@pytest.mark.parametrize("command", ["predict", "demo"])
def test_outputs_are_tried_first(command, oracle, folder, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch_network, "load_model", lambda path: pytest.fail("a model was loaded"))
    (tmp_path / "file").touch()
    source = folder / "20.png"
    cases = [(["-o", tmp_path / "file"], "file/.*: (Not a directory|File exists)")]
    if command == "predict":
        cases += [
            (["-o", tmp_path, "--json-output", folder], f"{folder}: Is a directory"),
            (["-o", tmp_path, "--json-output", "/dev/null"], "/dev/null: is a pipe or a device, not a file"),
            (["-o", tmp_path, "--json-output", f"{'n' * 256}.json"], "nnnn.json: File name too long"),
        ]
    for arguments, message in cases:
        assert run(command, "--source", source, *arguments) == 2
        error = capsys.readouterr().err
        assert re.fullmatch(rf"dgcn {command}: error: .*{message}\n", error)


def test_predict_writes_over_no_input(oracle, folder, tmp_path, capsys) -> None:
    source = folder / "20.png"
    before = source.read_bytes()
    (tmp_path / "link.json").symlink_to(source)
    assert run("predict", "--source", folder, "-o", tmp_path / "out", "--json-output", tmp_path / "link.json") == 2
    assert "link.json cannot be written: it is an input or another output" in capsys.readouterr().err
    assert source.read_bytes() == before


def test_an_output_that_is_a_link_to_a_new_file(oracle, folder, tmp_path) -> None:
    link, target = tmp_path / "link.json", tmp_path / "target.json"
    link.symlink_to(target.name)
    assert run("predict", "--source", folder / "20.png", "-o", tmp_path / "out", "--json-output", link) == 0
    assert link.is_symlink()
    assert json.loads(target.read_text())["images"]
