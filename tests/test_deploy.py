"""Loading: saved programs find the operators, they are registered once, and the plain parts need no compiled module."""

from __future__ import annotations

import copy
import os
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


def run(script: str, *arguments: Path, folder: Path = PACKAGE.parent) -> None:
    """Runs the script in a new process that imports the dgcn_ext of the folder.

    With -S, which leaves the installed packages to PYTHONPATH: an editable install would find its own compiled modules.
    """
    command = [sys.executable, "-S", "-c", script, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert result.returncode == 0, result.stderr


def test_without_the_compiled_modules(tmp_path: Path) -> None:
    """Plain PyTorch and numpy work. A call that needs compiled code raises one line that says how to build it."""
    shutil.copytree(PACKAGE, tmp_path / "dgcn_ext", ignore=shutil.ignore_patterns("*.so", "*.pyd"))
    run(
        """
import sys
import numpy as np
import dgcn_ext
from dgcn_ext import DecoderConfig, PifPafDecoder, PifPafEncoder, reference
from dgcn_ext.encoder import Targets

assert dgcn_ext.__file__.startswith(sys.argv[1])
targets = reference.encode(
    [[[8, 8, 2], [24, 8, 2]]], 33, 33, 8, skeleton=[(0, 1)], sigmas=[0.1, 0.1], upright_pose=[[0, 0], [1, 0]]
)
assert isinstance(targets, Targets) and targets.paf_confidence.any()
pif, paf = np.ones((1, 5, 4, 4), np.float32), np.ones((0, 8, 4, 4), np.float32)
assert reference.decode(pif, paf, 8, 1, [], DecoderConfig(keypoint_threshold=0.1)).shape == (1, 1, 4)
for value, error in ((1.5, ValueError), ("0.5", TypeError)):
    try:
        DecoderConfig(keypoint_threshold=value)
    except error as refusal:
        assert str(refusal).startswith("keypoint_threshold must be "), refusal

def refused(module, call, *arguments):
    try:
        call(*arguments)
    except ImportError as error:
        assert str(error).startswith(f"the compiled module dgcn_ext.{module} does not load"), error
        assert "`pip install .`" in str(error) and "\\n" not in str(error)
    else:
        raise AssertionError(call)

refused("_pifpaf", PifPafDecoder, 1, [])
refused("_pifpaf", PifPafEncoder, 1, [], [0.1], [[0, 0]])
assert "torch" not in sys.modules

import torch
from dgcn_ext import *
from dgcn_ext.modules import DGCMFused  # where modules that were pickled whole look for it

x = torch.randn(2, 6, 4, 3)
module = DGCM(6, torch.rand(5, 5), lift_channels=8)
sum(output.sum() for output in module(x)).backward()
assert all(parameter.grad is not None for parameter in module.parameters())
fused = DGCMFused(6, torch.rand(5, 5), lift_channels=8)
fused.load_state_dict(module.state_dict())
fused.fold()
refused("_C", fused, x)
a = torch.rand(2, 2)
refused("_C", functional.graph_conv, x[:, :2], a, a)
refused("_C", functional.sample_adjacency, a, torch.tensor(0))
refused("_C", functional.relu_affinity, a, a, a[None].expand(2, 2, 2))
refused("_C", lambda: dgcn_ext.onnx)
""",
        tmp_path,
        folder=tmp_path,
    )


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
import sys, dgcn_ext, importlib.util
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
import sys, torch
from importlib import reload

def import_from(folder):
    for name in [name for name in sys.modules if name.startswith("dgcn_ext")]:
        del sys.modules[name]
    sys.path.insert(0, folder)
    import dgcn_ext.decoder  # works without the operators
    assert dgcn_ext.__file__.startswith(folder)

def refused(reason="torch.ops.dgcn is taken"):
    try:
        from dgcn_ext import ops
    except ImportError as error:
        assert reason in str(error), error
    else:
        raise AssertionError("loaded")

original = sys.argv[2]
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
for _ in range(2):  # the same library again, and then its modules, as notebooks do after an edit
    import_from(original)
    from dgcn_ext import flops, functional, ops
    for module in (ops, flops, functional):
        reload(module)
    torch.ops.dgcn.sample_adjacency(torch.ones(2, 2), torch.tensor(0), None)

import_from(f"{sys.argv[1]}/c")
refused()
torch.ops.load_library(f"{sys.argv[1]}/d/dgcn_ext/_C.abi3.so")
torch.ops.dgcn.sample_adjacency(torch.ones(2, 2), torch.tensor(0), None)
""",
        tmp_path,
        PACKAGE.parent,
    )
