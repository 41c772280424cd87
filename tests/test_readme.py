"""README.md and the pages in docs/ do what they say: commands, examples, links, numbers."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import pytest
import torch
from conftest import ROOT
from oracle import coco_set, picture, standing
from PIL import Image
from torch import conv2d, einsum, relu, softmax
from videos import write_video

from dgcn.cli import main
from dgcn.cli.demo import PICTURE
from dgcn.data.description import read_description
from dgcn.skeleton import COCO
from dgcn_ext.functional import sample_adjacency
from dgcn_ext.reference import graph_conv

PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for pattern in ("*.md", "docs/*.md", "benchmarks/*.md")
    for path in sorted(ROOT.glob(pattern))
}
README = PAGES["README.md"]
WITH_ONNX = ("docs/export.md", "docs/torch.md")  # test_docs.py runs these
WITHOUT_ONNX = {name: text for name, text in PAGES.items() if name not in WITH_ONNX}
WITH_EXAMPLES = [name for name, text in WITHOUT_ONNX.items() if "```python" in text and name.startswith("docs/")]
WITH_COMMANDS = [name for name, text in WITHOUT_ONNX.items() if "\ndgcn " in text]

# The training of the pages takes days: the same command, made small, and without weights that timm would fetch.
SMALL = "--backbone mobilenetv1_075 --lift-channels 8 --no-non-local --size 65 --epochs 1 --batch-size 2 --workers 0"
SMALL += " --no-pretrained --freeze-epochs 0"


WRITTEN = (
    "best.json",
    "last.json",
    "config.json",
    "results.json",
    "samples.jpg",
    "train.json",
    "val.json",
    "out/predictions.json",
    "include/dgcn/pifpaf/*.h",
)
"""By dgcn, or by cmake --install."""


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], flags=re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[list[str]]:
    """The `dgcn` commands of a page, as words."""
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("dgcn ")]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working folder that the commands assume: small data sets, a photograph, a folder of photographs."""
    monkeypatch.chdir(tmp_path)
    for split in ("train2017", "val2017"):
        (tmp_path / split).mkdir()
        for name in ("a.png", "b.png"):
            cv2.imwrite(str(tmp_path / split / name), picture(60, 90, 120))
        content = coco_set(["a.png", "b.png"], [((90, 120), [standing(45, 20, 90)])] * 2)
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    write_described_sets(tmp_path)
    shutil.copy(PICTURE, tmp_path / "photo.jpg")
    shutil.copy(Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg"), tmp_path)
    if find_spec("av"):
        write_video(tmp_path / "dance.mp4", [np.array(Image.open(PICTURE))] * 4, [0, 1, 2, 3])
    for name in ("folder", "pictures"):
        (tmp_path / name).mkdir()
        shutil.copy(PICTURE, tmp_path / name)
    return tmp_path


def write_described_sets(folder: Path) -> None:
    """Write the descriptions of docs/data.md under the names in their first lines, and small sets that fit them."""
    for block in blocks("docs/data.md", "yaml"):
        path = folder / block.partition("\n")[0].removeprefix("# ")
        path.write_text(block)
        for name, split in read_description(path).splits.items():
            split.images.mkdir(parents=True, exist_ok=True)
            split.annotations.parent.mkdir(parents=True, exist_ok=True)
            for picture_name in ("a.png", "b.png"):
                cv2.imwrite(str(split.images / picture_name), picture(60, 90, 120))
            content = coco_set(["a.png", "b.png"], [((90, 120), [standing(45, 20, 90)])] * 2)
            if name == "test":
                del content["annotations"]
            split.annotations.write_text(json.dumps(content))


def skip_without_extra(page: str) -> None:
    if page == "docs/video.md":
        pytest.importorskip("av", reason='needs PyAV: pip install "dgcn[video]"')


def test_the_three_commands_of_the_readme():
    assert [verb for _, verb, *_ in commands("README.md")] == ["train", "eval", "predict"]


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_commands(page, folder, capsys):
    skip_without_extra(page)
    for _, verb, *arguments in commands(page):
        if verb == "train":
            arguments += SMALL.split()
        assert main([verb, *arguments]) == 0, capsys.readouterr().err
    written = {path.name for path in folder.rglob("*")}
    assert all(name in written for name in re.findall(r"`out/(\S+)`", PAGES[page]))
    if page == "docs/gallery.md":
        assert len(json.loads((folder / "out" / "predictions.json").read_text())["annotations"]) == 1
    if page == "README.md":
        assert "AP" in json.loads((folder / "metrics.json").read_text())
        assert (folder / "out" / "photo.dgcn.jpg").is_file()


def test_example_of_the_readme():
    k = COCO.num_keypoints
    torch.manual_seed(0)
    names: dict[str, Any] = {
        "x": torch.randn(2, k, 5, 7),
        "edge_weight": torch.randn(k, k),
        "adjacency": torch.rand(k, k),
        "weight": torch.randn(k, k),
        "bias": torch.randn(k),
        "seed": torch.tensor(3),
    }
    (block,) = blocks("README.md", "python")
    exec(block, names)
    arguments = [names[name] for name in ("x", "edge_weight", "adjacency", "weight", "bias")]
    torch.testing.assert_close(names["y"], graph_conv(*arguments, seed=names["seed"]))


@pytest.mark.parametrize("page", WITH_EXAMPLES)
def test_examples(page, folder):
    """They run in their order and in one namespace."""
    skip_without_extra(page)
    names: dict[str, Any] = {}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), names)
    if page == "docs/decoder.md":
        assert names["persons"].shape == (0, 3, 4)
        assert np.nansum(names["targets"].pif_confidence) == 3 * 16  # cells of three joints
    if page == "docs/prediction.md":
        assert names["pose"].score > 0  # the astronaut


