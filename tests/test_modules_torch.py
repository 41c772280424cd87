"""``DGCM`` and its layers with what PyTorch offers: hooks, pruning, meta device, FSDP, torch.func, fx, export."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter, CompileCounterWithBackend
from torch._subclasses import FakeTensorMode
from torch.func import functional_call, vmap
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

from dgcn_ext import DGCM, DGCMFused, GraphConvFused, NonLocal, NonLocalFused, functional

both = pytest.mark.parametrize("module_type", [DGCM, DGCMFused])


def soft_adjacency() -> Tensor:
    return torch.rand(5, 5, generator=torch.Generator().manual_seed(5)).fill_diagonal_(1)


def make(module_type: type[DGCM], **options: object) -> DGCM:
    """A small module in which every term has an effect: γ is not 0, no bias is."""
    torch.manual_seed(0)
    module = module_type(6, soft_adjacency(), lift_channels=8, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.rand_like(parameter))
    return module


def features() -> Tensor:
    return torch.randn(2, 6, 4, 3, generator=torch.Generator().manual_seed(1))


# ---- The layers of the non-local layer are called -------------------------------------------------------------------


def prune_weights(layer: NonLocal) -> None:
    for conv in (layer.theta, layer.phi, layer.affinity):
        prune.l1_unstructured(conv, "weight", 0.5)


def norm_weights(layer: NonLocal) -> None:
    for conv in (layer.theta, layer.phi, layer.affinity):
        parametrizations.weight_norm(conv)
        nn.init.constant_(conv.parametrizations.weight.original0, 3)


def exchange_biases(layer: NonLocal) -> None:
    layer.theta = nn.Conv2d(6, 3, 1, bias=False, dtype=torch.float64)
    layer.affinity = nn.Conv2d(6, 1, 1, dtype=torch.float64)


def wrap(layer: NonLocal) -> None:
    layer.phi = nn.Sequential(layer.phi, nn.Tanh())
    layer.affinity = nn.Sequential(layer.affinity, nn.Conv2d(1, 1, 1, dtype=torch.float64))


def hook(layer: NonLocal) -> None:
    layer.theta.register_forward_hook(lambda conv, inputs, output: output.tanh())
    layer.affinity.register_forward_hook(lambda conv, inputs, output: 3 * output)


@pytest.mark.parametrize("layer_type", [NonLocal, NonLocalFused])
@pytest.mark.parametrize("change", [prune_weights, norm_weights, exchange_biases, wrap, hook])
def test_changes_of_the_layers_have_their_effect(
    layer_type: type[NonLocal], change: Callable[[NonLocal], None]
) -> None:
    torch.manual_seed(0)
    layer = layer_type(6, dtype=torch.float64)
    nn.init.ones_(layer.out[1].weight)
    change(layer)
    x = torch.randn(2, 6, 2, 3, dtype=torch.float64)
    theta, phi, g = layer.theta(x).flatten(2), layer.phi(x).flatten(2), layer.g(x).flatten(2)
    y = torch.zeros_like(g)
    for i in range(6):
        for j in range(6):
            pair = torch.cat([theta[:, :, i], phi[:, :, j]], dim=1)
            y[:, :, i] += layer.affinity(pair[:, :, None, None]).relu().flatten(1) * g[:, :, j] / 6
    torch.testing.assert_close(layer(x), x + layer.out(y.unflatten(2, (2, 3))))


def test_hooks_see_the_features() -> None:
    module, seen = make(DGCMFused), {}
    for name in ("theta", "phi", "g"):
        layer = getattr(module.non_local, name)
        layer.register_forward_hook(lambda conv, inputs, output, name=name: seen.update({name: output.shape}))
    module(features())
    assert seen == dict.fromkeys(("theta", "phi", "g"), (2, 4, 4, 3))


# ---- A seed that is given -------------------------------------------------------------------------------------------


@both
def test_a_given_seed_draws_the_documented_graph(module_type: type[DGCM]) -> None:
    module, x = make(module_type), features()
    generator = torch.get_rng_state()
    drawn, _ = module(x, seed=torch.tensor(7))
    again, _ = module(x, seed=7)
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.equal(drawn, again)
    assert not torch.allclose(drawn, module(x, seed=8)[0])
    graph = module.graph_conv
    graph.adjacency.copy_(functional.sample_adjacency(graph.adjacency, torch.tensor(7)))  # nothing is left to chance
    torch.testing.assert_close(module(x)[0], drawn)


def test_a_seed_changes_nothing_where_no_graph_is_drawn() -> None:
    x = features()
    for module in (make(DGCMFused).eval(), make(DGCMFused, dynamic=False)):
        assert torch.equal(module(x, seed=3)[0], module(x)[0])


def test_layers_have_the_defaults_of_the_module() -> None:
    ours, theirs = GraphConvFused(soft_adjacency()), make(DGCMFused).graph_conv
    options = ("dynamic", "semantics", "aggregate", "eval_graph", "per_sample")
    assert [getattr(ours, name) for name in options] == [getattr(theirs, name) for name in options]
    assert ours(torch.randn(2, 5, 4, 3), seed=1).shape == (2, 5, 4, 3)


@both
def test_checkpointing_draws_the_same_graph_again(module_type: type[DGCM]) -> None:
    module, x = make(module_type), features()

    def gradient(call: Callable[..., tuple[Tensor, Tensor]], **options: object) -> Tensor:
        module.zero_grad()
        torch.manual_seed(2)
        call(x, **options)[0].square().sum().backward()
        return module.graph_conv.edge_weight.grad

    def recomputed(x: Tensor, **options: object) -> tuple[Tensor, Tensor]:
        return checkpoint(module, x, use_reentrant=False, **options)

    torch.testing.assert_close(gradient(recomputed), gradient(module))
    seed = torch.tensor(7)
    torch.testing.assert_close(gradient(recomputed, seed=seed, preserve_rng_state=False), gradient(module, seed=seed))


def test_another_number_is_not_compiled_again() -> None:
    """torch makes the seed dynamic at the second number; else it would compile 8 times and then give up."""
    torch.compiler.reset()
    module, x = make(DGCMFused), features()
    counter = CompileCounter()
    compiled = torch.compile(module, fullgraph=True, backend=counter)
    for seed in (1, 2, -3, 2**62):
        assert torch.equal(compiled(x, seed=seed)[1], module(x, seed=seed)[1])
    assert counter.frame_count == 2


# ---- Parts of a batch -----------------------------------------------------------------------------------------------


@both
def test_parts_of_a_batch_have_the_graphs_of_the_whole(module_type: type[DGCM]) -> None:
    """Up to the largest number. torch compiles for the first part and once more, for all others."""
    torch.compiler.reset()
    layer, start = make(module_type, per_sample=True).graph_conv, 2**32 - 6
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, backend=counter)
    x = torch.randn(6, 5, 4, 3, generator=torch.Generator().manual_seed(0))

    def outputs_and_gradients(call: Callable[..., Tensor], first: int, end: int) -> list[Tensor]:
        layer.first_sample = start + first
        part = x[first:end].requires_grad_()
        y = call(part, seed=torch.tensor(3))
        return [y, *torch.autograd.grad(y.sin().sum(), (part, layer.edge_weight))]

    y, grad_x, grad_edge_weight = outputs_and_gradients(layer, 0, 6)
    for call in (layer, compiled):
        parts = [outputs_and_gradients(call, first, first + 2) for first in (0, 2, 4)]
        torch.testing.assert_close(torch.cat([part[0] for part in parts]), y)
        torch.testing.assert_close(torch.cat([part[1] for part in parts]), grad_x)
        torch.testing.assert_close(sum(part[2] for part in parts), grad_edge_weight)
    assert counter.frame_count == 2


@both
@pytest.mark.parametrize(
    ("number", "error", "message"),
    [(-1, ValueError, r"in \[0, 4294967295\], got -1"), (0.5, TypeError, r"an integer, got 0\.5")],
)
def test_bad_first_sample(module_type: type[DGCM], number: object, error: type[Exception], message: str) -> None:
    module = make(module_type, per_sample=True)
    module.graph_conv.first_sample = number
    with pytest.raises(error, match=f"first_sample must be {message}"):
        module(features())


def test_vmap_over_seeds() -> None:
    """The plain layer: one graph for each seed, without torch's generator, which vmap refuses."""
    graph, x = make(DGCM).graph_conv, torch.randn(2, 5, 4, 3)
    drawn = vmap(lambda seed: graph(x, seed))(torch.arange(3))
    torch.testing.assert_close(drawn, torch.stack([graph(x, seed) for seed in range(3)]))


