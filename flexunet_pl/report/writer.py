"""Write a report: report.html, scores.json, scores.csv, images.csv and pictures."""

import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flexunet_pl import __version__
from flexunet_pl.core.csv_text import csv_of_maps
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import atomic_folder, move_all, write_json, write_text
from flexunet_pl.data.palette import Palette
from flexunet_pl.evaluation.evaluator import Evaluation, evaluate
from flexunet_pl.evaluation.images import ImageSet, check_truth, find_images_with_truth, palette_of_truth
from flexunet_pl.evaluation.models import Model, PredictedMasks, open_model
from flexunet_pl.evaluation.totals import Bootstrap, Totals
from flexunet_pl.nn.metric_registry import Metric, metrics_of, number_text
from flexunet_pl.report.comparison import compare, compared_metrics
from flexunet_pl.report.pages import one_model_page, two_models_page
from flexunet_pl.report.request import Request

PAGE = "report.html"
FORMAT = 2  # 2: the comparison holds every metric under its key
LETTERS = ("A", "B")


def write_report(request: Request) -> list[str]:
    """Evaluate the models and write the report.

    Returns:
        Lines for the terminal: the scores, warnings, and where the report is.

    Raises:
        UserError: For a mistake in the request or the data.
    """
    images = find_images_with_truth(request.data, request.split, request.images, request.masks, request.antialiased)
    models: list[Model] = [
        PredictedMasks(path) if path in request.predictions else open_model(path) for path in request.models
    ]
    palette = palette_of_truth(request.palette, images, [model.palette for model in models])
    _check_writable(request.out)
    moved = check_truth(images, palette)
    for model in models:
        if isinstance(model, PredictedMasks):
            model.use(palette, list(images.pairs))
    with atomic_folder(request.out, within=True) as folder:
        lines = _evaluate_and_write(request, images, models, palette, folder, moved)
        move_all(folder, request.out, last=PAGE)
    return [*lines, f"written: {request.out / PAGE}, scores.json, scores.csv and images.csv"]


def _evaluate_and_write(
    request: Request, images: ImageSet, models: Sequence[Model], palette: Palette, out: Path, moved: int
) -> list[str]:
    started = time.perf_counter()
    names = [""] if len(models) == 1 else LETTERS
    evaluation = evaluate(list(zip(names, models, strict=True)), images, palette, out)
    groups = images.groups if images.groups is not None else [pair.name for pair in images.pairs]
    bootstrap = Bootstrap(groups, request.draws, request.seed)
    results = [total.to_mapping(bootstrap) for total in evaluation.totals]
    scores: dict[str, Any] = {
        "format": FORMAT,
        "has_groups": images.groups is not None,
        "palette": palette.to_mapping(),
    }
    if len(models) == 1:
        scores |= results[0]
    else:
        scores["models"] = dict(zip(names, results, strict=True))
        scores["comparison"] = compare(evaluation.totals, results, bootstrap)
    scores["made"] = _how_it_was_made(request, images, models, moved) | {
        "background": _background(list(zip(names, models, evaluation.totals, strict=True))),
        "seconds_in_networks": round(sum(model.clock.seconds for model in models), 3),
        "seconds": round(time.perf_counter() - started, 3),
    }
    return _write(out, scores, evaluation, palette)


def _write(out: Path, scores: dict[str, Any], evaluation: Evaluation, palette: Palette) -> list[str]:
    make_page = one_model_page if "models" not in scores else two_models_page
    write_json(out / "scores.json", scores)
    write_text(out / "scores.csv", _classes_csv(scores, palette))
    write_text(out / "images.csv", _images_csv(scores))
    write_text(out / PAGE, make_page(scores, evaluation, palette, out))
    lines = [f"warning: {sentence}" for sentence in scores["made"]["background"]]
    results = scores.get("models", {"": scores})
    first = next(iter(results.values()))
    for metric in compared_metrics([first]):
        values = (f"{letter} {number_text(result[metric.key])}".strip() for letter, result in results.items())
        lines.append(f"{metric.name:<24}{'   '.join(values)}")
    lines.append(f"{first['images']} images")
    return [*lines, *(f"warning: {sentence}" for sentence in scores["made"]["leaks"])]


def _background(models: Sequence[tuple[str, Model, Totals]]) -> list[str]:
    """Return a sentence for each model that predicts nothing but background."""
    sentences = []
    for name, model, totals in models:
        has_defects = any(row["defect"] for row in totals.rows)
        sentence = totals.background().statement(model.facts.get("min_region_area", 0), has_defects)
        sentences += [f"{name}: {sentence}" if name else sentence] if sentence else []
    return sentences


def _how_it_was_made(request: Request, images: ImageSet, models: Sequence[Model], moved: int) -> dict[str, Any]:
    packages = ("numpy", "scipy", "pillow", "torch", "onnxruntime")
    return {
        "command": request.command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"flexunet_pl": __version__, "python": platform.python_version()}
        | {package: version(package) for package in packages},
        "models": [model.facts for model in models],
        "data": images.facts | {"blended_pixels_moved": moved},
        "leaks": images.leaks,
    }


def _classes_csv(scores: Mapping[str, Any], palette: Palette) -> str:
    """Return a row for each class, and model if there are two, and one with the scores of all images."""
    rows = []
    for letter, result in scores.get("models", {"": scores}).items():
        model = {"model": letter} if letter else {}
        intervals = {"classes": {}} if result["intervals"] is None else result["intervals"]
        for name in palette.names:
            own = {key: value for key, value in result["classes"][name].items() if key != "by_size"}
            ends = _ends(metrics_of(per_class=True), intervals["classes"].get(name, {}))
            rows.append({**model, "class": name, **own, **ends})
        means = {metric.key: result[metric.key] for metric in compared_metrics([result])}
        rows.append({**model, "class": "all", **means, **_ends(metrics_of(), intervals)})
    return csv_of_maps(rows)


def _images_csv(scores: Mapping[str, Any]) -> str:
    rows = scores["comparison"]["per_image"] if "comparison" in scores else scores["per_image"]
    return csv_of_maps([row | {"classes": ";".join(row["classes"])} for row in rows])


def _ends(metrics: Sequence[Metric], intervals: Mapping[str, Any]) -> dict[str, float]:
    """Return both ends of the intervals of the main metrics, as far as there are any."""
    known = {metric.key: intervals.get(metric.key) for metric in metrics if metric.main}
    return {
        f"{key}_{end}": value
        for key, interval in known.items()
        if interval is not None
        for end, value in zip(("low", "high"), interval, strict=True)
    }


def _check_writable(out: Path) -> None:
    """Fail before the work rather than after it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written to ({error}); name another folder") from error
