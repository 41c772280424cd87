"""``DGCM`` and ``DGCMFused``: the parameters of Table 4, one module in two implementations, folding, repeatability."""

from __future__ import annotations

import copy
import io
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from cuda_cases import captured
from torch import Tensor, nn

import dgcn_ext
from dgcn_ext import DGCM, DGCMFused, GraphConv, NonLocal, NonLocalFused, functional, reference

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "mask, target, soft, per sample": {
        "semantics": "mask",
        "aggregate": "target",
        "eval_graph": "soft",
        "per_sample": True,
    },
    "static": {"dynamic": False},
    "Eq. 4": {"dynamic": False, "propagation": "eq4"},
    "without non-local": {"non_local": False},
}


def soft_adjacency(num_nodes: int = 17) -> Tensor:
    adjacency = torch.rand(num_nodes, num_nodes, generator=torch.Generator().manual_seed(num_nodes))
    return adjacency.fill_diagonal_(1)


def make_pair(device: torch.device, num_nodes: int = 17, **options: Any) -> tuple[DGCM, DGCMFused]:
    """A plain and a fused module of the same state, in which every term has an effect: γ is not 0, no bias is."""
    torch.manual_seed(0)
    options = {"in_channels": 24, "lift_channels": 32} | options
    plain = DGCM(adjacency=soft_adjacency(num_nodes), **options)
    for name, tensor in plain.state_dict().items():
        if tensor.is_floating_point() and name != "graph_conv.adjacency":
            tensor.add_(0.3 * torch.rand_like(tensor))
    fused = DGCMFused(adjacency=torch.zeros(num_nodes, num_nodes), **options)
    fused.load_state_dict(plain.state_dict())
    return plain.to(device), fused.to(device)


def features(device: torch.device, batch: int = 3) -> Tensor:
    return torch.randn(batch, 24, 9, 7, generator=torch.Generator().manual_seed(1)).to(device)


def forward_backward(module: nn.Module, x: Tensor, loss_scale: float = 1.0) -> list[Tensor]:
    """Outputs, then the gradients of x and of every parameter, of the loss times ``loss_scale``."""
    module.zero_grad()
    x = x.clone().requires_grad_()
    torch.manual_seed(5)
    outputs = module(x)
    sum(loss_scale * output.float().square().sum() for output in outputs).backward()
    return [*outputs, x.grad, *(parameter.grad for parameter in module.parameters())]


def assert_near(actual: list[Tensor], expected: list[Tensor]) -> None:
    """Up to the rounding of float32."""
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * max(1.0, theirs.abs().max().item()))


def assert_as_exact(actual: list[Tensor], expected: list[Tensor], module: nn.Module, x: Tensor) -> None:
    """Against ``module`` in float64: up to the rounding of float32, or at most twice as far off as ``expected``.

    Batch norm makes the gradient of a convolution before it a small difference of large sums, which no float32 has.
    """
    exact = forward_backward(copy.deepcopy(module).double(), x.double())
    for ours, theirs, right in zip(actual, expected, exact, strict=True):
        error, other_error = ((tensor - right).abs().max().item() for tensor in (ours, theirs))
        assert error <= max(1e-4 * max(1.0, right.abs().max().item()), 2 * other_error)


# ---- Structure ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module_type", [DGCM, DGCMFused])
@pytest.mark.parametrize(("in_channels", "total"), [(2048, 701_156), (1024, 419_556), (512, 278_756)])
def test_parameters_of_table_4(module_type: type[DGCM], in_channels: int, total: int) -> None:
    module = module_type(in_channels, soft_adjacency())
    counts = {name: sum(p.numel() for p in child.parameters()) for name, child in module.named_children()}
    assert counts == {
        "lift": in_channels * 256 + 512,
        "non_local": 132_480,
        "kmap": 4_369,
        "graph_conv": 595,
        "expand": 17 * in_channels + 2 * in_channels,
    }
    assert sum(counts.values()) == total


