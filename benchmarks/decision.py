"""Compare scores by which a piece could be called NG: how well each separates defective from good images.

python benchmarks/decision.py scores runs/magnets dataset/magnets --split valid
"""

from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path

from flexunet_pl.core.console import progress
from flexunet_pl.data.masks import read_mask
from flexunet_pl.evaluation import decisions
from flexunet_pl.evaluation.evaluator import open_with_truth
from flexunet_pl.evaluation.image_decisions import ImageScores
from flexunet_pl.inference.onnx_infer import Decision, Region

RATES = (0.02, 0.05, 0.1)


def _over_regions(measure: Callable[[Region], float]) -> Callable[[Decision], float]:
    return lambda decision: max(map(measure, decision.regions or ()), default=0.0)


# Each score of an image.
SCORES: dict[str, Callable[[Decision], float]] = {
    "probability of a defect": lambda decision: decision.score,
    "confidence of the surest region": _over_regions(lambda region: region.confidence),
    "area of the largest region": _over_regions(lambda region: float(region.area)),
    "confidence x area, largest": _over_regions(lambda region: region.confidence * region.area),
    "probability x confidence": lambda decision: (
        decision.score * max((region.confidence for region in decision.regions or ()), default=0.0)
    ),
}


def compare(model: Path, data: Path, split: str) -> list[str]:
    """Return the rows of a table: AUROC, and overkill where no more than each of RATES escapes."""
    opened, images, palette = open_with_truth(model, data, split, antialiased=False)
    found: list[tuple[bool, Decision]] = []
    for pair in progress(images.pairs, "Predicting"):
        truth, _ = read_mask(pair.mask, palette, images.antialiased)
        decision = opened.predict(pair).decision
        if decision is not None:
            found.append((bool(((truth > 0) & (truth < 255)).any()), decision))
    return [f"| {name} | {' | '.join(_row(score, found))} |" for name, score in SCORES.items()]


def _row(score: Callable[[Decision], float], found: Sequence[tuple[bool, Decision]]) -> list[str]:
    separation = ImageScores()
    for is_defective, decision in found:
        separation.add(score(decision), is_defective=is_defective)
    pieces = [decisions.Piece("", str(place), score(one), is_bad) for place, (is_bad, one) in enumerate(found)]
    overkill = [
        decisions.outcome_at(pieces, decisions.choose_threshold(pieces, rate)).overkill_rate or 0.0 for rate in RATES
    ]
    return [f"{separation.auroc or 0.0:.3f}", *(f"{100 * rate:.1f} %" for rate in overkill)]


def main() -> None:
    """Run the command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["scores"])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="valid")
    options = parser.parse_args()
    print(f"| score | AUROC | {' | '.join(f'overkill at {100 * rate:g} % escapes' for rate in RATES)} |")
    print(f"|---|{'---|' * (1 + len(RATES))}")
    print("\n".join(compare(options.model, options.data, options.split)))


if __name__ == "__main__":
    main()
