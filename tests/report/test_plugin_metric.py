"""A metric that one module adds is in every output of training, test, report and comparison."""

import importlib.util
import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from onnx_models import write_model
from report_data import Numbers, write_cases

from flexunet_pl.cli.main import main
from flexunet_pl.nn.metrics import METRICS

PLUGIN = """
import numpy as np
from flexunet_pl.nn.metrics import Metric, register_metric

def miss_rate(counts):
    return 1 - counts.hits[..., 1:].sum(-1) / np.maximum(counts.support[..., 1:].sum(-1), 1)

def f2(counts):
    return counts.share(5 * counts.hits, 4 * counts.support + counts.predicted)

register_metric(
    Metric("miss_rate", "miss rate <b>", miss_rate, higher_is_better=False, note="of {images} images"),
    Metric("f2", "F2", f2, per_class=True, main=True),
)
"""


@pytest.fixture(autouse=True)
def _plugin(tmp_path: Path) -> Iterator[None]:
    """Import a module that registers two metrics, and forget them after the test."""
    path = tmp_path / "plugin.py"
    path.write_text(PLUGIN)
    spec = importlib.util.spec_from_file_location("plugin_metric", path)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    yield
    del METRICS["pixels", False, "miss_rate"], METRICS["pixels", True, "f2"]


class Text(HTMLParser):
    """Collects the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self.feed(html)

    def handle_data(self, data: str) -> None:
        """Keep a piece of text."""
        self.pieces.append(data.strip())


def test_training_and_test_show_it(tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    curves = ["--trainer.callbacks+", "flexunet_pl.training.callbacks.Curves"]
    assert main(["fit", "--config", str(tiny_config), "--run_dir", str(run), *curves]) == 0
    columns = set((run / "curves" / "scores.csv").read_text().splitlines()[0].split(","))
    assert {"val/miss_rate", "train/miss_rate", "val/f2/crack", "val/dice/crack"} <= columns
    assert "val/iou/crack" not in columns, "only main metrics have a curve for each class"
    capsys.readouterr()
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    words = ["--config", str(tiny_config), "--ckpt_path", checkpoint, "--run_dir", str(tmp_path / "test")]
    assert main(["test", *words]) == 0
    printed = capsys.readouterr().out
    scores = json.loads((tmp_path / "test" / "test_scores.json").read_text())
    row = ["miss", "rate", "<b>", f"{scores['miss_rate']:.4f}"]
    assert any(line.split()[:4] == row for line in printed.splitlines()), printed
    assert "F2" in printed
    assert all("f2" in one for one in scores["classes"].values())


def test_the_report_and_the_comparison_show_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cases(tmp_path / "data")
    good, bad = tmp_path / "good.onnx", tmp_path / "bad.onnx"
    write_model(good)
    write_model(bad, np.eye(3)[[0, 2, 1]][:, :, None, None] * 0.1)
    assert main(["report", str(good), str(tmp_path / "data"), "--out", str(tmp_path / "one")]) == 0
    scores = json.loads((tmp_path / "one" / "scores.json").read_text())
    confusion = np.array(scores["confusion"])
    missed = 1 - confusion.diagonal()[1:].sum() / confusion[1:].sum()
    assert scores["miss_rate"] == pytest.approx(missed, abs=1e-12)
    assert f"miss rate <b>           {missed:.4f}" in capsys.readouterr().out
    low, high = scores["intervals"]["miss_rate"]
    assert low < missed < high
    assert scores["intervals"]["classes"]["oil"]["f2"][0] < scores["classes"]["oil"]["f2"] < 1
    html = (tmp_path / "one" / "report.html").read_text()
    page = Numbers(html)
    assert float(page.by_key["/miss_rate"]) == pytest.approx(missed, abs=5.1e-5)
    assert "/classes/oil/f2" in page.by_key
    assert {"miss rate <b>", "F2"} <= set(Text(html).pieces)

    arguments = [str(good), str(bad), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "two")]
    assert main(["report", *arguments]) == 0
    compared = json.loads((tmp_path / "two" / "scores.json").read_text())["comparison"]
    assert compared["miss_rate"]["difference"] == pytest.approx(1 - missed, abs=1e-9)
    assert compared["miss_rate"]["share_of_draws_with_b_ahead"] == 0, "lower is better, and B is higher"
    assert compared["classes"]["oil"]["f2"]["interval"][1] < 0
    html = (tmp_path / "two" / "report.html").read_text()
    keys = Numbers(html).by_key.keys()
    assert {"/comparison/miss_rate/difference", "/comparison/classes/oil/f2/difference"} <= keys
    assert "miss rate <b>" in Text(html).pieces
