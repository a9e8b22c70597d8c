"""The format onnx: a graph from images to masks, with the program that runs it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flexunet_pl.export.int8.calibration import demo_images
from flexunet_pl.export.onnx import export_onnx
from flexunet_pl.export.registry import Exporter, ExportJob, register_exporter
from flexunet_pl.export.verify import TOLERANCE, ZOO_TOLERANCE, UInt8Array, verify_onnx
from flexunet_pl.inference import onnx_infer
from flexunet_pl.nn.flexunet import FlexUNet

VERIFICATION_PICTURES = 2
USAGE = """On the command line:

```
pip install numpy pillow onnxruntime
python infer.py model.onnx photos --out masks
python infer.py --help
```

In Python:

```python
from infer import Model
prediction = Model("model.onnx").predict("photo.jpg")
prediction.mask_index  # the class of each pixel, uint8 (H, W), at the photo's own size
```"""


def write(job: ExportJob, path: Path) -> None:
    """Write the graph."""
    export_onnx(job.task.predictor, job.facts, path, job.task.drift)


def verify(job: ExportJob, path: Path) -> dict[str, Any]:
    """Compare the graph with the network, on noise and on calibration or demo images."""
    tolerance = TOLERANCE if isinstance(job.task.network, FlexUNet) else ZOO_TOLERANCE
    return verify_onnx(job.task.predictor, path, job.facts, _images(job), tolerance, job.task.drift)


def _images(job: ExportJob) -> Iterable[UInt8Array]:
    if job.pictures is not None:
        return job.pictures.some(VERIFICATION_PICTURES).images()
    return demo_images(job.facts["fixed_size"] or job.facts["image_size"], job.facts["channels"])


register_exporter(
    Exporter(
        name="onnx",
        suffix=".onnx",
        description="the model as an ONNX graph, from images as they are to masks",
        write=write,
        verify=verify,
        companions={"infer.py": Path(onnx_infer.__file__)},
        usage=USAGE,
    )
)
