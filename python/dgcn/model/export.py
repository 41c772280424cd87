"""A model as a file for other runtimes: ONNX, or a program of torch.export.

Input `images`: uint8 [B, 3, H, W] RGB; the normalisation is inside. Outputs `pif` [B, K, 5, h, w] and `paf`
[B, M, 8, h, w]: the decoder's fields, as `FieldsModel` has them. The file holds the document of `document.py`, with the
pixels of a field cell as "stride" in addition: an ONNX model in its metadata, a program in the extra file `HEADER_KEY`.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim
from torch.fx.experimental._config import patch as patch_config  # type: ignore[attr-defined]

from ..extras import extra
from ..files import atomic_write
from ..sizes import check_size
from .document import make_document, to_header
from .fields import FieldsModel
from .network import DGCN

DEFAULT_OPSET = 18
"""The lowest that torch's exporter writes, which the most runtimes read."""

# By itself torch takes a size that is above 1 in the example to be above 1 always; 17 px are one cell of stride 32.
_any_size = patch_config(backed_size_oblivious=True)


@_any_size
def export_onnx(
    path: str | os.PathLike[str],
    model: DGCN,
    metadata: Mapping[str, Any],
    size: tuple[int, int] | None = None,
    *,
    opset: int = DEFAULT_OPSET,
) -> None:
    """Write `model` as ONNX, atomically. The operators are those of ONNX alone.

    Args:
        path: of the file.
        model: is folded; it stays as it is.
        metadata: of its checkpoint.
        size: height and width of the one picture that the exported model takes, 16n+1 pixels each; None: it takes any
            number of pictures of any such size.
        opset: version of ONNX's operators, at least 18.

    Raises:
        ImportError: the extra `onnx` is not installed.
        ValueError: a bad size, or an opset that torch's exporter cannot write.
        OSError: the file cannot be written.
    """
    with extra("onnx", "exporting to ONNX needs onnx and onnxscript"):
        import onnx
        from onnx_ir.passes.common import ClearMetadataAndDocStringPass

        from dgcn_ext.onnx import translation_table
    newest = onnx.defs.onnx_opset_version()
    if not DEFAULT_OPSET <= opset <= newest:
        raise ValueError(f"opset must be {DEFAULT_OPSET} to {newest}, got {opset}")
    # They tell of every step, and show the traceback of a conversion that is found to have failed below.
    for name in ("onnx_ir", "onnxscript"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    module, images, dynamic_shapes = _traced(model, size)
    program = torch.onnx.export(
        module,
        images,
        input_names=["images"],
        output_names=["pif", "paf"],
        opset_version=opset,
        dynamo=True,
        dynamic_shapes=dynamic_shapes,
        custom_translation_table=translation_table(),
        verbose=False,
    )
    assert program is not None  # as it is where no file is given
    ClearMetadataAndDocStringPass()(program.model)  # a stack trace of each operator, with the paths of this machine
    program.model.metadata_props.update(to_header(_document(model, metadata)))
    written = program.model_proto
    if written.opset_import[0].version != opset:
        raise ValueError(f"opset must be one that torch {torch.__version__} can export to, got {opset}")
    with atomic_write(path) as file:
        file.write(written.SerializeToString())


@_any_size
def export_torch(
    path: str | os.PathLike[str], model: DGCN, metadata: Mapping[str, Any], size: tuple[int, int] | None = None
) -> None:
    """Write `model` as a program that `torch.export.load` reads, atomically. Arguments and errors: as `export_onnx`."""
    module, images, dynamic_shapes = _traced(model, size)
    program = torch.export.export(module, images, dynamic_shapes=dynamic_shapes)
    content = io.BytesIO()
    torch.export.save(program, content, extra_files=to_header(_document(model, metadata)))
    with atomic_write(path) as file:
        file.write(content.getbuffer())


def _traced(model: DGCN, size: tuple[int, int] | None) -> tuple[FieldsModel, tuple[Tensor], Any]:
    """What is exported, the arguments to trace it with, and which of their dimensions are symbols."""
    module = FieldsModel(model.fold()).eval()
    if size is not None:
        height, width = (check_size(edge, name) for edge, name in zip(size, ("height", "width"), strict=True))
        return module, (torch.zeros(1, 3, height, width, dtype=torch.uint8),), None
    rows, columns = Dim("rows", min=1), Dim("columns", min=1)
    shapes = ({0: Dim("batch"), 2: 16 * rows + 1, 3: 16 * columns + 1},)
    return module, (torch.zeros(2, 3, 65, 97, dtype=torch.uint8),), shapes


def _document(model: DGCN, metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {**make_document(model.config, metadata, torch.__version__), "stride": model.stride}
