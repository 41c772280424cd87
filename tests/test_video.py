"""Videos: what is read of good and of bad ones, who is followed, and what is written whatever happens."""

from __future__ import annotations

import csv
import itertools
import json
import os
import signal
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cli_cases import run
from conftest import limited_files
from oracle import Oracle
from videos import RATE, write_video

from dgcn import Predictor
from dgcn.predict.video import CAMERAS, ReadAhead, VideoFrame, VideoReader
from dgcn.predict.video_writer import VideoWriter

av = pytest.importorskip("av", reason='needs PyAV: pip install "dgcn[video]"')


def noise(count: int, width: int = 64, height: int = 48) -> list[np.ndarray]:
    """Pictures that move, so that frames depend on each other, and differ in every place."""
    wide = np.random.default_rng(0).integers(0, 256, (height, width + 4 * count, 3), dtype=np.uint8)
    return [np.ascontiguousarray(wide[:, 4 * n : 4 * n + width]) for n in range(count)]


def read(source: Path, **options: object) -> list[VideoFrame]:
    with VideoReader(source, **options) as reader:  # type: ignore[arg-type]
        return list(reader)


@pytest.fixture
def moving(tmp_path: Path) -> Path:
    """40 frames, 4 seconds."""
    return write_video(tmp_path / "moving.mp4", noise(40))


@pytest.fixture
def people_video(oracle: None, tmp_path: Path) -> Path:
    """Three frames each of one person, of two, and of nobody, as `cli_cases.PICTURES` has them by tone."""
    tones = [20] * 3 + [60] * 3 + [140] * 3
    return write_video(tmp_path / "people.mp4", [np.full((480, 640, 3), tone, np.uint8) for tone in tones])


def test_stream(people_video: Path) -> None:
    frames = list(Predictor(long_edge=257).stream(people_video, track=True))
    assert [frame.index for frame in frames] == list(range(9))
    assert [frame.time_s for frame in frames] == pytest.approx(np.arange(9) / RATE)
    assert [len(frame.poses) for frame in frames] == [1, 1, 1, 2, 2, 2, 0, 0, 0]
    assert [frame.track_ids for frame in frames[1:5:2]] == [frames[0].track_ids, frames[5].track_ids]
    assert frames[0].image.shape == (480, 640, 3)
    untracked = next(Predictor(long_edge=257).stream(people_video))
    assert untracked.track_ids is None


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_a_part_of_a_video_has_the_numbers_and_times_of_the_whole(suffix: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / f"moving{suffix}", noise(40))
    whole = read(path)
    part = read(path, start=1.75, duration=1.5, frame_stride=4)
    assert [frame.index for frame in part] == [18, 22, 26, 30]
    for frame in part:
        assert frame.time_s == whole[frame.index].time_s
        np.testing.assert_array_equal(frame.image, whole[frame.index].image)


def test_times_of_a_variable_frame_rate(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.5, 0.54, 2.0]
    frames = read(write_video(tmp_path / "variable.mkv", noise(5), times))
    assert [frame.time_s for frame in frames] == pytest.approx(times)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),  # a phone held upright
        ((0, -1, 1, 0), np.rot90),
        ((-1, 0, 0, -1), lambda image: image[::-1, ::-1]),
        ((-1, 0, 0, 1), lambda image: image[:, ::-1]),  # its front camera
        ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
    ],
)
def test_frames_are_upright(matrix, expected, moving: Path, tmp_path: Path) -> None:
    content = bytearray(moving.read_bytes())
    place = content.index(b"tkhd") + 44  # of the display matrix in the track header
    a, b, c, d = (value << 16 for value in matrix)
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    turned = tmp_path / "turned.mp4"
    turned.write_bytes(content)
    np.testing.assert_array_equal(read(turned)[0].image, expected(read(moving)[0].image))


