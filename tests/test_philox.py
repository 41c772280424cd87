"""The random numbers: the reference against Random123's vectors, the compiled operator against the reference."""

import numpy as np
import pytest
import torch
import torch._dynamo

from dgcn_ext import functional, reference

SEEDS = [0, 1, -1, 2**31, -(2**31), 2**32 - 1, 2**32, 0x0123456789ABCDEF, -0x0123456789ABCDEF, 2**63 - 1, -(2**63)]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


def draw_both(adjacency: torch.Tensor, seed: int, batch: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    seed_tensor = torch.tensor(seed, device=adjacency.device)
    expected = reference.sample_adjacency(adjacency.cpu(), seed_tensor.cpu(), batch)
    return functional.sample_adjacency(adjacency, seed_tensor, batch).cpu(), expected


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
    bits = reference.edge_bits(torch.tensor(0x0000_0002_0000_0001), num_nodes=3, batch=2)
    for n, i, j in [(0, 0, 0), (0, 1, 1), (1, 2, 1), (1, 2, 2)]:
        edge = i * 3 + j
        words = reference.philox4x32(torch.tensor([edge // 4, 0, n, 0]), torch.tensor([1, 2]))
        assert bits[n, i, j] == words[edge % 4]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("num_nodes", [1, 2, 3, 14, 17, 133])
@pytest.mark.parametrize("batch", [None, 1, 5])
def test_operator_draws_the_reference_graph(device: torch.device, seed: int, num_nodes: int, batch: int | None) -> None:
    adjacency = torch.rand(num_nodes, num_nodes, generator=torch.Generator().manual_seed(num_nodes)).to(device)
    drawn, expected = draw_both(adjacency, seed, batch)
    assert torch.equal(drawn, expected)
    assert drawn.shape == ((num_nodes,) * 2 if batch is None else (batch, num_nodes, num_nodes))


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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_result_has_the_dtype_of_the_adjacency(device: torch.device, dtype: torch.dtype) -> None:
    adjacency = torch.rand(14, 14, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    drawn, expected = draw_both(adjacency, seed=3)
    assert drawn.dtype == dtype
    assert torch.equal(drawn, expected)


def test_strided_adjacency_and_empty_batch(device: torch.device) -> None:
    adjacency = torch.rand(17, 34, generator=torch.Generator().manual_seed(0)).to(device)[:, ::2].T
    drawn, expected = draw_both(adjacency, seed=5, batch=2)
    assert torch.equal(drawn, expected)
    assert functional.sample_adjacency(adjacency, torch.tensor(5, device=device), 0).shape == (0, 17, 17)


@pytest.mark.parametrize(
    ("adjacency", "seed", "batch", "error", "message"),
    [
        ([[1.0]], torch.tensor(0), None, TypeError, "adjacency must be a tensor, got list"),
        (torch.ones(3, 3).long(), torch.tensor(0), None, TypeError, "adjacency must have a floating dtype.*int64"),
        (torch.ones(3, 4), torch.tensor(0), None, ValueError, r"adjacency must have shape \[K, K\].*got \[3, 4\]"),
        (torch.ones(0, 0), torch.tensor(0), None, ValueError, r"adjacency must have shape \[K, K\].*got \[0, 0\]"),
        (torch.ones(3, 3, requires_grad=True), torch.tensor(0), None, ValueError, "adjacency must not require a grad"),
        (torch.ones(3, 3), 0, None, TypeError, "seed must be a 0-dim int64 tensor.*got int"),
        (torch.ones(3, 3), torch.tensor(0.0), None, TypeError, "seed must be int64, got torch.float32"),
        (torch.ones(3, 3), torch.tensor([0]), None, ValueError, r"seed must be 0-dim, got shape \[1\]"),
        (torch.ones(3, 3), torch.tensor(0, device="meta"), None, ValueError, "seed must be on cpu.*meta"),
        (torch.ones(3, 3), torch.tensor(0), -1, ValueError, r"batch must be None or in \[0, 2\*\*32\), got -1"),
        (torch.ones(3, 3), torch.tensor(0), 2**70, ValueError, r"batch must be None or in \[0, 2\*\*32\), got 1180"),
        (torch.ones(3, 3), torch.tensor(0), 2.0, TypeError, "batch must be an integer or None, got 2.0"),
        (torch.ones(3, 3), torch.tensor(0), True, TypeError, "batch must be an integer or None, got True"),
        (torch.ones(3, 3), torch.tensor(0), "2", TypeError, "batch must be an integer or None, got '2'"),
        (torch.ones(3, 3), True, None, TypeError, "seed must be a 0-dim int64 tensor.*got bool"),
        (torch.ones(3, 3).to_sparse(), torch.tensor(0), None, TypeError, "adjacency must be a dense tensor"),
        (torch.full((3, 3), 1.5), torch.tensor(0), None, RuntimeError, "adjacency"),
        (torch.full((3, 3), torch.nan), torch.tensor(0), None, RuntimeError, "adjacency"),
    ],
)
def test_bad_input(adjacency: object, seed: object, batch: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        functional.sample_adjacency(adjacency, seed, batch)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_bad_batch_under_compile() -> None:
    torch.compiler.reset()
    compiled = torch.compile(functional.sample_adjacency, fullgraph=True, backend="eager")
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"batch must be an integer or None, got 2\.0"):
        compiled(torch.ones(3, 3), torch.tensor(0), 2.0)


def test_batch_may_be_an_integer_of_numpy() -> None:
    drawn = functional.sample_adjacency(torch.full((3, 3), 0.5), torch.tensor(0), np.int64(2))
    assert torch.equal(drawn, functional.sample_adjacency(torch.full((3, 3), 0.5), torch.tensor(0), 2))