def test_what_graph_conv_is_equivalent_to():
    k = 5
    torch.manual_seed(0)
    names: dict[str, Any] = {
        "x": torch.randn(2, k, 3, 4),
        "edge_weight": torch.randn(k, k),
        "weight": torch.randn(k, k),
        "bias": torch.randn(k),
        "a": sample_adjacency(torch.full((k, k), 0.5), torch.tensor(1)),
    }
    names |= {"conv2d": conv2d, "einsum": einsum, "relu": relu, "softmax": softmax}
    (expression,) = re.findall(r"^Equivalent to `(.*)`", README, flags=re.MULTILINE)
    arguments = [names[name] for name in ("x", "edge_weight", "a", "weight", "bias")]
    torch.testing.assert_close(eval(expression, names), graph_conv(*arguments))


def test_the_readme_lists_every_page():
    for page in PAGES:
        assert page == "README.md" or f"]({page})" in README, page


def test_targets_of_make_exist():
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        code = " ".join([*blocks(page, "bash"), *re.findall(r"`([^`\n]+)`", PAGES[page])])
        targets = re.findall(r"\bmake ([a-z][a-z0-9.-]*)", code) + re.findall(r"`((?:bench|check)-[a-z0-9.-]+)`", code)
        for target in targets:
            assert re.search(rf"^{re.escape(target)}:", makefile, flags=re.MULTILINE), f"{page}: no make {target}"


@pytest.mark.parametrize("page", PAGES)
def test_links_and_paths_exist(page):
    text = re.sub(r"^```.*?^```", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)|src=\"([^\"]+)\"", text):
        target = link[0] or link[1]
        assert (ROOT / page).parent.joinpath(target).exists(), f"{page}: no {target}"
    # Paths are written from the root, or from where the page says that it is: a package, or csrc.
    bases = [ROOT / base for base in (".", "python/dgcn", "dgcn_ext", "csrc", "csrc/pifpaf", Path(page).parent)]
    for path in re.findall(r"`([\w./*]+(?:/|\.(?:py|h|cpp|cu|cuh|json|md)))`", text):
        assert any(any(base.glob(path)) for base in bases) or path in WRITTEN, f"{page}: no {path}"


# A table's rows by their beginnings: the variant in the results, and the benchmarks that its columns are.
GRAPH_CONV_ROWS = {
    "| as the paper writes it": "eager",
    "| W·S folded by hand": "baddbmm",
    "| **`graph_conv`**": "dgcn",
}
DECODER_ROWS = {"| OpenPifPaf 0.13.11 |": "OpenPifPaf 0.13.11", "| **`PifPafDecoder`** |": "dgcn"}
ENCODER_ROWS = {"| OpenPifPaf 0.13.11 | 2": "OpenPifPaf", "| numpy": "numpy", "| **`PifPafEncoder`**": "dgcn"}
TABLES = {
    "README.md": [("graph_conv_cpu", "graph_conv, forward+backward", GRAPH_CONV_ROWS, slice(1, 4))],
    "docs/graph_conv.md": [("graph_conv_cpu", "graph_conv, forward+backward", GRAPH_CONV_ROWS, slice(1, 4))],
    "docs/decoder.md": [
        ("decoder_cpu", "decoder, default options, stride 8", DECODER_ROWS, slice(None)),
        ("encoder_cpu", "encoder, 641 px", ENCODER_ROWS, slice(None)),
    ],
}


@pytest.mark.parametrize("page", TABLES)
def test_numbers_are_those_measured(page):
    for results, group, rows, columns in TABLES[page]:
        run = json.loads((ROOT / "benchmarks" / "results" / f"{results}.json").read_text())
        benchmarks = [one["variants"] for one in run["benchmarks"] if one["group"].startswith(group)][columns]
        for beginning, variant in rows.items():
            (row,) = [line for line in PAGES[page].splitlines() if line.startswith(beginning)][:1]
            written = [cell.strip(" *") for cell in row.strip("|").split("|")[1:]]
            assert len(written) == len(benchmarks)
            for text, variants in zip(written, benchmarks, strict=True):
                decimals = len(text.partition(".")[2])
                assert text == f"{variants[variant]['median_ms']:.{decimals}f}", f"{page}: {row}"