# ---- Places and dtypes, and a start on the meta device --------------------------------------------------------------


@both
def test_device_and_dtype_of_the_constructor(module_type: type[DGCM]) -> None:
    state = module_type(6, soft_adjacency(), lift_channels=8, device="meta", dtype=torch.bfloat16).state_dict()
    assert {tensor.device.type for tensor in state.values()} == {"meta"}
    dtypes = {name: tensor.dtype for name, tensor in state.items() if "num_batches" not in name}
    assert set(dtypes.values()) == {torch.bfloat16}


@both
def test_shapes_on_the_meta_device(module_type: type[DGCM]) -> None:
    with torch.device("meta"):
        module = module_type(24, torch.rand(17, 17), lift_channels=8)
        result = module(torch.empty(2, 24, 5, 3))
    assert [tuple(output.shape) for output in result] == [(2, 24, 5, 3), (2, 17, 5, 3)]


def test_fake_tensors() -> None:
    """The module is built and run without values, as by tools that estimate the memory of a training."""
    with FakeTensorMode():
        module = DGCMFused(6, torch.rand(5, 5), lift_channels=8)
        sum(output.sum() for output in module(torch.empty(2, 6, 4, 3))).backward()
    assert module.graph_conv.edge_weight.grad.shape == (5, 5)