@pytest.mark.parametrize("num_nodes", [1, 2, 14, 17])
def test_edge_weight_starts_with_self_weight_one_half(num_nodes: int) -> None:
    graph = DGCMFused(24, soft_adjacency(num_nodes), lift_channels=8).graph_conv
    assert isinstance(graph, GraphConv)
    expected = math.log(num_nodes - 1) * torch.eye(num_nodes) if num_nodes > 1 else torch.zeros(1, 1)
    torch.testing.assert_close(graph.edge_weight.detach(), expected)
    if num_nodes > 2:
        s = reference.edge_softmax(graph.edge_weight, graph.frozen_adjacency())
        torch.testing.assert_close(s.diagonal(), torch.full((num_nodes,), 0.5))


def test_adjacency_is_a_copy_in_the_state_dict() -> None:
    adjacency = soft_adjacency()
    module = DGCMFused(24, adjacency)
    adjacency.zero_()
    assert torch.equal(module.state_dict()["graph_conv.adjacency"], soft_adjacency())


@pytest.mark.parametrize("layer_type", [NonLocal, NonLocalFused])
def test_non_local_starts_as_the_identity_and_matches_its_formula(
    device: torch.device, layer_type: type[NonLocal]
) -> None:
    torch.manual_seed(0)
    layer = layer_type(6).double().to(device)
    x = torch.randn(2, 6, 3, 5, dtype=torch.float64, device=device)
    assert torch.equal(layer(x), x)

    conv, norm = layer.out
    nn.init.ones_(norm.weight)
    theta, phi, g = layer.theta(x).flatten(2), layer.phi(x).flatten(2), layer.g(x).flatten(2)
    y = torch.zeros_like(g)
    for i in range(15):
        for j in range(15):
            pair = torch.cat([theta[:, :, i], phi[:, :, j]], dim=1)
            y[:, :, i] += (pair @ layer.affinity.weight.flatten()).relu()[:, None] * g[:, :, j] / 15
    torch.testing.assert_close(layer(x), x + norm(conv(y.unflatten(2, (3, 5)))))


# ---- Plain and fused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_fused_equals_plain(device: torch.device, options: dict[str, Any], training: bool) -> None:
    plain, fused = (module.train(training) for module in make_pair(device, **options))
    x = features(device)
    start = copy.deepcopy(plain)  # before the step changes its running statistics
    assert_as_exact(forward_backward(fused, x), forward_backward(plain, x), start, x)
    for ours, theirs in zip(fused.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("module_type", [DGCM, DGCMFused])
def test_training_draws_the_documented_graph(device: torch.device, module_type: type[DGCM]) -> None:
    """The seed is the next number of torch's generator; the graph is the one sample_adjacency draws for it."""
    module = make_pair(device)[module_type is DGCMFused]
    graph = module.graph_conv
    assert isinstance(graph, GraphConv)
    x = torch.randn(2, 17, 5, 3, device=device)
    torch.manual_seed(3)
    y = graph(x)
    torch.manual_seed(3)
    seed = torch.randint(2**63 - 1, (), device=device)
    drawn = functional.sample_adjacency(graph.adjacency, seed)
    expected = reference.graph_conv(x, graph.edge_weight, drawn, graph.weight, graph.bias)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("module_type", [DGCM, DGCMFused])
def test_manual_seed_repeats_a_run_and_forwards_differ(device: torch.device, module_type: type[DGCM]) -> None:
    module = make_pair(device)[module_type is DGCMFused]
    x = features(device)
    torch.manual_seed(3)
    first, second = module(x)[0], module(x)[0]
    torch.manual_seed(3)
    assert torch.equal(module(x)[0], first)
    assert not torch.allclose(second, first)


@pytest.mark.parametrize(
    ("options", "frozen"),
    [
        ({}, torch.ones(17, 17)),
        ({"eval_graph": "soft"}, soft_adjacency()),
        ({"dynamic": False}, soft_adjacency()),
    ],
)
def test_graph_of_inference(device: torch.device, options: dict[str, Any], frozen: Tensor) -> None:
    fused = make_pair(device, **options)[1].eval()
    x = features(device)
    result = fused(x)
    fused.graph_conv = make_pair(device, dynamic=False)[1].graph_conv
    fused.graph_conv.adjacency.copy_(frozen)
    torch.testing.assert_close(result, fused(x))


def test_equation_4_has_no_edge_weight_and_is_its_formula(device: torch.device) -> None:
    """Against loops over the nodes, with a graph that is not symmetric and a node without any edge."""
    adjacency = soft_adjacency(5).where(torch.tensor([1, 1, 0, 1, 1])[:, None] == 1, 0.0)
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64, device=device)
    for aggregate in ("source", "target"):
        options: dict[str, Any] = {"dynamic": False, "propagation": "eq4", "aggregate": aggregate}
        layer = GraphConv(adjacency, **options, dtype=torch.float64).to(device)
        assert set(layer.state_dict()) == {"weight", "bias", "adjacency"}
        degree = adjacency.double().sum(dim=1).tolist()
        transformed = torch.einsum("oi,bihw->bohw", layer.weight, x)
        expected = layer.bias[:, None, None].expand(2, 5, 3, 4).clone()
        for i in range(5):
            for j in range(5):
                if degree[i] and degree[j]:
                    weight = adjacency[i, j].item() / math.sqrt(degree[i] * degree[j])
                    source, target = (i, j) if aggregate == "source" else (j, i)
                    expected[:, target] += weight * transformed[:, source]
        torch.testing.assert_close(layer(x), expected.relu())
        torch.testing.assert_close(layer(x, seed=3), layer(x))
    alone = GraphConv(torch.eye(5), **options, dtype=torch.float64).to(device)
    torch.testing.assert_close(alone.mixing(), torch.eye(5, dtype=torch.float64, device=device))