def test_a_damaged_frame_is_named_and_the_others_keep_their_numbers(moving: Path, caplog) -> None:
    with av.open(str(moving)) as container:
        packet = next(itertools.islice(container.demux(video=0), 10, None))
        lost, place, size = round(packet.pts * packet.time_base * RATE), packet.pos, packet.size
    content = bytearray(moving.read_bytes())
    content[place : place + size] = b"\xff" * size
    moving.write_bytes(content)
    with VideoReader(moving) as reader:
        frames = list(reader)
    assert [frame.index for frame in frames] == [index for index in range(40) if index != lost]
    assert [frame.index for frame in frames] == pytest.approx([frame.time_s * RATE for frame in frames])
    assert reader.num_damaged == 1
    assert f"{moving} is damaged: the frame at {lost / RATE:.3f} s cannot be decoded" in caplog.text


def test_a_frame_that_the_decoder_mends_is_named(moving: Path, caplog) -> None:
    with av.open(str(moving)) as container:
        packet = next(itertools.islice(container.demux(video=0), 10, None))
        shown, middle = packet.pts * packet.time_base, packet.pos + packet.size // 2
    content = bytearray(moving.read_bytes())
    content[middle : middle + 8] = b"\xff" * 8  # H.264 goes on behind what it cannot read
    moving.write_bytes(content)
    with VideoReader(moving) as reader:
        assert len(list(reader)) == 40
    assert reader.num_damaged == 1
    assert f"{moving} is damaged: the frame at {float(shown):.3f} s" in caplog.text


def test_a_file_that_is_cut_short_gives_what_it_has(moving: Path, oracle, tmp_path: Path, caplog, capsys) -> None:
    content = moving.read_bytes()
    moving.write_bytes(content[: len(content) // 2])
    assert run("video", "--source", moving, "--csv-output", tmp_path / "out.csv", "--long-edge", 65) == 1
    assert f"{moving} is cut short: it ends at " in caplog.text
    assert 5 < int(capsys.readouterr().out.split(" frames")[0].split()[-1]) < 35


def test_a_title_in_another_encoding(moving: Path) -> None:
    content = moving.read_bytes()
    assert content.count(b"Lavf") == 1  # the name of the program that wrote the file
    moving.write_bytes(content.replace(b"Lavf", b"\xe9\xff\xfe\xe9"))
    assert len(read(moving)) == 40


def test_what_is_no_video_is_told_in_one_line(tmp_path: Path, capsys) -> None:
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(1000))
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "notes.txt").write_text("not a video\n" * 99)
    expected = {
        "sound.wav": "has no video in it, only audio",
        "noise.mp4": "is damaged or not a video",
        "empty.mp4": "is damaged or not a video",
        "notes.txt": "is a text, not a video",
        "missing.mp4": "No such file or directory",
        "": "Is a directory",
    }
    for name, message in expected.items():
        assert run("video", "--source", tmp_path / name, "--csv-output", tmp_path / "out.csv") == 2
        error = capsys.readouterr().err
        assert error.startswith(f"dgcn video: error: {tmp_path / name}")
        assert error.count("\n") == 1
        assert message in error
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": -1.0}, "start must be a number of seconds from 0 on, got -1.0"),
        ({"start": float("nan")}, "start must be a number of seconds from 0 on, got nan"),
        ({"duration": 0}, "duration must be positive, got 0"),
        ({"frame_stride": 0}, "frame_stride must be at least 1, got 0"),
    ],
)
def test_bad_arguments(options, message: str, moving: Path) -> None:
    with pytest.raises(ValueError, match=message):
        VideoReader(moving, **options)


def test_without_pyav(monkeypatch, oracle, people_video: Path) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r'videos need PyAV .*: `pip install "dgcn\[video\]"`'):
        Predictor().stream(people_video)


def test_reading_ahead_is_bounded_and_ends_with_who_reads() -> None:
    numbers = itertools.count(1)
    ahead = ReadAhead(numbers, depth=3)
    assert list(itertools.islice(ahead, 5)) == [1, 2, 3, 4, 5]
    ahead.close()
    assert next(numbers) <= 5 + 3 + 2
    assert list(ahead) == []


