"""Fixtures and switches that every test file shares."""

from __future__ import annotations

import contextlib
import os
import resource
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

try:
    import torch
except ModuleNotFoundError:  # the decoder's and the encoder's tests need none: make check-no-torch
    HAS_GPU = False
else:
    HAS_GPU = torch.cuda.is_available()
    # The same number on every machine, because rounding depends on it; two, so that loops are split at all.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    torch.backends.cudnn.allow_tf32 = False  # by default a GPU convolves float32 with 11 bits
    # Inductor would take code from its cache that was compiled for another instruction set than is asked for.
    capability = torch.backends.cpu.get_cpu_capability()
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(tempfile.gettempdir(), f"dgcn_inductor_{capability}"))

try:
    import hypothesis
except ModuleNotFoundError:  # a machine with a GPU may lack it; the files that use it cannot be collected there
    pass
else:
    # A busy machine makes any example slow.
    hypothesis.settings.register_profile("dgcn", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
    hypothesis.settings.load_profile("dgcn")

if TYPE_CHECKING:
    from dgcn.training.config import TrainConfig

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device in turn."""
    return torch.device(request.param)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data: $DGCN_DATA, else ../shared/data beside the repository."""
    path = Path(os.environ.get("DGCN_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"needs the real data: no folder {path} (set DGCN_DATA)")
    return path


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every checkpoint holds a network that sees the persons of `cli_cases.PICTURES`."""
    from cli_cases import PICTURES
    from oracle import Oracle

    from dgcn.predict import torch_network

    monkeypatch.setattr(torch_network, "load_model", lambda path: (Oracle(PICTURES), {"long_edge": 513}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of `cli_cases.PICTURES` as PNG files, named by their tones."""
    from cli_cases import PICTURES
    from oracle import picture
    from PIL import Image

    folder = tmp_path / "pictures"
    folder.mkdir()
    for tone, (size, _) in PICTURES.items():
        Image.fromarray(picture(tone, *size)).save(folder / f"{tone}.png")
    return folder


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures of one stick figure each, with COCO annotations."""
    from stick_figures import write_set

    folder = tmp_path_factory.mktemp("people")
    write_set(folder, 8)
    return folder


@pytest.fixture
def config(people: Path, tmp_path: Path) -> TrainConfig:
    """A tiny run to train."""
    from training_cases import tiny_run

    (tmp_path / "run").mkdir()
    return tiny_run(people, tmp_path / "run")


@contextlib.contextmanager
def limited_files(size: int) -> Iterator[None]:
    """Within the block no file grows beyond `size` bytes, which stands for a full disk.

    Not a fixture: pytest itself writes before those are torn down, perhaps into a file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def sync_debug_mode() -> Iterator[Callable[[str], None]]:
    """What makes torch complain, with "error", when the host waits for the GPU."""
    yield torch.cuda.set_sync_debug_mode
    torch.cuda.set_sync_debug_mode("default")


class FileOfTests(pytest.Module):
    """Is skipped where a package is missing that it imports."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        try:
            return super().collect()
        except self.CollectError as error:
            if isinstance(error.__cause__, ModuleNotFoundError):
                pytest.skip(f"needs {error.__cause__.name}", allow_module_level=True)
            raise


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """DGCN_SKIP_MISSING=1 is for a machine whose packages are given; elsewhere a missing package is an error."""
    skips = os.environ.get("DGCN_SKIP_MISSING") == "1"
    return FileOfTests.from_parent(parent, path=module_path) if skips else None


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish() -> None:
    """A worker of pytest-xdist ends after an error that CUDA repeats in every later call; a new one takes its place."""
    if "PYTEST_XDIST_WORKER" in os.environ and HAS_GPU and torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            os._exit(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if HAS_GPU or os.environ.get("DGCN_REQUIRE_GPU") == "1":
        return
    skip = pytest.mark.skip(reason="needs a CUDA device (DGCN_REQUIRE_GPU=1 makes this a failure)")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)