def test_a_static_graph_ignores_the_generator(device: torch.device) -> None:
    fused = make_pair(device, dynamic=False)[1]
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = fused(features(device))[0]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(fused(features(device))[0], first)


def test_saved_state_and_copies(device: torch.device) -> None:
    plain, fused = make_pair(device)
    file = io.BytesIO()
    torch.save(fused.state_dict(), file)
    file.seek(0)
    restored = DGCMFused(24, torch.ones(17, 17), lift_channels=32).to(device)
    restored.load_state_dict(torch.load(file, weights_only=True))
    x = features(device)
    expected = forward_backward(fused, x)
    for module in (restored, copy.deepcopy(fused)):
        assert all(map(torch.equal, forward_backward(module, x), expected))
    assert plain.state_dict().keys() == fused.state_dict().keys()


# ---- Folding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module_type", [DGCM, DGCMFused])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_fold(device: torch.device, options: dict[str, Any], module_type: type[DGCM]) -> None:
    module = make_pair(device, **options)[module_type is DGCMFused].double()
    x = features(device).double()
    folded = module.fold()
    assert not any(isinstance(layer, (GraphConv, nn.BatchNorm2d)) for layer in folded.modules())
    assert not folded.training
    assert module.training
    expected = module.eval()(x)
    torch.testing.assert_close(folded(x), expected)
    torch.testing.assert_close(folded.train()(x), expected)  # nothing left that training would change
    torch.testing.assert_close(folded.fold()(x), expected)


# ---- Compilation, autocast, other places ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module_type", "training", "options"),
    [
        (DGCM, True, {}),
        (DGCMFused, True, {}),
        (DGCMFused, False, {}),
        (DGCMFused, True, {"dynamic": False, "propagation": "eq4"}),
    ],
)
def test_compile(device: torch.device, training: bool, module_type: type[DGCM], options: dict[str, Any]) -> None:
    torch.compiler.reset()
    module = make_pair(device, **options)[module_type is DGCMFused].train(training)
    x = features(device)
    expected = forward_backward(copy.deepcopy(module), x)
    start = copy.deepcopy(module)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    assert_as_exact(forward_backward(compiled, x), expected, start, x)


def training_step(module: nn.Module, x: Tensor, **options: Tensor) -> list[Tensor]:
    """As `forward_backward`, without what a CUDA graph does not record."""
    outputs = module(x, **options)
    loss = sum(output.square().sum() for output in outputs)
    return [*outputs, *torch.autograd.grad(loss, [x, *module.parameters()])]


