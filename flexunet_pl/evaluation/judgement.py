"""What a model says about a piece, and whether its truth has a defect, held to the same rules."""

from collections.abc import Sequence

import numpy as np

from flexunet_pl.data.palette import IGNORE_INDEX, UInt8Array
from flexunet_pl.evaluation.models import ImagePrediction
from flexunet_pl.inference.onnx_infer import Acceptance, Region, find_regions


def judgement(
    prediction: ImagePrediction, truth: UInt8Array, acceptance: Acceptance, names: Sequence[str]
) -> tuple[float, bool, bool]:
    """Return score, whether the piece is defective, and whether rules allow all that is predicted.

    These are fields of ``evaluation.decisions.Piece``.

    Raises:
        ValueError: If only masks are known, which are not decided.
    """
    decision = prediction.decision
    if decision is None:
        raise ValueError("masks without probabilities are not decided")
    return decision.score, is_defective(truth, acceptance, names), allows_all(acceptance, decision.regions)


def is_defective(truth: UInt8Array, acceptance: Acceptance, names: Sequence[str]) -> bool:
    """Whether a truth uint8 (H, W), 255 = ignore, has a defect that no rule allows."""
    defects = np.where(truth == IGNORE_INDEX, np.uint8(0), truth)
    if not acceptance.rules or not defects.any():
        return bool(defects.any())
    regions = find_regions(defects, np.ones((1, 1), dtype=np.float32), names)
    return not allows_all(acceptance, regions)


def allows_all(acceptance: Acceptance, regions: Sequence[Region] | None) -> bool:
    """Whether there are regions and the rules allow all of them, so that the piece is OK whatever its score."""
    return acceptance._replace(threshold=0.0).decide(1.0, regions).verdict == "OK"
