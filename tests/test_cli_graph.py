"""`dgcn graph`: what graph.json says, and that nothing in a figure is cut off or on top of something else."""

from __future__ import annotations

import itertools
import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_cases import run
from keypoint_sets import HAND as HAND_NAMES
from keypoint_sets import draw_set
from oracle import coco_set, standing
from PIL import Image

from dgcn.graph import distance_matrix, hand_crafted_adjacency, measurements, read_distances, soft_adjacency
from dgcn.model.checkpoint import save_model
from dgcn.model.network import build_model
from dgcn.skeleton import COCO, Skeleton
from dgcn_ext.functional import sample_adjacency

HAND = Skeleton(
    name="hand",
    keypoints=("wrist", *(f"{finger}_finger_{joint}" for finger in "abcde" for joint in range(4))),
    limbs=tuple((0 if joint == 0 else 4 * f + joint, 4 * f + joint + 1) for f in range(5) for joint in range(4)),
    sigmas=(0.05,) * 21,
    flip=tuple(range(21)),
    upright_pose=np.array([(0, 0), *((f - 2, -3 - joint) for f in range(5) for joint in range(4))]),
)


@pytest.fixture
def annotations(tmp_path) -> Path:
    """Two persons; the nose is never annotated together with the left ankle."""
    persons = [standing(200, 80, 300), standing(150, 60, 350)]
    persons[0][0] = persons[1][15] = 0
    path = tmp_path / "people.json"
    path.write_text(json.dumps(coco_set(["a.png"], [((640, 480), persons)])))
    return path