@pytest.mark.gpu
def test_capture_and_replay() -> None:
    """A replay draws the graph that a call would draw, so another one each time."""
    device = torch.device("cuda")
    module, x = make_pair(device)[1].double(), features(device).double().requires_grad_()
    graph, replayed = captured(lambda: training_step(module, x))
    torch.manual_seed(3)
    expected = training_step(module, x)
    torch.manual_seed(3)
    graph.replay()
    assert_near(replayed, expected)
    first = replayed[0].clone()
    graph.replay()
    assert not torch.allclose(replayed[0], first)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")  # which Inductor recommends
def test_compile_to_cuda_graphs() -> None:
    """Through the warm-up, the recording and the replays of mode="reduce-overhead", with another seed each time."""
    from torch._dynamo.utils import counters

    torch.compiler.reset()
    counters.clear()
    device = torch.device("cuda")
    module, x = make_pair(device)[1].double(), features(device).double().requires_grad_()
    compiled = torch.compile(copy.deepcopy(module), fullgraph=True, mode="reduce-overhead")
    for number in range(4):
        seed = torch.tensor(number, device=device)
        torch.compiler.cudagraph_mark_step_begin()
        assert_near(training_step(compiled, x, seed=seed), training_step(module, x, seed=seed))
    assert counters["inductor"]["cudagraph_skips"] == 0


# float16 ends at 65,504, so that without a scale its gradients overflow.
@pytest.mark.parametrize(("dtype", "loss_scale"), [(torch.bfloat16, 1.0), (torch.float16, 2.0**-18)])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_autocast(device: torch.device, training: bool, dtype: torch.dtype, loss_scale: float) -> None:
    """The fused module is at most twice as far from float32 as the plain one, or as a single rounding.

    Norms of the errors are compared: which single entries a ReLU moves depends on how the processor rounds.
    """
    plain, fused = (module.train(training) for module in make_pair(device))
    x = features(device)
    exact = forward_backward(copy.deepcopy(plain), x, loss_scale)
    with torch.autocast(device.type, dtype):
        expected, actual = (forward_backward(module, x, loss_scale) for module in (plain, fused))
    for ours, theirs, truth in zip(actual, expected, exact, strict=True):
        assert ours.dtype == theirs.dtype
        rounding = torch.finfo(dtype).eps / 2 * truth.norm()
        assert (ours.float() - truth).norm() <= 2 * max((theirs.float() - truth).norm(), rounding)
    assert actual[1].dtype == dtype
    assert all(gradient.dtype == torch.float32 for gradient in actual[2:])


def test_channels_last(device: torch.device) -> None:
    """In float64: in float32 another layout rounds differently, which moves numbers across the kink of ReLU."""
    plain, fused = (module.double() for module in make_pair(device))
    x = features(device).double()
    ours = forward_backward(fused.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last))
    for our, their in zip(ours, forward_backward(plain, x), strict=True):
        torch.testing.assert_close(our, their, rtol=1e-9, atol=1e-9 * max(1.0, their.abs().max().item()))


