"""``sample_adjacency``: the reference against Random123's vectors, and the contract of the operators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from op_contract import Call, OpContract, Vmap
from torch import Tensor

from dgcn_ext import functional, ops, reference

SEEDS = [0, 1, -1, 2**31, -(2**31), 2**32 - 1, 2**32, 0x0123456789ABCDEF, -0x0123456789ABCDEF, 2**63 - 1, -(2**63)]


# Arguments that replace good ones, the error, its message, and whether torch.compile is tried as well.
BAD_INPUT: list[tuple[Any, ...]] = [
    ({"adjacency": [[1.0]]}, TypeError, "adjacency must be a tensor, got list", True),
    ({"adjacency": torch.ones(3, 3).long()}, TypeError, "adjacency must have a floating dtype.*int64"),
    ({"adjacency": torch.ones(3, 4)}, ValueError, r"adjacency must have shape \[K, K\].*got \[3, 4\]"),
    ({"adjacency": torch.ones(0, 0)}, ValueError, r"adjacency must have shape \[K, K\].*got \[0, 0\]"),
    ({"adjacency": torch.ones(3, 3, requires_grad=True)}, ValueError, "adjacency must not require a grad"),
    ({"adjacency": torch.ones(3, 3).to_sparse()}, TypeError, "adjacency must be a dense tensor"),
    ({"adjacency": torch.full((3, 3), 1.5)}, RuntimeError, "adjacency"),
    ({"adjacency": torch.full((3, 3), torch.nan)}, RuntimeError, "adjacency"),
    ({"seed": 0}, TypeError, "seed must be a 0-dim int64 tensor.*got int"),
    ({"seed": True}, TypeError, "seed must be a 0-dim int64 tensor.*got bool"),
    ({"seed": torch.tensor(0.0)}, TypeError, "seed must be int64, got torch.float32"),
    ({"seed": torch.tensor([0])}, ValueError, r"seed must be 0-dim, got shape \[1\]"),
    ({"seed": torch.tensor(0, device="meta")}, ValueError, "seed must be on cpu.*meta"),
    ({"batch": -1}, ValueError, r"batch must be None or in \[0, 2\*\*32\), got -1"),
    ({"batch": 2**70}, ValueError, r"batch must be None or in \[0, 2\*\*32\), got 1180"),
    ({"batch": 2.0}, TypeError, r"batch must be an integer or None, got 2\.0", True),
    ({"batch": True}, TypeError, "batch must be an integer or None, got True"),
    ({"batch": "2"}, TypeError, "batch must be an integer or None, got '2'"),
    ({"first_sample": -1}, ValueError, r"first_sample must be in \[0, 2\*\*32 - 1\], got -1"),
    (
        {"batch": 3, "first_sample": 2**32 - 2},
        ValueError,
        r"first_sample must be in \[0, 2\*\*32 - 3\], got 4294967294",
    ),
    ({"first_sample": None}, TypeError, "first_sample must be an integer, got NoneType"),
]


class SampleAdjacencyContract(OpContract):
    function = staticmethod(functional.sample_adjacency)
    reference = staticmethod(reference.sample_adjacency)
    overload = ops.sample_adjacency
    raw = staticmethod(ops.sample_adjacency)
    features = ("adjacency",)
    shape = (17, 17)
    layouts = MappingProxyType(
        {"transposed": lambda a: a.T, "every second column": lambda a: a.repeat_interleave(2, 1)[:, ::2]}
    )
    bad_input = BAD_INPUT
    vmaps = (Vmap(("adjacency",), {"batch": 2}), Vmap(("seed",), {"batch": 2}))

    def sample(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Call:
        adjacency = torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))
        return Call({"adjacency": adjacency.to(device, dtype), "seed": torch.tensor(5, device=device)})

    def samples(self, dtype: torch.dtype, device: torch.device) -> dict[str, Callable[[], Iterable[Call]]]:
        def draws(batch: int | None) -> Iterator[Call]:
            for num_nodes in (1, 2, 3, 14, 17, 133):
                call = self.sample((num_nodes, num_nodes), dtype, device)
                for seed in SEEDS if dtype == torch.float32 else SEEDS[:3]:
                    options = {"batch": batch, "first_sample": 2**32 - 5}
                    yield Call(call.tensors | {"seed": torch.tensor(seed, device=device)}, options)

        return {f"batch {batch}": lambda batch=batch: draws(batch) for batch in (None, 0, 1, 5)}

    def large(self, device: torch.device) -> Call:
        call = self.sample((133, 133), torch.float32, device)
        return Call(call.tensors, {"batch": 20})

    def small(self, seed: int = 0) -> Call:
        adjacency = torch.rand(4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return Call({"adjacency": adjacency, "seed": torch.tensor(seed + 7)})

    def opchecks(self, device: torch.device) -> Iterable[tuple[Any, tuple[Any, ...]]]:
        for rest in ((None,), (3,), (3, 4)):
            yield ops.sample_adjacency, (torch.rand(5, 5, device=device), torch.tensor(3, device=device), *rest)

    def compiled_calls(self) -> Iterable[tuple[Call, ...]]:
        calls = [self.sample((nodes, nodes), torch.float32, torch.device("cpu")) for nodes in (14, 17)]
        yield tuple(Call(call.tensors, {"batch": 3}) for call in calls)

    def check(self, call: Call, grad_y: Tensor | None = None) -> None:
        drawn, expected = call.of(functional.sample_adjacency), call.to("cpu").of(reference.sample_adjacency)
        assert drawn.dtype == call.tensors["adjacency"].dtype
        assert torch.equal(drawn.cpu(), expected)


class TestContract(SampleAdjacencyContract):
    pass


@pytest.mark.gpu
class TestContractOnCuda(SampleAdjacencyContract):
    device_type = "cuda"


# kat_vectors of Random123: counter, key, random bits of philox4x32 with 10 rounds
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_known_answers(counter: list[int], key: list[int], expected: list[int]) -> None:
    assert reference.philox4x32(torch.tensor(counter), torch.tensor(key)).tolist() == expected


def test_key_broadcasts_over_counters() -> None:
    counters = torch.randint(2**32, (5, 3, 4), generator=torch.Generator().manual_seed(0))
    key = torch.tensor([1, 2])
    batched = reference.philox4x32(counters, key)
    assert batched.shape == (5, 3, 4)
    assert torch.equal(batched[4, 1], reference.philox4x32(counters[4, 1], key))


def test_edges_take_the_documented_counters() -> None:
    """Edge (i, j) of sample n: word e mod 4 at counter (e div 4, 0, n, 0), e = i·K + j; key = seed, low word first."""
    bits = reference.edge_bits(torch.tensor(0x0000_0002_0000_0001), num_nodes=3, batch=2, first_sample=7)
    for n, i, j in [(7, 0, 0), (7, 1, 1), (8, 2, 1), (8, 2, 2)]:
        edge = i * 3 + j
        words = reference.philox4x32(torch.tensor([edge // 4, 0, n, 0]), torch.tensor([1, 2]))
        assert bits[n - 7, i, j] == words[edge % 4]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_bit_counts(device: torch.device, seed: int, dtype: torch.dtype) -> None:
    """A probability equal to an edge's own uniform number leaves it absent; the next larger one makes it present."""
    bits = reference.edge_bits(torch.tensor(seed), num_nodes=17)[0]
    uniform = ((bits >> 8).double() * 2.0**-24).to(device, dtype)
    seed_tensor = torch.tensor(seed, device=device)
    assert not functional.sample_adjacency(uniform, seed_tensor).any()
    assert functional.sample_adjacency(uniform.nextafter(torch.ones_like(uniform)), seed_tensor).all()


