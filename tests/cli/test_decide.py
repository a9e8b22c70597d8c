"""The command decide, and that every program decides as it says."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from onnx_models import write_model
from PIL import Image
from report_data import Numbers, look_up, write_case, write_cases

import flexunet_pl as fx
from flexunet_pl.cli.main import main

RULES = "- class: crack\n  max_width_px: 3\n  max_area_mm2: 0.5\n  decision: ok\n"


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def verdicts(path: Path) -> dict[str, str]:
    return {Path(file).name: piece["decision"] for file, piece in read(path)["pieces"].items()}


@pytest.fixture(scope="module")
def decided_run(tiny_run: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the tiny run whose threshold was chosen, for rules in mm."""
    run = tmp_path_factory.mktemp("decided") / "tiny-1"
    shutil.copytree(tiny_run, run)
    rules = run.parent / "rules.yaml"
    rules.write_text(RULES)
    options = ["--escape-rate", "0.2", "--rules", str(rules), "--mm-per-pixel", "0.1", "--draws", "50"]
    assert main(["decide", str(run), str(tiny_data), "--split", "train", *options]) == 0
    return run


def test_a_run_keeps_the_decision_with_chart_and_pieces(decided_run: Path) -> None:
    content = read(decided_run / "decision.json")
    assert content["wanted_escape_rate"] == 0.2
    assert content["escapes"] <= 0.2 * content["defective"]
    assert content["rules"] == [{"class": "crack", "max_width_px": 3, "max_area_mm2": 0.5, "decision": "ok"}]
    assert 0 < content["escape_rate_upper"] <= 1
    with Image.open(decided_run / "decision" / "decision.png") as chart:
        assert chart.size[0] > 600
    rows = (decided_run / "decision" / "decisions.csv").read_text().splitlines()
    assert rows[0] == "image,group,score,truth,decision,outcome,allowed_by_rules"
    assert len(rows) == 1 + content["defective"] + content["good"]
    assert sum(row.split(",")[5] == "escape" for row in rows) == content["escapes"]