def test_an_error_of_the_thread_comes_after_what_it_read() -> None:
    def fail() -> Iterator[int]:
        yield 1
        raise ValueError("of the thread")

    ahead = ReadAhead(fail(), depth=3)
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="of the thread"):
        next(ahead)


def test_frames_that_nobody_takes_in_time_are_dropped_and_counted() -> None:
    taken, three_more, taken_again = threading.Event(), threading.Event(), threading.Event()

    def camera() -> Iterator[int]:
        yield 0
        taken.wait()
        yield from (1, 2, 3)
        three_more.set()
        taken_again.wait()
        yield 4

    ahead = ReadAhead(camera(), depth=1, drops=True)
    assert next(ahead) == 0
    taken.set()
    three_more.wait()
    assert next(ahead) == 3
    taken_again.set()
    assert list(ahead) == [4]
    assert ahead.num_dropped == 2


def test_an_mp4_that_browsers_play(tmp_path: Path) -> None:
    """H.264 of even size with four brightness samples to a colour, its index in front, in the times of its frames."""
    path, times = tmp_path / "out.mp4", [3.0, 3.04, 3.5, 4.0]
    images = [np.full((47, 63, 3), tone, np.uint8) for tone in (30, 90, 150, 210)]
    writer = VideoWriter(path, 25.0)
    for image, time_s in zip(images, times, strict=True):
        writer.add(image, time_s)
    writer.finish()
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    assert b"moof" not in content
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt, context.width, context.height) == ("h264", "yuv420p", 64, 48)
    frames = read(path)
    assert [frame.time_s for frame in frames] == pytest.approx([time_s - 3.0 for time_s in times])
    assert [round(frame.image.mean() / 10) for frame in frames] == [3, 9, 15, 21]
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.mp4"]


def test_frames_of_another_size_are_fitted_into_the_first(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "out.mp4")
    for time_s, shape in enumerate([(48, 64, 3), (96, 64, 3)]):
        writer.add(np.full(shape, 200, np.uint8), time_s)
    writer.finish()
    second = read(tmp_path / "out.mp4")[1].image
    assert second[:, :30].mean() == pytest.approx(200, abs=4)
    assert second[:, 34:].mean() == pytest.approx(0, abs=4)


def test_what_a_kill_would_leave_plays(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "out.mp4")
    for number, image in enumerate(noise(6)):
        writer.add(image, number / RATE)
    assert len(read(tmp_path / "out.mp4.1.partial")) >= 4
    assert not (tmp_path / "out.mp4").exists()
    writer.finish()
    assert len(read(tmp_path / "out.mp4")) == 6


def test_without_room_for_a_copy_the_fragments_are_the_video(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "out.mp4")
    for number, image in enumerate(noise(20)):
        writer.add(image, number / RATE)
    with limited_files(30_000):
        writer.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert len(read(tmp_path / "out.mp4")) >= 19


def test_a_camera_does_not_wait(monkeypatch) -> None:
    """FFmpeg's test pattern, which comes as fast as it can, stands for the camera."""
    monkeypatch.setitem(CAMERAS, sys.platform, ("lavfi", "testsrc=size=64x48:rate=10:duration=2"))
    with VideoReader(0) as reader:
        frames = list(reader)
    assert reader.name == "camera 0"
    assert len(frames) + reader.num_dropped == 20
    assert frames[-1].index == 19
    assert [frame.time_s for frame in frames] == pytest.approx([frame.index / RATE for frame in frames])


def test_a_picture_too_large_for_h264_leaves_nothing(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "out.mp4")
    with pytest.raises(ValueError, match=r"out\.mp4: 20000 x 16 px cannot be encoded"):
        writer.add(np.zeros((16, 20000, 3), np.uint8), 0.0)
    writer.finish()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def outputs(tmp_path: Path) -> dict[str, Path]:
    """By flag, the files of `dgcn video`."""
    return {
        "-o": tmp_path / "out" / "out.mp4",
        "--json-output": tmp_path / "out" / "out.jsonl",
        "--csv-output": tmp_path / "out" / "out.csv",
    }