def test_certain_edges_are_certain(device: torch.device) -> None:
    adjacency = torch.eye(17, device=device)
    drawn = functional.sample_adjacency(adjacency, torch.tensor(7, device=device), 500)
    assert torch.equal(drawn, adjacency.expand_as(drawn))


def test_edges_are_drawn_with_their_probabilities(device: torch.device) -> None:
    draws = 20_000
    adjacency = torch.linspace(0.02, 0.98, 49, device=device).reshape(7, 7)
    frequency = functional.sample_adjacency(adjacency, torch.tensor(1, device=device), draws).mean(0)
    deviation = (frequency - adjacency) / (adjacency * (1 - adjacency) / draws).sqrt()
    assert deviation.abs().max() < 4.5  # standard deviations, of 49 edges


@pytest.mark.parametrize("function", [functional.sample_adjacency, reference.sample_adjacency])
def test_first_sample_continues_the_draws(device: torch.device, function: Callable[..., Tensor]) -> None:
    arguments = torch.full((17, 17), 0.5, device=device), torch.tensor(3, device=device)
    whole = function(*arguments, 5)
    assert torch.equal(torch.cat([function(*arguments, 2), function(*arguments, 3, first_sample=2)]), whole)
    assert torch.equal(function(*arguments, first_sample=2), whole[0])  # without a batch n is 0
    assert not torch.equal(whole[2], whole[0])


def test_numbers_may_be_integers_of_numpy() -> None:
    arguments = torch.full((3, 3), 0.5), torch.tensor(0)
    drawn = functional.sample_adjacency(*arguments, np.int64(2), first_sample=np.int32(3))
    assert torch.equal(drawn, functional.sample_adjacency(*arguments, 2, first_sample=3))