def test_torch_onnxruntime_and_the_bundle_alone_decide_alike(
    decided_run: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, bundle = tiny_data / "train" / "images", tmp_path / "bundle"
    assert main(["export", str(decided_run), str(bundle)]) == 0
    carried, chosen = read(bundle / "labels.json")["decision"], read(decided_run / "decision.json")
    assert carried == {key: chosen[key] for key in carried}
    assert {"threshold", "statement", "rules", "mm_per_pixel", "escape_rate_upper"} <= carried.keys()
    assert "curve" not in carried
    line = f"(threshold {chosen['threshold']:.4g}: {chosen['statement']})"
    capsys.readouterr()
    assert main(["infer", str(bundle), str(photos), "--out", str(tmp_path / "infer")]) == 0
    assert line in capsys.readouterr().err.splitlines()[-1]
    assert main(["predict", str(decided_run), str(photos), "--out", str(tmp_path / "predict")]) == 0
    assert line in capsys.readouterr().out
    words = [sys.executable, str(bundle / "infer.py"), str(bundle), str(photos), "--out", str(tmp_path / "alone")]
    assert line in subprocess.run(words, check=True, capture_output=True, text=True).stderr
    by_infer, by_torch = (read(tmp_path / name / "decisions.json") for name in ("infer", "predict"))
    assert read(tmp_path / "alone" / "decisions.json") == by_infer
    assert verdicts(tmp_path / "predict" / "decisions.json") == verdicts(tmp_path / "infer" / "decisions.json")
    assert by_torch["rules"] == by_infer["rules"]
    scores = {Path(file).name: piece["score"] for file, piece in by_torch["pieces"].items()}
    for file, piece in by_infer["pieces"].items():
        assert piece["score"] == pytest.approx(scores[Path(file).name], abs=1e-4)
    name, verdict = next(iter(verdicts(tmp_path / "infer" / "decisions.json").items()))
    for model in (decided_run, bundle):
        assert fx.load_model(model).predict(photos / name).decision == verdict


def test_another_checkpoint_is_not_decided_by_it(
    decided_run: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(decided_run, run)
    content = read(run / "decision.json")
    (run / "decision.json").write_text(json.dumps(content | {"checkpoint_sha256": "0" * 64}))
    photos = str(tiny_data / "test" / "images")
    assert main(["predict", str(run), photos, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert "threshold was chosen for another checkpoint than best.ckpt" in printed.err
    assert "(threshold 0.5: no escape rate is known" in printed.out
    (run / "decision.json").write_text("{")
    assert main(["predict", str(run), photos, "--out", str(tmp_path / "out")]) == 2
    assert "decision.json: cannot be read as a decision" in capsys.readouterr().err


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with data, and a model of 1x1 pixels whose probabilities are those of the colours."""
    folder = tmp_path_factory.mktemp("decide")
    write_cases(folder / "data", "valid", 24)
    truth = np.zeros((24, 20), dtype=np.uint8)
    write_case(folder / "data" / "valid", "overkill", truth, np.where(np.eye(24, 20) > 0, 1, truth).astype(np.uint8))
    write_case(folder / "data" / "valid", "escape", np.where(np.eye(24, 20) > 0, 1, truth).astype(np.uint8), truth)
    write_model(folder / "model.onnx")
    return folder


def test_what_is_printed_is_honest(cases: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["decide", str(cases / "model.onnx"), str(cases / "data"), "--out", str(cases / "out"), "--draws", "20"]
    assert main([*words, "--escape-rate", "0.06"]) == 0
    printed = capsys.readouterr().out
    # 18 pieces with squares and one that looks good; 7 good ones, one of which looks bad.
    assert "1 of 19" in printed
    assert "1 of 7" in printed
    assert "An escape rate of 6 % cannot be shown with 19 pieces that are defective: it takes 49 without" in printed
    content = read(cases / "out" / "decision.json")
    assert (content["escapes"], content["overkill"], content["is_shown"]) == (1, 1, False)
    assert content["pieces_to_show"] == 49
    assert main([*words, "--escape-rate", "0.3"]) == 0
    assert "An escape rate of 30 % is shown." in capsys.readouterr().out


def test_the_report_applies_and_states_it(cases: Path, tmp_path: Path) -> None:
    decision = {"threshold": 0.25, "statement": "escapes at most 7 %", "rules": [{"class": "oil", "max_area_px": 1}]}
    model = write_model(tmp_path / "decided.onnx", decision=decision)
    out = tmp_path / "report"
    words = ["report", str(model), str(cases / "data"), "--split", "valid", "--draws", "0", "--out", str(out)]
    assert main(words) == 0
    scores, page = read(out / "scores.json"), (out / "report.html").read_text()
    found = scores["decision"]
    assert (found["threshold"], found["escapes"], found["defective"]) == (0.25, 1, 19)
    assert (found["overkill"], found["good"]) == (1, 7)
    outcomes = {row["name"]: row["outcome"] for row in scores["per_image"] if row["outcome"] != "right"}
    assert outcomes == {"overkill": "overkill", "escape": "escape"}
    section = page[page.index("<h2>OK or NG</h2>") : page.index("<h2>Thresholds, sizes")]
    assert "escapes at most 7 %" in section
    assert 'href="report_pictures/escape.jpg"' in section
    assert 'href="report_pictures/overkill.jpg"' in section
    shown = Numbers(page).by_key
    assert shown["/decision/escapes"] == "1"
    assert all(look_up(scores, key) is not None for key in shown if key.startswith("/decision/"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["model.onnx"], "which data? Give a folder with images and masks", id="no data"),
        pytest.param(["runs/nothing"], "runs/nothing: no model there; give a run folder", id="no model"),
        pytest.param(["model.onnx", "data"], "--out DIR is not given; only a run folder", id="no place"),
        pytest.param(["model.onnx", "data", "x"], "leave 'x' out", id="three places"),
        pytest.param(["model.onnx", "data", "--out", "o", "--escape-rate", "2"], "2 % is 0.02", id="no share"),
        pytest.param(["model.onnx", "data", "--out", "o", "--draws", "-1"], "both must be at least 0", id="draws"),
        pytest.param(["model.onnx", "data", "--out", "o", "--split", "vaild"], "did you mean 'valid'?", id="split"),
        pytest.param(["data/valid/masks", "data", "--out", "o"], "masks have no probabilities", id="masks"),
        pytest.param(["model.onnx", "data", "--out", "o", "--rules", "absent.yaml"], "absent.yaml: cannot", id="rules"),
        pytest.param(["model.onnx", "good", "--out", "o"], "none of the 1 images has a defect", id="all good"),
    ],
)
def test_mistakes_are_one_message_and_nothing_is_written(
    words: list[str], message: str, cases: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(cases)
    if not Path("good").exists():
        empty = np.zeros((4, 4), dtype=np.uint8)
        write_case(Path("good") / "valid", "fine", empty, empty)
    assert main(["decide", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not Path("o").exists()


def test_without_good_pieces_a_threshold_is_chosen_and_overkill_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = np.ones((4, 4), dtype=np.uint8)
    write_case(tmp_path / "data" / "valid", "bad", truth, truth)
    model = write_model(tmp_path / "model.onnx")
    assert main(["decide", str(model), str(tmp_path / "data"), "--out", str(tmp_path / "out")]) == 0
    assert "No image is good, so nothing says how many good pieces are rejected" in capsys.readouterr().out
    assert read(tmp_path / "out" / "decision.json")["overkill_rate"] is None


def test_a_run_decides_by_its_own_validation_images_unless_these_are_a_fold(
    decided_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(decided_run, run)
    assert main(["decide", str(run), "--draws", "0", "--out", str(tmp_path / "chart")]) == 0
    content = read(run / "decision.json")
    assert content["images"]["split"] == "valid"
    assert "validation images" in content["statement"]
    assert content["rules"] == []
    assert (tmp_path / "chart" / "decision.png").is_file()
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["fold"] = 1
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["decide", str(run)]) == 2
    assert "this run validates on fold 1 of its data set" in capsys.readouterr().err
    assert read(run / "decision.json") == content
