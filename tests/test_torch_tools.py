"""The operators with torch.fx, tensor subclasses, jit.trace, Inductor and torch's FLOP counter."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dgcn_ext import DGCM, DGCMFused, functional, ops
from dgcn_ext.functional import graph_conv, relu_affinity, sample_adjacency

# ---- torch.fx, __torch_function__ -----------------------------------------------------------------------------------


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.edge_weight = nn.Parameter(torch.randn(4, 4, generator=generator))
        self.adjacency = nn.Buffer(torch.rand(4, 4, generator=generator))

    def forward(self, x: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        y = graph_conv(x, self.edge_weight, self.adjacency, seed=seed, per_sample=True, semantics="mask")
        keys = functional.graph_conv(x, self.edge_weight, self.adjacency, residual=y).flatten(2).mean(1)
        return relu_affinity(keys, keys, y.flatten(2)), sample_adjacency(self.adjacency, seed, x.shape[0])


def test_fx_records_a_call_as_one_node() -> None:
    network = Network()
    traced = torch.fx.symbolic_trace(network)
    called = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    assert [called.count(function) for function in (graph_conv, relu_affinity, sample_adjacency)] == [2, 1, 1]
    arguments = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0)), torch.tensor(3)
    for copied in (traced, copy.deepcopy(traced), pickle.loads(pickle.dumps(traced))):
        assert all(map(torch.equal, copied(*arguments), network(*arguments)))


@pytest.mark.parametrize("module", [DGCM, DGCMFused])
def test_fx_traces_the_modules(module: type[DGCM]) -> None:
    dgcm = module(6, torch.rand(4, 4), lift_channels=4).eval()
    x = torch.randn(2, 6, 3, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.fx.symbolic_trace(dgcm)(x), dgcm(x))


def test_a_subclass_of_tensor_is_returned_as_such() -> None:
    class Features(Tensor):
        pass

    x, parameter = torch.rand(1, 4, 2, 3).as_subclass(Features), torch.rand(4, 4)
    assert type(graph_conv(x, parameter, parameter)) is Features
    assert type(relu_affinity(x[0, :, 0], x[0, :, 1], x[0])) is Features


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
def test_jit_trace_records_the_operator_where_gradients_are_needed() -> None:
    parameter = torch.rand(4, 4)

    def function(x: Tensor) -> Tensor:
        return graph_conv(x, parameter, parameter)

    x = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.equal(torch.jit.trace(function, x)(x + 1), function(x + 1))


# ---- Inductor -------------------------------------------------------------------------------------------------------


def test_inductor() -> None:
    """Both operators in one graph of dynamic sizes: Inductor takes seconds to compile it."""
    torch.compiler.reset()
    generator = torch.Generator().manual_seed(0)
    adjacency, seed = torch.rand(5, 5, generator=generator), torch.tensor(3)

    def function(x: Tensor, edge_weight: Tensor) -> Tensor:
        draw = {"seed": seed, "per_sample": True, "first_sample": x.shape[0]}
        nodes = graph_conv(x.sin(), edge_weight, adjacency, **draw).flatten(2)
        return relu_affinity(nodes[:, 0], nodes[:, 1], nodes)

    compiled = torch.compile(function, fullgraph=True, dynamic=True)
    for shape in ((2, 5, 6, 7), (3, 5, 9, 4)):
        x = torch.randn(shape, generator=generator).contiguous(memory_format=torch.channels_last)
        results = []
        for run in (compiled, function):
            leaves = [x.clone().requires_grad_(), torch.eye(5).requires_grad_()]
            y = run(*leaves)
            results.append([y, *torch.autograd.grad(y.sum(), leaves)])
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


# ---- FLOPs ----------------------------------------------------------------------------------------------------------


def count(function: object, *args: object) -> int:
    with FlopCounterMode(display=False) as counter:
        function(*args)  # type: ignore[operator]
    return counter.get_total_flops()


def test_flops_of_graph_conv() -> None:
    """At each of 3·5·7 positions a product with a 4×4 matrix, two operations an entry: 3360."""
    x, parameter, bias = torch.rand(3, 4, 5, 7), torch.rand(4, 4), torch.rand(4)
    assert count(graph_conv, x, parameter, parameter) == 3360

    leaves = [value.clone().requires_grad_() for value in (x, parameter, bias)]
    y = graph_conv(leaves[0], leaves[1], parameter, bias=leaves[2])
    assert count(y.sum().backward) == 2 * 3360  # for x, and for the parameters
    y = graph_conv(leaves[0], parameter, parameter, residual=x)
    assert count(y.sum().backward) == 2 * 3360  # for x, and for y again
    y = graph_conv(x, leaves[1], parameter, activation="none", residual=x)
    assert count(y.sum().backward) == 3360


def test_flops_of_relu_affinity() -> None:
    """2·3·7 features, six operations each."""
    a, b, g = torch.rand(2, 7), torch.rand(2, 7), torch.rand(2, 3, 7)
    assert count(relu_affinity, a, b, g) == 252
    for needs, expected in (((False, True), 252), ((True, False), 252), ((True, True), 504)):
        assert count(ops.relu_affinity_backward, g, a, b, g, *needs) == expected
