"""The photographs of these benchmarks."""

import pytest

from benchmarks.decoder.scenes import data_dir

PICTURES = sorted(data_dir().glob("coco512/images/val/*"))
NEEDS_PICTURES = pytest.mark.skipif(not PICTURES, reason=f"needs real pictures: none in {data_dir()}/coco512")