def test_a_graph_on_the_meta_device_does_for_no_other_device() -> None:
    with pytest.raises(ValueError, match="adjacency must have values for a module on cpu, got one on meta"):
        GraphConvFused(torch.rand(5, 5, device="meta"))


def materialise(module: DGCM, parents_first: bool) -> DGCM:
    """As FSDP starts a module that was built on the meta device."""
    module.to_empty(device="cpu")
    for parameter in module.parameters():
        nn.init.constant_(parameter, 7)  # what happens to lie in the memory
    layers = list(module.modules())
    for layer in layers if parents_first else reversed(layers):
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    return module


@pytest.mark.parametrize("parents_first", [True, False])
def test_start_on_the_meta_device(parents_first: bool) -> None:
    adjacency = soft_adjacency()
    with torch.device("meta"):
        module = DGCMFused(6, adjacency, lift_channels=8)
    module = materialise(copy.deepcopy(module), parents_first)
    assert torch.equal(module.graph_conv.adjacency, adjacency)
    torch.testing.assert_close(module.graph_conv.edge_weight.detach(), math.log(4) * torch.eye(5))
    assert not module.non_local.out[1].weight.any()
    assert module.graph_conv.weight.abs().max() < 1


@both
def test_a_graph_without_values_is_an_error(module_type: type[DGCM]) -> None:
    def start() -> DGCM:
        with torch.device("meta"):
            module = module_type(6, torch.rand(5, 5), lift_channels=8)
        return materialise(module, parents_first=True)

    with pytest.raises(ValueError, match="adjacency has no values, as it was given on the meta device"):
        start()(features())
    loaded = start()
    loaded.load_state_dict(make(module_type).state_dict())
    torch.compile(loaded, fullgraph=True, backend="eager")(features())
    assert torch.equal(loaded.graph_conv.adjacency, soft_adjacency())
    written = start()
    written.graph_conv.adjacency.copy_(soft_adjacency())
    written(features())


def test_synchronised_batch_norm_keeps_the_zero_start() -> None:
    module = nn.SyncBatchNorm.convert_sync_batchnorm(DGCM(6, soft_adjacency(), lift_channels=8))
    assert not module.non_local.out[1].weight.any()


@pytest.fixture
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:DTensor random operators may not have complete support on cpu")
@both
@pytest.mark.usefixtures("one_process")
def test_every_layer_sharded(module_type: type[DGCM]) -> None:
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    def shard(module: DGCM) -> DGCM:
        mesh = dist.init_device_mesh("cpu", (1,))
        for layer in module.modules():
            if list(layer.parameters(recurse=False)):
                fully_shard(layer, mesh=mesh)
        return fully_shard(module, mesh=mesh)

    module, x = make(module_type), features()
    expected = copy.deepcopy(module)
    sharded = shard(module)
    assert isinstance(sharded.non_local.theta.weight, DTensor)
    for call in (sharded, expected):
        sum(output.sum() for output in call(x, seed=3)).backward()
    for ours, theirs in zip(sharded.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours.grad.full_tensor(), theirs.grad)

    adjacency = soft_adjacency()
    module = module_type(6, adjacency, lift_channels=8, device="meta")
    started = materialise(shard(module), parents_first=True)
    torch.testing.assert_close(started.graph_conv.edge_weight.full_tensor(), math.log(4) * torch.eye(5))
    assert not started.non_local.out[1].weight.full_tensor().any()
    assert torch.equal(started.graph_conv.adjacency, adjacency)


# ---- Tracing, copies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module_type", "options"),
    [(DGCM, {}), (DGCMFused, {}), (DGCMFused, {"dynamic": False, "propagation": "eq4"})],
)
def test_traces_exports_and_copies(module_type: type[DGCM], options: dict[str, object]) -> None:
    module, x = make(module_type, **options).eval(), features()
    expected = module(x)
    dynamic = {"x": {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}}
    for same in (
        torch.fx.symbolic_trace(module),
        torch.fx.symbolic_trace(module.fold()),
        torch.export.export(module, (x,), dynamic_shapes=dynamic).module(),
        pickle.loads(pickle.dumps(copy.deepcopy(module))),
        lambda x: functional_call(module, dict(module.named_parameters()), (x,)),
    ):
        torch.testing.assert_close(same(x), expected)
    training = make(module_type, **options)
    seed = torch.tensor(4)
    program = torch.export.export(training, (x,), {"seed": seed}).module()
    torch.testing.assert_close(program(x, seed=torch.tensor(9)), training(x, seed=9))