def run_video(source: Path, outputs: dict[str, Path], *flags: object) -> int:
    return run("video", "--source", source, *itertools.chain(*outputs.items()), "--long-edge", 257, *flags)


def json_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_all_outputs(people_video: Path, outputs, capsys) -> None:
    assert run_video(people_video, outputs, "--track", "--frame-stride", 2) == 0
    lines = json_lines(outputs["--json-output"])
    assert [(line["frame"], line["time_s"]) for line in lines] == [(0, 0.0), (2, 0.2), (4, 0.4), (6, 0.6), (8, 0.8)]
    assert [len(line["predictions"]) for line in lines] == [1, 1, 2, 0, 0]
    ids = [[one["attributes"]["track_id"] for one in line["predictions"]] for line in lines]
    assert ids[0] == ids[1] == [1]
    with open(outputs["--csv-output"], newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["frame"] for row in rows[::17]] == ["0", "2", "4", "4"]
    assert [int(row["track_id"]) for row in rows[::17]] == list(itertools.chain(*ids))
    assert {row["source"] for row in rows} == {"people.mp4"}
    frames = read(outputs["-o"])
    assert [frame.time_s for frame in frames] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])
    assert np.ptp(frames[0].image) > 100  # a person is drawn
    assert np.ptp(frames[4].image) < 10
    assert "4 persons with " in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(number: int, people_video: Path, outputs, monkeypatch, capsys) -> None:
    forward = Oracle.forward

    def interrupted(self: Oracle, images):
        if len(self.batch_sizes) == 4:
            os.kill(os.getpid(), number)
        return forward(self, images)

    monkeypatch.setattr(Oracle, "forward", interrupted)
    assert run_video(people_video, outputs) == 130
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith(" frames were finished and written")
    done = int(error.removeprefix("dgcn video: interrupted; ").split()[0])
    assert 1 <= done <= 4  # the network may be ahead of what is written
    assert len(json_lines(outputs["--json-output"])) == len(read(outputs["-o"])) == done
    assert {path.name for path in outputs["-o"].parent.iterdir()} == {"out.mp4", "out.jsonl", "out.csv"}


def test_a_full_disk_keeps_what_is_done(oracle, moving: Path, outputs, capsys) -> None:
    """A limit on the size of files stands for the full disk; the video is the largest of them."""
    with limited_files(30_000):
        assert run_video(moving, outputs) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"dgcn video: error: {outputs['-o']}: File too large; ")
    done = int(error.split(" frames were finished and written")[0].split()[-1])
    assert 1 < done < 40
    assert len(json_lines(outputs["--json-output"])) >= done
    assert len(read(outputs["-o"])) >= done - 1  # the last one may be in the fragment that did not fit
    assert not list(outputs["-o"].parent.glob("*.partial"))


def test_nothing_is_overwritten_before_there_is_a_result(people_video: Path, outputs, capsys) -> None:
    outputs["-o"].parent.mkdir()
    for path in outputs.values():
        path.write_text("of an earlier run")
    assert run_video(people_video, outputs, "--start", 99) == 2
    assert f"{people_video} has no frames from 99 s on" in capsys.readouterr().err
    assert run_video(people_video, outputs | {"-o": people_video}) == 2
    assert "cannot be written: it is an input" in capsys.readouterr().err
    assert {path.read_text() for path in outputs.values()} == {"of an earlier run"}


def test_outputs_that_cannot_be(people_video: Path, tmp_path: Path, capsys) -> None:
    cases = [
        ([], "--output, --json-output or --csv-output must be given"),
        (["-o", tmp_path / "out.avi"], f"--output must end in .mp4, got {tmp_path}/out.avi"),
        (["--csv-output", tmp_path], f"{tmp_path}: Is a directory"),
    ]
    for arguments, message in cases:
        assert run("video", "--source", people_video, *arguments) == 2
        assert capsys.readouterr().err == f"dgcn video: error: {message}\n"
