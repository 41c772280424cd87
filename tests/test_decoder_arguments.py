"""The PIF/PAF decoder: good and bad arguments, configuration, copies."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from painting import STRIDE, empty_fields, paint

from dgcn_ext import _pifpaf
from dgcn_ext.decoder import DecoderConfig, PifPafDecoder


@pytest.fixture
def toy():
    """A decoder of two joined keypoints and the fields of one person."""
    persons = np.array([[[5.25, 6.5, 1], [10, 7, 1]]])
    return PifPafDecoder(2, [(0, 1)]), *paint(persons, np.ones((1, 2)), [(0, 1)], 16, 20)


def test_dtypes_and_layouts(toy):
    decoder, pif, paf = toy
    expected = decoder(pif, paf, STRIDE)
    assert len(expected) == 1
    for dtype in (np.float16, np.float64, ">f4", ">f2"):
        np.testing.assert_array_equal(decoder(pif.astype(dtype), paf.astype(dtype), STRIDE), expected)
    packed = np.zeros(paf.shape, [("byte", "u1"), ("number", "f4")])  # no number lies at a multiple of its size
    packed["number"] = paf
    np.testing.assert_array_equal(decoder(pif, packed["number"], STRIDE), expected)
    unaligned = np.frombuffer(b"?" + paf.tobytes(), np.uint8)[1:].view(np.float32).reshape(paf.shape)
    assert not unaligned.flags.aligned
    np.testing.assert_array_equal(decoder(pif, unaligned, STRIDE), expected)
    np.testing.assert_array_equal(decoder(pif[:, :, ::-1, ::-1].copy()[:, :, ::-1, ::-1], paf, STRIDE), expected)
    channels_last = np.ascontiguousarray(pif.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(decoder(channels_last, np.asfortranarray(paf), STRIDE), expected)
    wide = np.zeros((2, 5, 16, 40), np.float32)
    wide[..., ::2] = pif
    np.testing.assert_array_equal(decoder(wide[..., ::2], paf.tolist(), np.int64(STRIDE)), expected)
    pif.flags.writeable = False
    np.testing.assert_array_equal(decoder(pif, paf, STRIDE), expected)


def test_bad_fields(toy):
    decoder, pif, paf = toy
    with pytest.raises(TypeError, match="pif must be a float32, float16, bfloat16 or float64 array, got int64"):
        decoder(pif.astype(np.int64), paf, STRIDE)
    with pytest.raises(TypeError, match=r"paf must be a float32, .* got object"):
        decoder(pif, None, STRIDE)
    with pytest.raises(ValueError, match=r"pif must have the shape \[2, 5, H, W\], got \[5, 16, 20\]"):
        decoder(pif[0], paf, STRIDE)
    with pytest.raises(
        ValueError, match=r"paf must have the shape \[1, 8, H, W\] or \[1, 7, H, W\], got \[1, 6, 16, 20\]"
    ):
        decoder(pif, paf[:, :6], STRIDE)
    with pytest.raises(ValueError, match=r"pif must have the shape \[2, 5, H, W\], got \[1, 5, 16, 20\]"):
        decoder(pif[:1], paf, STRIDE)
    with pytest.raises(ValueError, match=r"paf must have pif's field size \[16, 20\], got \[16, 19\]"):
        decoder(pif, paf[..., :19], STRIDE)


def tensor_like(field: np.ndarray, kind: str) -> object:
    torch = pytest.importorskip("torch")
    if kind == "meta":
        return torch.tensor(field, device="meta")
    if kind == "sparse":
        return torch.tensor(field).to_sparse()
    return torch.tensor(field, requires_grad=True)


def test_bfloat16(toy):
    torch = pytest.importorskip("torch")
    decoder, pif, paf = toy
    pif, paf = (torch.tensor(field).bfloat16() for field in (pif, paf))
    expected = decoder(pif.float().numpy(), paf.float().numpy(), STRIDE)
    assert len(expected) == 1
    np.testing.assert_array_equal(decoder(pif, paf.to(memory_format=torch.channels_last), STRIDE), expected)
    np.testing.assert_array_equal(decoder.batch(zip(pif[None], paf[None], strict=True), STRIDE), [expected])
    with pytest.raises(TypeError, match=r"^paf must be an array of floats, got Tensor: "):
        decoder(pif, paf.to("meta"), STRIDE)


@pytest.mark.parametrize("kind", ["ragged", "grad", "meta", "sparse"])
def test_fields_that_numpy_cannot_read(toy, kind):
    decoder, pif, paf = toy
    wrong = [paf.tolist(), [1]] if kind == "ragged" else tensor_like(paf, kind)
    required = f"paf must be an array of floats, got {type(wrong).__name__}: "
    with pytest.raises(TypeError, match=f"^{required}") as caught:
        decoder(pif, wrong, STRIDE)
    assert str(caught.value.__cause__) in str(caught.value)
    with pytest.raises(TypeError, match=rf"^images\[1\] {required}"):
        decoder.batch([(pif, paf), (pif, wrong)], STRIDE)
    with pytest.raises(TypeError, match=r"^persons must be an array of floats"):
        decoder.person_scores(wrong)


def test_every_float16():
    """All 65,536, in either byte order, are converted as numpy does."""
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    decoder = PifPafDecoder(1, [])
    persons = np.zeros((2**16, 1, 4), np.float16)
    persons[:, 0, 0] = halves
    expected = decoder.person_scores(persons.astype(np.float32))
    assert np.isnan(expected).sum() == 2 * 1023
    for dtype in ("<f2", ">f2"):
        np.testing.assert_array_equal(decoder.person_scores(persons.astype(dtype)), expected)
    for shape in ((), (3,), (0, 4)):
        with pytest.raises(ValueError, match=r"persons must have the shape \[P, 1, 4\]"):
            decoder.person_scores(np.ones(shape, np.float16))


def test_bad_stride(toy):
    decoder, pif, paf = toy
    for stride in (0, -8, 2**40):
        with pytest.raises(ValueError, match=rf"stride must be in \[1, 2147483647\], got {stride}"):
            decoder(pif, paf, stride)
    for stride in (8.0, "8", None):
        with pytest.raises(TypeError, match="stride must be an integer"):
            decoder(pif, paf, stride)
    for stride in (100_000, 2**31 - 1):
        with pytest.raises(ValueError, match="at most max_map_pixels = 67108864 pixels"):
            decoder(pif, paf, stride)


def test_bad_batch(toy):
    decoder, pif, paf = toy
    with pytest.raises(ValueError, match=r"images\[1\] paf must have the shape"):
        decoder.batch([(pif, paf), (pif, pif)], STRIDE)
    with pytest.raises(TypeError, match=r"images\[0\] must be a pair \(pif, paf\), got ndarray"):
        decoder.batch([pif], STRIDE)
    with pytest.raises(ValueError, match=r"threads must be in \[0, 2147483647\], got -1"):
        decoder.batch([(pif, paf)], STRIDE, threads=-1)
    for images in (None, 5, np.float32(1), np.ones(())):
        with pytest.raises(
            TypeError, match=r"images must be a sequence of pairs \(pif, paf\), got (None|int|float|nd)"
        ):
            decoder.batch(images, STRIDE)
    with pytest.raises(ValueError, match=r"images\[1\] fields of 16 x 20 cells at stride 100000 .* max_map_pixels"):
        decoder.batch([(pif[:, :, :1, :1], paf[:, :, :1, :1]), (pif, paf)], 100_000, threads=2)


@pytest.mark.parametrize("size", [(0, 0), (0, 20), (16, 0)])
def test_fields_without_cells(toy, size):
    assert toy[0](*empty_fields(2, 1, *size), STRIDE).shape == (0, 2, 4)


def test_nothing_found(toy):
    assert toy[0](*empty_fields(2, 1, 16, 20), STRIDE).shape == (0, 2, 4)
    assert PifPafDecoder(1, [])(*empty_fields(1, 0, 16, 20), STRIDE).shape == (0, 1, 4)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e30, -1e30])
@pytest.mark.parametrize("component", [1, 2, 3, 4])
def test_cells_that_are_not_finite_are_skipped(toy, poison, component):
    decoder, pif, paf = toy
    expected = decoder(pif, paf, STRIDE)
    pif[:, 1, 13:, 15:] = 1  # a corner that holds a person's worth of confidence, and one wrong component
    paf[:, 1, 13:, 15:] = 1
    pif[:, component, 13:, 15:] = poison
    paf[:, component, 13:, 15:] = poison
    np.testing.assert_array_equal(decoder(pif, paf, STRIDE)[:1], expected)


def test_confidence_above_one_counts_as_one(toy):
    decoder, pif, paf = toy
    expected = decoder(pif, paf, STRIDE)
    pif[:, 1] *= 1e30
    paf[:, 1] *= 3
    np.testing.assert_array_equal(decoder(pif, paf, STRIDE), expected)


def test_float64_beyond_float32(toy):
    decoder, pif, paf = toy
    np.testing.assert_array_equal(decoder(pif + np.float64(1e300), paf.astype(np.float64), STRIDE), np.empty((0, 2, 4)))


@pytest.mark.parametrize(
    ("num_keypoints", "skeleton", "error", "message"),
    [
        (0, [], ValueError, r"num_keypoints must be in \[1, 10000\], got 0"),
        (10**30, [], ValueError, "num_keypoints must be in"),
        (3.0, [], TypeError, "num_keypoints must be an integer, got 3.0"),
        (3, [(0, 3)], ValueError, r"skeleton\[0\] = \(0, 3\) must hold keypoint indices in \[0, 2\]"),
        (3, [(0, 1), (-1, 2)], ValueError, r"skeleton\[1\] = \(-1, 2\) must hold"),
        (3, [(1, 1)], ValueError, "must join two different keypoints"),
        (3, [(0, 1), (1, 2), (1, 0)], ValueError, r"skeleton\[2\] = \(1, 0\) must not repeat skeleton\[0\]"),
        (3, [(0, 1, 2)], ValueError, r"skeleton\[0\] must be a pair of keypoints, got 3 values"),
        (3, [(0, 1.5)], TypeError, r"skeleton\[0\] must be an integer, got 1.5"),
        (3, [(0, 10**12)], ValueError, r"skeleton\[0\] must be in"),
        (3, [0, 1], TypeError, r"skeleton\[0\] must be a pair of keypoints, got 0"),
        (3, None, TypeError, "skeleton must be a sequence of pairs, got None"),
    ],
)
def test_bad_skeleton(num_keypoints, skeleton, error, message):
    with pytest.raises(error, match=message):
        PifPafDecoder(num_keypoints, skeleton)


def test_bad_config():
    with pytest.raises(ValueError, match=r"seed_threshold must be in \[0, 1\], got 1.5"):
        DecoderConfig(seed_threshold=1.5)
    with pytest.raises(ValueError, match=r"connection_window must be in .* got nan"):
        DecoderConfig(connection_window=float("nan"))
    with pytest.raises(
        ValueError, match=r"score_top must be in \[0, 2147483647\], got 1000000000000000000000000000000$"
    ):
        DecoderConfig(score_top=10**30)
    with pytest.raises(ValueError, match=r"max_map_pixels must be in \[1, 1073741824\], got 2147483648$"):
        DecoderConfig(max_map_pixels=2**31)
    with pytest.raises(ValueError, match=r"max_seeds must be in \[1, 2147483647\], got -2147483649$"):
        DecoderConfig(max_seeds=-(2**31) - 1)
    for value in (10**10, 10**310, 1e300, float("inf"), -1e300, np.int64(-(2**63))):
        with pytest.raises(
            ValueError, match=rf"map_neighbors must be in \[0.001, 1e\+06\], got {re.escape(str(value))}$"
        ):
            DecoderConfig(map_neighbors=value)
    with pytest.raises(TypeError, match=r"seed_threshold must be a number, got '0.2'"):
        DecoderConfig(seed_threshold="0.2")
    with pytest.raises(TypeError, match="seed_threshold must be a number, got True"):
        DecoderConfig(seed_threshold=True)
    with pytest.raises(TypeError, match="force_complete must be a bool, got 1"):
        DecoderConfig(force_complete=1)
    with pytest.raises(TypeError, match=r"score_top must be an integer, got 3.0"):
        DecoderConfig(score_top=3.0)
    with pytest.raises(TypeError, match="config must be a DecoderConfig, got dict"):
        PifPafDecoder(2, [], {})


def test_config_has_the_fields_and_defaults_of_the_core():
    native = _pifpaf.DecoderConfig()
    names = {name for name in dir(native) if not name.startswith("_")} - {"validate"}
    config = dataclasses.asdict(DecoderConfig())
    assert names == set(config)
    for name, value in config.items():
        assert getattr(native, name) == (np.float32(value) if isinstance(value, float) else value), name


@pytest.mark.parametrize(
    "option", [f for f in dataclasses.fields(DecoderConfig) if f.type != "bool"], ids=lambda f: f.name
)
def test_python_and_the_core_accept_the_same_range(option):
    """Each lists the ranges. Python takes both ends and refuses what is next to them, and so does the core."""
    low, high = option.metadata["range"]
    inside = [low, high]
    if isinstance(option.default, int):
        outside = [low - 1] + ([high + 1] if high < 2**31 - 1 else [])  # more does not fit the core's int
    else:
        low, high = np.float32([low, high])
        outside = [np.nextafter(low, np.float32(-np.inf)), np.nextafter(high, np.float32(np.inf)), float("nan")]
    for value in inside:
        assert getattr(DecoderConfig(**{option.name: value}), option.name) == value
    for value in [*outside, 10**310, -(10**310)]:
        with pytest.raises(ValueError, match=rf"{option.name} must be in \["):
            DecoderConfig(**{option.name: value})

    native = _pifpaf.DecoderConfig()
    for value in inside:
        setattr(native, option.name, value)
        _pifpaf.Decoder(1, [], native)
    for value in outside:
        setattr(native, option.name, value)
        with pytest.raises(ValueError, match=rf"{option.name} must be in \["):
            _pifpaf.Decoder(1, [], native)


def test_config_reaches_the_core(toy):
    _, pif, paf = toy
    strict = PifPafDecoder(2, [(0, 1)], DecoderConfig(connection_threshold=1))
    assert len(strict(pif, paf, STRIDE)) == 2  # nothing joins the keypoints any more
    small = PifPafDecoder(2, [(0, 1)], DecoderConfig(max_map_pixels=100))
    with pytest.raises(ValueError, match="max_map_pixels = 100"):
        small(pif, paf, STRIDE)


def test_person_scores():
    decoder = PifPafDecoder(17, [])
    persons = np.zeros((2, 17, 4), np.float32)
    persons[0, :, 0] = np.arange(17) / 17
    persons[1, 5, 0] = 0.5
    weights = np.array([3] * 3 + [1] * 14) / 23
    expected = [np.sort(persons[0, :, 0])[::-1] @ weights, 0.5 * 3 / 23]
    np.testing.assert_allclose(decoder.person_scores(persons), expected, rtol=1e-6)
    assert decoder.person_scores(persons[:0]).shape == (0,)
    with pytest.raises(ValueError, match=r"persons must have the shape \[P, 17, 4\], got \[17, 4\]"):
        decoder.person_scores(persons[0])


def test_copies(toy):
    decoder, pif, paf = toy
    decoder = PifPafDecoder(decoder.num_keypoints, decoder.skeleton, DecoderConfig(keypoint_threshold=0.1))
    for duplicate in (pickle.loads(pickle.dumps(decoder)), copy.copy(decoder), copy.deepcopy(decoder)):
        assert duplicate.skeleton == ((0, 1),)
        assert duplicate.config == decoder.config
        np.testing.assert_array_equal(duplicate(pif, paf, STRIDE), decoder(pif, paf, STRIDE))


def test_works_without_torch(tmp_path):
    program = """
import sys
sys.modules["torch"] = None  # any import of it fails
import numpy as np
from dgcn_ext.decoder import PifPafDecoder
assert PifPafDecoder(1, [])(np.ones((1, 5, 4, 4), "f4"), np.ones((0, 8, 4, 4), "f4"), 8).shape == (1, 1, 4)
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
