"""What --source names: files, folders, patterns, and what their results are called."""

from __future__ import annotations

import os
from pathlib import Path, PurePath

import pytest

from dgcn.cli.sources import list_sources, unique_names


@pytest.fixture
def archive(tmp_path, monkeypatch) -> Path:
    """The current folder, with pictures, videos and other files in folders of folders."""
    for name in (
        *("b.JPG", "a.png", "a.dgcn.jpg", "._b.JPG", "notes.txt", "clip.MP4", "x.jpg/deep.jpg"),
        *("2024/a.jpg", "2024/may/a.png", "2024/may/notes.txt", "2024/.trash/a.png", "2025/A.jpg", "[1].jpg"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "2024" / "loop").symlink_to("..")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listed(*arguments: str, recursive: bool = False) -> dict[str, str]:
    """Path to name of the results; what was passed over comes after "skipped"."""
    warnings: list[str] = []
    sources = list_sources(arguments, recursive=recursive, warn=warnings.append)
    return {str(source.path): source.name for source in sources} | (
        {"skipped": "; ".join(warnings)} if warnings else {}
    )


def test_folder(archive) -> None:
    skipped = "skipped 2 files in the folder . that are not pictures: clip.MP4, notes.txt"
    here = {"[1].jpg": "[1]", "a.png": "a", "b.JPG": "b"}
    assert listed(".") == here | {"skipped": skipped}
    below = {"2024/a.jpg": "2024/a", "2024/may/a.png": "2024/may/a", "2025/A.jpg": "2025/A"}
    assert list(listed(".", recursive=True).items()) == [
        *(here | below | {"x.jpg/deep.jpg": "x.jpg/deep"}).items(),
        ("skipped", "skipped 3 files in the folder . that are not pictures: clip.MP4, notes.txt, notes.txt"),
    ]
    assert listed("2024", "2025", recursive=True).keys() == {*below, "skipped"}


def test_pattern(archive) -> None:
    assert listed("2024/**").keys() == {"2024/a.jpg", "2024/may/a.png", "skipped"}
    assert listed("20*/*.jpg") == {"2024/a.jpg": "2024/a", "2025/A.jpg": "2025/A"}
    assert listed(f"{archive}/20*/**/*.png") == {f"{archive}/2024/may/a.png": "2024/may/a"}
    assert listed("202[45]") == {"2024/a.jpg": "2024/a", "2025/A.jpg": "2025/A"}  # as where the shell expands it
    assert listed("clip.*", "2024/*/../../b.*") == {"clip.MP4": "clip.MP4", "2024/may/../../b.JPG": "may/b"}
    assert listed("[1].jpg") == {"[1].jpg": "[1]"}  # the name of a file


def test_names_are_kept_apart(archive) -> None:
    assert list(listed("2024/a.jpg", "2025", "a.png", "-").values()) == ["a", "A-2", "a-3", "stdin"]
    Path("-").touch()
    (file,) = list_sources(["./-"], warn=pytest.fail)
    assert not file.is_stdin
    names = unique_names([PurePath(p) for p in ("x/a.png", "X/A.jpg", "x/a-2.png", "b.c.png", "b.mp4", "b.png")])
    assert names == ["x/a", "X/A-2", "x/a-2-2", "b.c", "b.mp4", "b"]
    names = unique_names([PurePath("a.jpg")] * 20_000)
    assert len(set(names)) == 20_000
    assert names[-1] == "a-20000"


def test_what_is_not_there(archive) -> None:
    Path("broken.png").symlink_to("nowhere")
    Path("empty").mkdir()
    for argument, message in (
        ("absent.jpg", "no such picture or folder: absent.jpg"),
        ("broken.png", "a link that leads nowhere: broken.png"),
        ("empty", "no pictures in the folder empty"),
        ("20*/*.gif", r"no pictures that match 20\*/\*\.gif"),
    ):
        with pytest.raises((FileNotFoundError, ValueError), match=message):
            listed(argument)
    with pytest.raises(FileNotFoundError, match=r"no such picture or folder: https://a/b\.jpg"):
        listed("https://a/b.jpg")
    with pytest.raises(ValueError, match="--source must be paths, got an empty one"):
        listed("a.png", "")
    with pytest.raises(ValueError, match="must have - at most once, got it 2 times"):
        listed("-", "a.png", "-")


def test_a_folder_that_cannot_be_listed(archive, monkeypatch) -> None:
    """Told before the work: the pictures in it would be missing."""
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "may":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="2024/may"):
        listed(".", recursive=True)