def test_graphs_of_a_data_set(annotations, tmp_path, caplog) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    names = {"distances", "identity", "hand", "soft_gamma_0.5", "soft_gamma_2", "adjacency", "edges"}
    flags = ["--gamma", "0.5", "2", "--adjacency-samples", "2", "--seed", "7"]
    with caplog.at_level(logging.INFO):
        assert run("graph", "--annotations", annotations, "-o", out, *flags) == 0
    assert not [record for record in caplog.records if record.name.startswith("fontTools")]
    assert {path.name for path in out.iterdir()} == {
        "graph.json",
        *(f"{name}{suffix}" for name in names for suffix in (".pdf", ".png")),
    }
    for name in names:
        assert (out / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert np.ptp(np.asarray(Image.open(out / f"{name}.png"))) > 100

    graph = json.loads((out / "graph.json").read_text())
    assert graph["keypoints"] == list(COCO.keypoints)
    assert graph["limbs"] == [list(limb) for limb in COCO.limbs]
    assert (graph["source"], graph["persons"]) == (str(annotations), 2)
    pairs = np.full((17, 17), 2)
    pairs[[0, 15]] = pairs[:, [0, 15]] = 1
    pairs[0, 15] = pairs[15, 0] = 0
    np.testing.assert_array_equal(graph["persons_per_pair"], pairs)
    assert graph["distances"][0][15] is None

    from dgcn.data.coco_format import read_ground_truth

    (record,) = read_ground_truth(annotations, 17)
    distances = distance_matrix(*measurements(record.persons, annotations))
    np.testing.assert_allclose(read_distances(out / "graph.json", COCO), distances, rtol=1e-5)
    adjacencies = graph["adjacencies"]
    np.testing.assert_array_equal(adjacencies["identity"], np.eye(17))
    np.testing.assert_array_equal(adjacencies["hand"], hand_crafted_adjacency(COCO))
    np.testing.assert_allclose(adjacencies["soft_gamma_2"], soft_adjacency(distances, 2), rtol=1e-5)
    drawn = sample_adjacency(soft_adjacency(distances, 0.5), torch.tensor(7), 2)
    assert graph["samples"] == {"of": "soft_gamma_0.5", "seed": 7, "adjacencies": drawn.tolist()}


def test_a_description_and_keypoints_of_ones_own(tmp_path, monkeypatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("dgcn.figures.write_figures", lambda folder, figures: None)
    draw_set(tmp_path, HAND_NAMES)
    description = tmp_path / "hand.yaml"
    description.write_text("train: {images: ., annotations: train.json}")
    assert run("graph", "--data", description, "-o", tmp_path) == 0
    graph = json.loads((tmp_path / "graph.json").read_text())
    assert graph["keypoints"] == list(HAND_NAMES)
    assert graph["source"] == str(tmp_path / "train.json")
    assert len(graph["limbs"]) == len(HAND_NAMES) - 1  # no skeleton is given: a tree of M_d


def test_graphs_of_a_checkpoint(tmp_path, monkeypatch) -> None:
    pytest.importorskip("matplotlib")
    written = []
    monkeypatch.setattr("dgcn.figures.write_figures", lambda folder, figures: written.extend(figures))
    torch.manual_seed(0)
    model = build_model("mobilenetv1_075", lift_channels=8)
    for stream in (model.pif_stream, model.paf_stream):
        torch.nn.init.normal_(stream.dgcms["16"].graph_conv.edge_weight)
    save_model(tmp_path / "model.safetensors", model, {})
    out = tmp_path / "out"
    assert run("graph", "--checkpoint", tmp_path / "model.safetensors", "-o", out) == 0
    learned = {"learned_pif_16", "learned_paf_16"}
    assert set(written) == {"identity", "hand", "soft_gamma_0.5", "adjacency", "edges", *learned}
    graph = json.loads((out / "graph.json").read_text())
    layer = model.paf_stream.dgcms["16"].graph_conv
    np.testing.assert_allclose(graph["adjacencies"]["soft_gamma_0.5"], layer.adjacency, rtol=1e-5)
    assert graph["learned"].keys() == learned
    entry = graph["learned"]["learned_paf_16"]
    np.testing.assert_allclose(entry["edge_weight"], layer.edge_weight.detach(), rtol=1e-5)
    np.testing.assert_allclose(entry["mixing"], layer.edge_weight.detach().softmax(dim=1), rtol=1e-5)
    with pytest.raises(ValueError, match=r"must have the entries 'keypoints' and 'distances' of a graph\.json"):
        read_distances(out / "graph.json", COCO)


def test_a_graph_without_edges(tmp_path) -> None:
    """Eq. 4 with A_I: nothing is learned, nothing drawn at random, and no edge has a weight."""
    pytest.importorskip("matplotlib")
    from dgcn.cli.graph import draw_samples, graphs_of_checkpoint
    from dgcn.graph_figures import draw_figures

    model = build_model("mobilenetv1_075", ("F8", "F16"), "identity", propagation="eq4", lift_channels=8)
    save_model(tmp_path / "model.safetensors", model, {})
    graphs = graphs_of_checkpoint(tmp_path / "model.safetensors")
    samples = draw_samples(graphs, 0, 3)
    assert len(samples) == 0
    learned = {
        f"learned_{head}_{stride}": {"mixing": np.eye(17).tolist()} for head in ("pif", "paf") for stride in (8, 16)
    }
    assert graphs.entries["learned"] == learned
    figures = draw_figures(graphs.skeleton, graphs.distances, graphs.adjacencies, samples, graphs.learned)
    assert figures.keys() == {"identity", "hand", *learned, "adjacency", "edges"}


@pytest.mark.parametrize("skeleton", [COCO, HAND], ids=lambda skeleton: skeleton.name)
def test_names_are_whole_and_apart(skeleton) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import Normalize
    from matplotlib.text import Text

    from dgcn import graph_figures

    count = skeleton.num_keypoints
    weights = np.random.default_rng(0).uniform(size=(count, count))
    names = [name.replace("_", " ") for name in skeleton.keypoints]
    shown = [*names, "title", "label", "weight", graph_figures.ADJACENCY_LABEL]
    with rc_context(graph_figures.STYLE):
        figures = [
            graph_figures.matrix_figure(skeleton.keypoints, "title", weights, Normalize(0, 0.9), "label"),
            graph_figures.panels_figure(skeleton.keypoints, [("title", weights)] * 5),
            graph_figures.person_figure(skeleton, [("title", weights)] * 5),
        ]
        for figure, times in zip(figures, (2, 4, 5), strict=True):
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text() in shown]
            assert [text.get_text() for text in texts].count(names[0]) == times
            boxes = [Text.get_window_extent(text, canvas.get_renderer()) for text in texts]
            for text, box in zip(texts, boxes, strict=True):
                inside = figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
                assert inside and figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, text  # noqa: PT018
            for (one, first), (other, second) in itertools.combinations(zip(texts, boxes, strict=True), 2):
                assert not first.padded(-1).overlaps(second.padded(-1)), (one, other)


def test_crowded_keypoints_part(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    from dgcn.graph_figures import place

    for pose in (COCO.upright_pose, np.zeros((17, 2))):
        points, _ = place(Skeleton(**{**vars(COCO), "upright_pose": pose}))
        distances = np.linalg.norm(points[:, None] - points, axis=2)
        assert distances[~np.eye(17, dtype=bool)].min() > 0.3


def test_without_matplotlib(annotations, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.delitem(sys.modules, "dgcn.graph_figures", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run("graph", "--annotations", annotations, "-o", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith("dgcn graph: error: figures need matplotlib")
    assert error.endswith('`pip install "dgcn[plots]"`\n')
    assert not (tmp_path / "out").exists()


def test_mistakes_are_one_line(tmp_path, capsys) -> None:
    pytest.importorskip("matplotlib")
    nobody = tmp_path / "nobody.json"
    nobody.write_text(json.dumps(coco_set(["a.png"], [((640, 480), [np.zeros((17, 3))])])))
    save_model(tmp_path / "baseline.safetensors", build_model("mobilenetv1_075", ()), {})
    for flags, message in (
        (["--annotations", nobody], f"{nobody} must have a person with keypoints and with an area or a box above 0"),
        (["--annotations", tmp_path / "absent.json"], "absent.json: No such file or directory"),
        (["--checkpoint", tmp_path / "baseline.safetensors"], "must be a model with DGCMs, got one without"),
        (["--checkpoint", "a.safetensors", "--gamma", "1"], "--gamma needs"),
        (["--annotations", nobody, "--seed", 2**63], "--seed must be in"),
    ):
        assert run("graph", *flags, "-o", tmp_path / "out") == 2
        *_, error = capsys.readouterr().err.splitlines()
        assert error.startswith("dgcn graph: error: ")
        assert message in error
    for flags in (["--gamma", "-1"], ["--gamma", "nan"], ["--adjacency-samples", "0"]):
        with pytest.raises(SystemExit):
            run("graph", "--annotations", nobody, *flags)
        assert f"argument {flags[0]}: must be" in capsys.readouterr().err
