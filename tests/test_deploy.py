"""The operators in other people's processes: saved programs find them, and they are never registered twice."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim

import dgcn_ext
from dgcn_ext import DGCMFused

PACKAGE = Path(dgcn_ext.__file__).parent


def run(script: str, *arguments: Path) -> None:
    """Runs the script in a new process that imports this dgcn_ext."""
    script = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r})\n{script}"
    command = [sys.executable, "-c", script, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_sources_that_are_not_compiled_say_so(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "dgcn_ext", ignore=shutil.ignore_patterns("*.so", "*.pyd"))
    command = [sys.executable, "-S", "-c", "import dgcn_ext"]  # without the installed packages
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert f"{tmp_path / 'dgcn_ext'} holds the sources of dgcn_ext, but nothing compiled" in result.stderr


def test_saved_programs_find_the_operators(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = DGCMFused(16, torch.rand(5, 5), lift_channels=8).double()  # so that rounding is no matter
    nn.init.normal_(module.non_local.out[1].weight)
    x = torch.randn(3, 16, 5, 3).double()
    dynamic_shapes = ({0: Dim("batch"), 2: Dim("height"), 3: Dim("width")},)
    for training in (False, True):
        module.train(training)
        program = torch.export.export(module, (torch.randn(2, 16, 6, 7).double(),), dynamic_shapes=dynamic_shapes)
        torch.export.save(program, tmp_path / f"{training}.pt2")
        torch.manual_seed(1)  # of the random graph
        outputs = copy.deepcopy(module)(x)
        torch.save((x, [output.detach() for output in outputs]), tmp_path / f"{training}.pt")
    run(
        """
import dgcn_ext, importlib.util
importlib.util.find_spec("torch")  # as libraries do that ask whether torch is installed
assert "torch" not in sys.modules
import torch
for training in (False, True):
    program = torch.export.load(f"{sys.argv[1]}/{training}.pt2").module()
    x, expected = torch.load(f"{sys.argv[1]}/{training}.pt")
    torch.manual_seed(1)
    for actual, output in zip(program(x), expected, strict=True):
        torch.testing.assert_close(actual.detach(), output)
""",
        tmp_path,
    )


def test_operators_are_registered_once(tmp_path: Path) -> None:
    for name in "abcd":  # a library that was refused once stays so: each case has its own copy
        shutil.copytree(PACKAGE, tmp_path / name / "dgcn_ext")
    run(
        """
import torch

def import_from(folder):
    for name in [name for name in sys.modules if name.startswith("dgcn_ext")]:
        del sys.modules[name]
    sys.path.insert(0, folder)
    import dgcn_ext.decoder  # works without the operators
    assert dgcn_ext.__file__.startswith(folder)

def refused(reason="torch.ops.dgcn is taken"):
    try:
        from dgcn_ext import functional
    except ImportError as error:
        assert reason in str(error), error
    else:
        raise AssertionError("loaded")

original = sys.path[0]
sys.modules["dgcn_ext._C"] = None  # as if it was not built
import dgcn_ext.decoder
refused("halted")

other = torch.library.Library("dgcn", "DEF")
import_from(f"{sys.argv[1]}/a")
refused()
del other

other = torch.library.Library("dgcn", "FRAGMENT")
other.define("sample_adjacency(Tensor x) -> Tensor")
other.define("another(Tensor x) -> Tensor")
import_from(f"{sys.argv[1]}/b")
refused()
assert not hasattr(torch.ops.dgcn, "relu_affinity_forward")
del other

other = torch.library.Library("dgcn", "FRAGMENT")
other.define("another(Tensor x) -> Tensor")
for _ in range(2):  # the same library again
    import_from(original)
    torch.ops.dgcn.sample_adjacency(torch.ones(2, 2), torch.tensor(0), None)

import_from(f"{sys.argv[1]}/c")
refused()
torch.ops.load_library(f"{sys.argv[1]}/d/dgcn_ext/_C.abi3.so")
torch.ops.dgcn.sample_adjacency(torch.ones(2, 2), torch.tensor(0), None)
""",
        tmp_path,
    )
