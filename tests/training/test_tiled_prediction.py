"""`predict --tile`: PyTorch in tiles, with the code that exported models use."""

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_models import noise
from PIL import Image

from flexunet_pl.cli.main import main
from flexunet_pl.export.bundle import export
from flexunet_pl.inference.onnx_infer import Tiling
from flexunet_pl.training.task import SegmentationTask
from flexunet_pl.training.tiled_prediction import TiledTask, task_for


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(noise(90, 131, 3)).save(folder / "wide.png")
    Image.fromarray(noise(50, 20, 3)).save(folder / "small.bmp")
    return folder


def masks_of(folder: Path) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    return {path.stem: np.array(Image.open(path)) for path in folder.glob("*.png")}


def predict(checkpoint: Path, photos: Path, out: Path, *options: str) -> int:
    common = ["predict", "--ckpt_path", str(checkpoint), "--data.num_workers", "0", "--data.predict_dir", str(photos)]
    return main([*common, "--out", str(out), "--trainer.accelerator", "cpu", *options])


def test_torch_and_the_exported_model_give_the_same_masks_in_tiles(
    tiny_checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    tiles = ["--tile", "40", "--overlap", "8"]
    assert predict(tiny_checkpoint, photos, tmp_path / "torch", *tiles) == 0
    assert export(tiny_checkpoint, tmp_path / "bundle") == 0
    assert main(["infer", str(tmp_path / "bundle"), str(photos), "--out", str(tmp_path / "onnx"), *tiles]) == 0
    of_torch, of_onnx = masks_of(tmp_path / "torch"), masks_of(tmp_path / "onnx")
    assert {name: mask.shape for name, mask in of_torch.items()} == {"wide": (90, 131), "small": (50, 20)}
    assert len(np.unique(of_torch["wide"])) > 1
    for name, mask in of_torch.items():
        assert (mask == of_onnx[name]).mean() > 0.999
    # Stretched to the working size, as without tiles, the picture looks different to the network.
    assert predict(tiny_checkpoint, photos, tmp_path / "whole") == 0
    assert (masks_of(tmp_path / "whole")["wide"] != of_torch["wide"]).any()
    assert (tmp_path / "torch" / "overlays" / "small.png").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tile", "32", "--overlap", "32"], "--tile 32 --overlap 32: the overlap must be within 0..28"),
        (["--overlap", "32"], "--overlap 32 needs --tile"),
        (["--tile", "0"], "the overlap must be within"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_tiles_that_cannot_be_are_an_error(
    options: list[str],
    message: str,
    tiny_checkpoint: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert predict(tiny_checkpoint, photos, tmp_path / "out", *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_tiles_are_what_the_network_sees_and_masks_have_the_size_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    def brightest(_: object, image: torch.Tensor) -> tuple[torch.Tensor, None]:
        seen.append(tuple(image.shape))
        return image.float(), None

    monkeypatch.setattr(SegmentationTask, "logits_and_cells", brightest)
    palette = {"background": [0, 0, 0], "a": [255, 0, 0], "b": [0, 255, 0]}
    task = task_for(16, 4, {"palette": palette, "network": {"num_layers": 1}, "resize": "none"})
    image = noise(40, 19, 3)
    batch = {"image": torch.from_numpy(image).permute(2, 0, 1)[None]}
    np.testing.assert_array_equal(task.predict_step(batch, 0)[0].mask_index, image.argmax(axis=2))
    assert seen == [(1, 3, 16, 16), (1, 3, 16, 16)] * 3


def test_one_sigmoid_channel_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    task = TiledTask({"background": [0, 0, 0], "a": [255, 0, 0]}, 1, {"num_layers": 1}, resize="none")
    monkeypatch.setattr(SegmentationTask, "logits_and_cells", lambda _, image: (image[:, :1].float() - 100, None))
    task.tiling = Tiling(8, 2)
    image = torch.tensor([99, 100, 101], dtype=torch.uint8).expand(3, 20, 3).clone()
    assert task.predict_step({"image": image[None]}, 0)[0].mask_index[5].tolist() == [0, 0, 1]
