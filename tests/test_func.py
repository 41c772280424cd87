"""torch.func, vmap and compiled autograd: what op_contract.py leaves out, and modules that hold the operators."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from graph_conv_cases import GraphConvContract
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from dgcn_ext import DGCM, DGCMFused, functional, reference

SIZE = 3  # of the dimension that is mapped over

# ---- Operators ------------------------------------------------------------------------------------------------------


def test_vmap_over_other_dimensions_and_twice() -> None:
    calls = [GraphConvContract().small(seed) for seed in range(SIZE)]
    xs, edge_weights = (torch.stack([call.tensors[name] for call in calls]) for name in ("x", "edge_weight"))

    def function(x: Tensor, edge_weight: Tensor) -> Tensor:
        return calls[0].replaced(x=x, edge_weight=edge_weight).of(functional.graph_conv)

    y = vmap(function, (-1, 1))(xs.movedim(0, -1), edge_weights.movedim(0, 1))
    torch.testing.assert_close(y, torch.stack([function(xs[n], edge_weights[n]) for n in range(SIZE)]))
    y = vmap(vmap(function, (None, 0)), (0, None))(xs, edge_weights)
    torch.testing.assert_close(y[1, 2], function(xs[1], edge_weights[2]))


@pytest.mark.parametrize("function", [functional.graph_conv, GraphConvContract().raw], ids=["functional", "raw"])
def test_adjacency_takes_no_gradient(function: Callable[..., Tensor]) -> None:
    call = GraphConvContract().small()
    x, seeds = call.tensors["x"][None], torch.arange(1)

    def through_the_layer(adjacency: Tensor) -> Tensor:
        return vmap(lambda x, seed: call.replaced(x=x, seed=seed, adjacency=adjacency).of(function))(x, seeds).sum()

    def through_the_draw(adjacency: Tensor) -> Tensor:
        return vmap(lambda seed: functional.sample_adjacency(adjacency, seed))(seeds).sum()

    adjacency = call.tensors["adjacency"]
    for loss in (through_the_layer, through_the_draw):
        with pytest.raises(ValueError, match="adjacency must not require a gradient"):
            grad(loss)(adjacency)
        with pytest.raises(ValueError, match="adjacency must not require a gradient"):
            loss(adjacency.clone().requires_grad_())


# ---- Modules --------------------------------------------------------------------------------------------------------


class Layer(nn.Module):
    """A graph convolution that draws one graph per image, as its users write it."""

    adjacency: Tensor

    def __init__(self, graph_conv: Callable[..., Tensor]) -> None:
        super().__init__()
        self.graph_conv = graph_conv
        generator = torch.Generator().manual_seed(0)
        for name, shape in (("edge_weight", (4, 4)), ("weight", (4, 4)), ("bias", (4,))):
            setattr(self, name, nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)))
        self.register_buffer("adjacency", torch.rand(4, 4, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor, seed: Tensor) -> Tensor:
        parameters = (self.edge_weight, self.adjacency, self.weight, self.bias)
        return self.graph_conv(x, *parameters, seed=seed, per_sample=True)


def features(batch: int) -> Tensor:
    return torch.randn(batch, 4, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def trained(layer: nn.Module, x: Tensor, seed: Tensor) -> dict[str, Tensor]:
    """The gradients of the layer's parameters."""
    parameters = dict(layer.named_parameters())
    gradients = torch.autograd.grad(layer(x, seed).sin().sum(), list(parameters.values()))
    return dict(zip(parameters, gradients, strict=True))


def test_per_sample_gradients() -> None:
    layer, plain = Layer(functional.graph_conv), Layer(reference.graph_conv)
    parameters, buffers = dict(layer.named_parameters()), dict(layer.named_buffers())
    x, seeds = features(SIZE), torch.arange(SIZE)

    def loss(parameters: dict[str, Tensor], x: Tensor, seed: Tensor) -> Tensor:
        return functional_call(layer, (parameters, buffers), (x[None], seed)).sin().sum()

    gradients = vmap(grad(loss), (None, 0, 0))(parameters, x, seeds)
    for n in range(SIZE):
        expected = trained(plain, x[n : n + 1], seeds[n])
        torch.testing.assert_close({name: gradient[n] for name, gradient in gradients.items()}, expected)


def test_ensembling() -> None:
    """Of whole modules, so that both operators are under vmap."""
    torch.manual_seed(0)
    members = [DGCM(6, torch.rand(4, 4), lift_channels=4).double().eval() for _ in range(SIZE)]
    fused = [DGCMFused(6, member.graph_conv.adjacency, lift_channels=4).double().eval() for member in members]
    for ours, theirs in zip(fused, members, strict=True):
        nn.init.ones_(theirs.non_local.out[1].weight)  # else the non-local layer is the identity
        ours.load_state_dict(theirs.state_dict())
    parameters, buffers = stack_module_state(fused)
    x = torch.randn(2, 6, 3, 5, dtype=torch.float64)
    y, logits = vmap(lambda *state: functional_call(fused[0], state, (x,)))(parameters, buffers)
    (y.sin().sum() + logits.sin().sum()).backward()
    for n, member in enumerate(members):
        expected_y, expected_logits = member(x)
        torch.testing.assert_close((y[n], logits[n]), (expected_y, expected_logits))
        (expected_y.sin().sum() + expected_logits.sin().sum()).backward()
        for name, parameter in member.named_parameters():
            torch.testing.assert_close(parameters[name].grad[n], parameter.grad)


# ---- torch.compile --------------------------------------------------------------------------------------------------


def test_compiled_per_sample_gradients() -> None:
    torch.compiler.reset()
    call = GraphConvContract().small()

    def loss(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return call.replaced(x=x, weight=weight, bias=bias).of(functional.graph_conv).sin().sum()

    tensors = [call.tensors[name] for name in ("x", "weight", "bias")]
    tensors[:2] = (torch.stack([tensor, -tensor]) for tensor in tensors[:2])
    mapped = vmap(grad(loss, (0, 1, 2)), (0, 0, None))
    compiled = torch.compile(mapped, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*tensors), mapped(*tensors))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # raised inside torch
def test_compiled_autograd() -> None:
    torch.compiler.reset()
    layer = Layer(functional.graph_conv)
    x, seed = features(2), torch.tensor(3)

    loss = layer(x, seed).sin().sum()
    with torch._dynamo.compiled_autograd._enable(torch.compile(fullgraph=True, backend="eager")):
        loss.backward()
    expected = trained(layer, x, seed)
    torch.testing.assert_close({name: parameter.grad for name, parameter in layer.named_parameters()}, expected)
