"""The operators under torch.func, vmap, torch.export and compiled autograd: gradients where nothing in Python but the
operator itself is called.

"raw" calls ``torch.ops.dgcn`` as an exported program does, "functional" the function that users call.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacrev, jvp, stack_module_state, vjp, vmap

from dgcn_ext import DGCM, DGCMFused, functional, reference

SIZE = 3  # of the dimension that is mapped over
GRAPH_CONV = ("x", "edge_weight", "adjacency", "weight", "bias", "residual", "seed")
DIFFERENTIABLE = (0, 1, 3, 4, 5)
DRAWN = {"seed": 2**40 + 3}


def raw_graph_conv(*tensors: Tensor, per_sample: bool = False) -> Tensor:
    return torch.ops.dgcn.graph_conv_forward(*tensors, per_sample, False, False, True)


def functional_graph_conv(*tensors: Tensor, per_sample: bool = False) -> Tensor:
    return functional.graph_conv(*tensors[:-1], seed=tensors[-1], per_sample=per_sample)


def reference_graph_conv(*tensors: Tensor, per_sample: bool = False) -> Tensor:
    return reference.graph_conv(*tensors[:-1], seed=tensors[-1], per_sample=per_sample)


graph_convs = pytest.mark.parametrize("graph_conv", [functional_graph_conv, raw_graph_conv])
relu_affinities = pytest.mark.parametrize(
    "relu_affinity", [functional.relu_affinity, torch.ops.dgcn.relu_affinity_forward], ids=["functional", "raw"]
)


def graph_conv_tensors(mapped: tuple[str, ...] = ()) -> list[Tensor]:
    """The arguments in float64; those of the names in ``mapped`` with a first dimension to map over."""
    generator = torch.Generator().manual_seed(0)

    def uniform(name: str, *shape: int) -> Tensor:
        shape = (SIZE, *shape) if name in mapped else shape
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    images, parameter = (2, 4, 2, 3), (4, 4)
    x, edge_weight, adjacency, weight, bias, residual = (
        uniform(name, *shape)
        for name, shape in zip(GRAPH_CONV, (images, parameter, parameter, parameter, (4,), images), strict=False)
    )
    seed = torch.arange(7, 7 + SIZE) if "seed" in mapped else torch.tensor(7)
    return [x - 0.5, edge_weight, adjacency, weight - 0.5, bias - 0.5, residual, seed]


def relu_affinity_tensors(mapped: tuple[bool, bool, bool] = (False, False, False)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 6), (2, 6), (2, 3, 6)]
    return [
        torch.randn((SIZE, *shape) if is_mapped else shape, generator=generator, dtype=torch.float64)
        for shape, is_mapped in zip(shapes, mapped, strict=True)
    ]


def loop(function: Callable[..., Any], in_dims: tuple[int | None, ...]) -> Callable[..., Any]:
    """What vmap is: the function called for one element after the other."""

    def looped(*args: Tensor) -> Any:
        elements = [[args[i] if dim is None else args[i][n] for i, dim in enumerate(in_dims)] for n in range(SIZE)]
        results = [function(*element) for element in elements]
        return (
            torch.stack(results)
            if isinstance(results[0], Tensor)
            else tuple(map(torch.stack, zip(*results, strict=True)))
        )

    return looped


def check_vmap(
    function: Callable[..., Tensor],
    expected: Callable[..., Tensor],
    args: list[Tensor],
    in_dims: tuple[int | None, ...],
    argnums: tuple[int, ...],
) -> None:
    """Values and gradients with vmap inside, outside and below the differentiation."""

    def gradients(function: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, ...]]:
        return grad(lambda *args: function(*args).sin().sum(), argnums)

    def backward(*args: Tensor) -> tuple[Tensor, ...]:
        leaves = [arg.clone().requires_grad_(i in argnums) for i, arg in enumerate(args)]
        return torch.autograd.grad(vmap(function, in_dims)(*leaves).sin().sum(), [leaves[i] for i in argnums])

    looped = loop(expected, in_dims)
    torch.testing.assert_close(vmap(function, in_dims)(*args), looped(*args))
    torch.testing.assert_close(vmap(gradients(function), in_dims)(*args), loop(gradients(expected), in_dims)(*args))
    torch.testing.assert_close(gradients(vmap(function, in_dims))(*args), gradients(looped)(*args))
    torch.testing.assert_close(backward(*args), gradients(looped)(*args))


# ---- vmap -----------------------------------------------------------------------------------------------------------


# Per sample, the draw of the n-th image of an element is that of the n-th image, whatever else is in the batch.
@pytest.mark.parametrize(
    ("graph_conv", "mapped", "per_sample"),
    [
        (functional_graph_conv, ("x",), False),
        (functional_graph_conv, ("x",), True),
        (functional_graph_conv, ("residual",), False),
        (functional_graph_conv, ("weight", "bias"), False),
        (functional_graph_conv, ("seed",), True),
        (raw_graph_conv, ("x",), False),
        (raw_graph_conv, GRAPH_CONV, True),
    ],
)
def test_vmap_of_graph_conv(graph_conv: Any, mapped: tuple[str, ...], per_sample: bool) -> None:
    def function(*tensors: Tensor) -> Tensor:
        return graph_conv(*tensors, per_sample=per_sample)

    def expected(*tensors: Tensor) -> Tensor:
        return reference_graph_conv(*tensors, per_sample=per_sample)

    in_dims = tuple(0 if name in mapped else None for name in GRAPH_CONV)
    check_vmap(function, expected, graph_conv_tensors(mapped), in_dims, DIFFERENTIABLE)


@relu_affinities
@pytest.mark.parametrize("mapped", [(True, False, False), (False, False, True)])
def test_vmap_of_relu_affinity(relu_affinity: Any, mapped: tuple[bool, bool, bool]) -> None:
    in_dims = tuple(0 if is_mapped else None for is_mapped in mapped)
    check_vmap(relu_affinity, reference.relu_affinity, relu_affinity_tensors(mapped), in_dims, (0, 1, 2))


@pytest.mark.parametrize("mapped", ["adjacency", "seed"])
def test_vmap_of_sample_adjacency(mapped: str) -> None:
    *_, adjacency, _, _, _, seed = graph_conv_tensors((mapped,))
    in_dims = tuple(0 if name == mapped else None for name in ("adjacency", "seed"))

    def function(adjacency: Tensor, seed: Tensor) -> Tensor:
        return functional.sample_adjacency(adjacency, seed, 2)

    assert torch.equal(vmap(function, in_dims)(adjacency, seed), loop(function, in_dims)(adjacency, seed))


def test_vmap_over_other_dimensions_and_twice() -> None:
    x, edge_weight, *rest = graph_conv_tensors(("x", "edge_weight"))

    def function(x: Tensor, edge_weight: Tensor) -> Tensor:
        return functional_graph_conv(x, edge_weight, *rest)

    y = vmap(function, (-1, 1))(x.movedim(0, -1), edge_weight.movedim(0, 1))
    torch.testing.assert_close(y, loop(function, (0, 0))(x, edge_weight))
    y = vmap(vmap(function, (None, 0)), (0, None))(x, edge_weight)
    torch.testing.assert_close(y[1, 2], function(x[1], edge_weight[2]))


@relu_affinities
def test_vmap_over_single_images(relu_affinity: Any) -> None:
    """Per-sample gradients and Jacobians. With B = 1 the elements, mapped or not, are views as one batch."""
    tensors = [tensor[:1] for tensor in relu_affinity_tensors()]
    jacobians = [jacrev(function, (0, 1, 2))(*tensors) for function in (relu_affinity, reference.relu_affinity)]
    torch.testing.assert_close(*jacobians)
    elements = [torch.stack((tensor, -tensor), dim=-1) for tensor in tensors]
    y = vmap(relu_affinity, (-1, -1, -1))(*elements)
    torch.testing.assert_close(y[1], reference.relu_affinity(*(-tensor for tensor in tensors)))


@pytest.mark.parametrize("name", ["x", "weight"])
def test_vmap_over_nothing_is_refused(name: str) -> None:
    tensors = dict(zip(GRAPH_CONV, graph_conv_tensors((name,)), strict=True))
    nothing = tensors.pop(name)[:0]
    with pytest.raises(ValueError, match=r"vmap over dgcn::graph_conv_forward needs .* at least one element, got 0"):
        vmap(lambda value: functional.graph_conv(**tensors, **{name: value}))(nothing)


# ---- torch.func -----------------------------------------------------------------------------------------------------


@graph_convs
def test_jacobian_of_graph_conv(graph_conv: Any) -> None:
    tensors = graph_conv_tensors()
    x, *rest = tensors
    expected = jacrev(reference_graph_conv, DIFFERENTIABLE)(*tensors)
    torch.testing.assert_close(jacrev(graph_conv, DIFFERENTIABLE)(*tensors), expected)
    y, pull_back = vjp(lambda x: graph_conv(x, *rest), x)
    torch.testing.assert_close(pull_back(torch.ones_like(y))[0], expected[0].sum((0, 1, 2, 3)))
    batched = torch.autograd.functional.jacobian(lambda x: graph_conv(x, *rest), x, vectorize=True)
    torch.testing.assert_close(batched, expected[0])


@relu_affinities
def test_jacobian_of_relu_affinity(relu_affinity: Any) -> None:
    tensors = relu_affinity_tensors()
    torch.testing.assert_close(
        jacrev(relu_affinity, (0, 1, 2))(*tensors), jacrev(reference.relu_affinity, (0, 1, 2))(*tensors)
    )


def functions_of_one_tensor(function: Any) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """A loss that depends on the features alone, and those."""
    if function in (raw_graph_conv, functional_graph_conv):
        x, *rest = graph_conv_tensors()
        return lambda x: function(x, *rest).square().sum(), x
    a, b, g = relu_affinity_tensors()
    return lambda g: function(a, b, g).square().sum(), g


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # raised inside torch.func.jvp
@pytest.mark.parametrize(
    "function",
    [
        raw_graph_conv,
        functional_graph_conv,
        torch.ops.dgcn.relu_affinity_forward,
        functional.relu_affinity,
    ],
)
def test_unsupported_derivatives_raise(function: Any) -> None:
    loss, x = functions_of_one_tensor(function)
    with pytest.raises(NotImplementedError, match="forward mode AD"):
        jvp(loss, (x,), (x,))
    with pytest.raises(NotImplementedError, match="forward mode AD"):
        hessian(loss)(x)
    for twice in (grad(lambda x: grad(loss)(x).sum()), jacrev(grad(loss))):
        with pytest.raises(RuntimeError, match="differentiate twice"):
            twice(x)
    constant, tangent = jvp(lambda y: loss(x) + y, (x[0],), (x[0],))  # what has no tangent may pass
    torch.testing.assert_close(constant, loss(x) + x[0])
    torch.testing.assert_close(tangent, x[0])


@pytest.mark.parametrize("function", [raw_graph_conv, functional_graph_conv])
def test_adjacency_takes_no_gradient(function: Any) -> None:
    x, edge_weight, adjacency, *rest, seed = graph_conv_tensors(("x", "seed"))

    def through_the_layer(adjacency: Tensor) -> Tensor:
        return vmap(lambda x, seed: function(x, edge_weight, adjacency, *rest, seed))(x, seed).sum()

    def through_the_draw(adjacency: Tensor) -> Tensor:
        return vmap(lambda seed: functional.sample_adjacency(adjacency, seed))(seed).sum()

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
    """Of whole modules, and so of both operators."""
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


def test_an_exported_program_trains() -> None:
    x, seed = features(2), torch.tensor(3)
    file = io.BytesIO()
    program = torch.export.export(
        Layer(functional.graph_conv), (x, seed), dynamic_shapes=({0: torch.export.Dim("B")}, None)
    )
    torch.export.save(program, file)
    file.seek(0)
    exported, plain = torch.export.load(file).module(), Layer(reference.graph_conv)
    x = torch.cat((x, x + 1))
    torch.testing.assert_close(trained(exported, x, seed), trained(plain, x, seed))
    parameters, buffers = dict(exported.named_parameters()), dict(exported.named_buffers())
    gradients = grad(lambda p: functional_call(exported, (p, buffers), (x, seed)).sin().sum())(parameters)
    torch.testing.assert_close(gradients, trained(plain, x, seed))


# ---- torch.compile --------------------------------------------------------------------------------------------------


def test_compiled_per_sample_gradients() -> None:
    torch.compiler.reset()
    tensors = graph_conv_tensors(("x", "weight"))
    gradients = grad(lambda *args: functional_graph_conv(*args).sin().sum(), DIFFERENTIABLE)
    mapped = vmap(gradients, (0, None, None, 0, None, None, None))
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
