"""Which pictures and videos --source names, and what the results of each are called."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# HEIC cannot be read: it is listed so that such a picture in a folder is reported.
PICTURE_SUFFIXES = {
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png"),
    *(".pnm", ".ppm", ".tif", ".tiff", ".webp"),
}
VIDEO_SUFFIXES = {
    *(".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".webm", ".wmv")
}
OVERLAY_SUFFIX = ".dgcn.jpg"

STDIN = Path("/dev/stdin")
"""Path of the picture that `-` stands for; a file of that name is `./-`."""


@dataclass(frozen=True)
class Source:
    """A picture or a video.

    path: of the file, as it was given; `STDIN` for the picture on stdin.
    name: of its results, relative to their folder and without a suffix; that of a video ends in its own suffix.
    """

    path: Path
    name: str

    @property
    def is_stdin(self) -> bool:
        return self.path == STDIN

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEO_SUFFIXES

    def read(self) -> np.ndarray:
        """The picture, uint8 [H, W, 3] RGB, upright. Raises OSError or ValueError that names it."""
        from ..data.images import read_image

        if not self.is_stdin:
            return read_image(self.path, upright=True)
        try:
            return read_image(sys.stdin.buffer.read(), upright=True)
        except ValueError as error:
            raise ValueError(f"stdin: {error}") from error


def list_sources(arguments: Sequence[str], *, recursive: bool = False, warn: Callable[[str], None]) -> list[Source]:
    """What the arguments of --source name, each of

    - a file: taken as it is, whatever its name;
    - a folder: the pictures directly in it, and with `recursive` in its folders, but no videos;
    - a pattern such as `photos/**/*.jpg`: the pictures and videos that match, and the folders unless it has `**`;
    - `-`: the picture on stdin.

    Folders and patterns give their files by name, without hidden ones (such as the `._NAME` that macOS puts beside
    NAME), and without overlays of an earlier run. Links to folders are not followed within a folder.

    Args:
        arguments: as above.
        recursive: list the folders in folders.
        warn: is told which other files were passed over.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: a folder cannot be listed.
        ValueError: a folder or a pattern without pictures, or stdin named twice.
    """
    if arguments.count("-") > 1:
        raise ValueError(f"--source must have - at most once, got it {arguments.count('-')} times")
    if "" in arguments:  # of which `Path` would make the current folder
        raise ValueError("--source must be paths, got an empty one")
    found: list[tuple[Path, PurePath]] = []  # with the path of its results
    for argument in arguments:
        path = Path(argument)
        if argument == "-":
            found.append((STDIN, PurePath("stdin")))
        elif path.is_dir():
            found += _choose(_walk(path, recursive), path, PICTURE_SUFFIXES, f"in the folder {path}", warn)
        elif os.path.lexists(path):
            if not path.exists():
                raise FileNotFoundError(f"a link that leads nowhere: {path}")
            found.append((path, PurePath(path.name)))
        elif glob.has_magic(argument):
            root = next(parent for parent in path.parents if not glob.has_magic(str(parent)))
            matches = _match(root, str(path.relative_to(root)), recursive)
            found += _choose(matches, root, PICTURE_SUFFIXES | VIDEO_SUFFIXES, f"that match {argument}", warn)
        else:
            raise FileNotFoundError(f"no such picture or folder: {argument}")
    names = unique_names([result for _, result in found])
    return [Source(path, name) for (path, _), name in zip(found, names, strict=True)]


def unique_names(results: Sequence[PurePath]) -> list[str]:
    """Their names without suffixes (but for videos'), all different even where upper and lower case are the same."""
    taken: set[str] = set()
    last: dict[str, int] = {}  # number given to a name
    names = []
    for result in results:
        wanted = str(result if result.suffix.lower() in VIDEO_SUFFIXES else result.with_suffix(""))
        name, number = wanted, last.get(wanted, 1)
        while name.lower() in taken:
            number += 1
            name = f"{wanted}-{number}"
        last[wanted] = number
        taken.add(name.lower())
        names.append(name)
    return names


def _walk(folder: Path, recursive: bool) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def _match(root: Path, pattern: str, recursive: bool) -> Iterator[Path]:
    """The files in the folder `root` that match, or are in folders that do; glob.glob would follow links in circles."""
    is_deep = "**" in pattern
    for path in sorted(root.glob(f"{pattern}/*" if pattern.endswith("**") else pattern)):
        if any(part.startswith(".") and part != ".." for part in path.relative_to(root).parts):
            continue
        if not path.is_dir():
            yield path
        elif not is_deep:  # such a pattern matches the files as well
            yield from _walk(path, recursive)


def _choose(
    files: Iterable[Path], root: Path, suffixes: Collection[str], where: str, warn: Callable[[str], None]
) -> Iterator[tuple[Path, PurePath]]:
    """Those of the files, all in the folder `root`, that have the suffixes, and the path of their results."""
    files = [file for file in files if not file.name.endswith(OVERLAY_SUFFIX)]
    chosen = [file for file in files if file.suffix.lower() in suffixes]
    if not chosen:
        raise ValueError(f"no pictures {where} (looking for {' '.join(sorted(suffixes))})")
    if others := [file.name for file in files if file.suffix.lower() not in suffixes]:
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        warn(f"skipped {len(others)} files {where} that are not pictures: {shown}")
    for file in chosen:
        parts = file.relative_to(root).parts
        yield file, PurePath(*(part for part in parts if part != ".."))  # a*/../b stays in the results' folder, too