# ---- Bad input and imports ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"in_channels": 0}, ValueError, "in_channels must be at least 1, got 0"),
        ({"in_channels": 24.0}, TypeError, "in_channels must be an integer, got 24.0"),
        ({"in_channels": torch.tensor(24.0)}, TypeError, r"in_channels must be an integer, got tensor\(24.\)"),
        ({"lift_channels": True}, TypeError, "lift_channels must be an integer, got True"),
        ({"adjacency": nn.Parameter(torch.eye(3))}, ValueError, "adjacency must not require a gradient"),
        ({"non_local": "no"}, TypeError, "non_local must be True or False, got 'no'"),
        ({"dynamic": "false"}, TypeError, "dynamic must be True or False, got 'false'"),
        ({"per_sample": "no"}, TypeError, "per_sample must be True or False, got 'no'"),
        ({"lift_channels": 1}, ValueError, "lift_channels must be at least 2, got 1"),
        ({"adjacency": [[1.0]]}, TypeError, "adjacency must be a tensor, got list"),
        ({"adjacency": torch.eye(3).long()}, TypeError, "adjacency must have a floating dtype, got torch.int64"),
        ({"adjacency": torch.ones(3, 4)}, ValueError, r"adjacency must have shape \[K, K\] with K >= 1, got \[3, 4\]"),
        ({"adjacency": torch.ones(0, 0)}, ValueError, r"adjacency must have shape \[K, K\].*got \[0, 0\]"),
        ({"adjacency": torch.full((3, 3), 1.5)}, ValueError, r"adjacency must be in \[0, 1\], got values from 1.5"),
        ({"adjacency": torch.full((3, 3), torch.nan)}, ValueError, r"adjacency must be in \[0, 1\].*nan"),
        ({"propagation": "eq5"}, ValueError, "propagation must be 'eq8' or 'eq4', got 'eq5'"),
        ({"propagation": "eq4"}, ValueError, "dynamic must be False with propagation='eq4'"),
        ({"semantics": "soft"}, ValueError, "semantics must be 'literal' or 'mask', got 'soft'"),
        ({"aggregate": "mean"}, ValueError, "aggregate must be 'source' or 'target', got 'mean'"),
        ({"eval_graph": "zeros"}, ValueError, "eval_graph must be 'ones' or 'soft', got 'zeros'"),
    ],
)
def test_bad_input(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        DGCMFused(**({"in_channels": 24, "adjacency": soft_adjacency()} | change))


def test_numpy_integers_are_channels() -> None:
    assert DGCM(np.int64(24), soft_adjacency(), lift_channels=np.int32(8)).kmap.in_channels == 8


@pytest.mark.parametrize("module_type", [DGCM, DGCMFused])
@pytest.mark.parametrize(
    ("x", "seed", "error", "message"),
    [
        (torch.zeros(2, 17, 5, 3), None, ValueError, r"x must have .* C = in_channels = 24, got \[2, 17, 5, 3\]"),
        (torch.zeros(24, 5, 3), None, ValueError, r"x must have shape \[B, C, H, W\] .* got \[24, 5, 3\]"),
        ([[0.0]], None, TypeError, "x must be a tensor, got list"),
        (torch.zeros(2, 24, 5, 3), 2.5, TypeError, "seed must be an integer, got 2.5"),
        (torch.zeros(2, 24, 5, 3), True, TypeError, "seed must be an integer, got True"),
        (torch.zeros(2, 24, 5, 3), 2**63, ValueError, "seed must be in"),
        (torch.zeros(2, 24, 5, 3), torch.zeros(2).long(), ValueError, r"seed must be 0-dim, got shape \[2\]"),
    ],
)
def test_bad_features_and_seeds(
    module_type: type[DGCM], x: Any, seed: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        module_type(24, soft_adjacency(), lift_channels=8)(x, seed=seed)


@pytest.mark.parametrize("layer", [GraphConv(soft_adjacency()), NonLocal(17)])
def test_layers_name_what_they_take(layer: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"x must have shape \[B, ., H, W\] with .* = 17, got \[2, 16, 5, 3\]"):
        layer(torch.zeros(2, 16, 5, 3))


def test_errors_under_fullgraph_keep_their_message() -> None:
    torch.compiler.reset()
    compiled = torch.compile(DGCMFused(24, soft_adjacency(), lift_channels=8), fullgraph=True, backend="eager")
    with pytest.raises(RuntimeError, match="C = in_channels = 24, got"):
        compiled(torch.zeros(2, 17, 5, 3))


def test_the_package_and_its_decoder_do_not_import_torch() -> None:
    code = "import sys, dgcn_ext, dgcn_ext.decoder; dgcn_ext.__version__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=sys.prefix).returncode == 0


def test_package_names() -> None:
    assert set(dgcn_ext.__all__) <= set(dir(dgcn_ext))
    assert all(getattr(dgcn_ext, name) is not None for name in dgcn_ext.__all__)
    with pytest.raises(AttributeError, match="module 'dgcn_ext' has no attribute 'nonsense'"):
        _ = dgcn_ext.nonsense
