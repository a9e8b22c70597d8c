"""The training step: what makes it fast leaves its results as they were."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from flexunet_pl.cli.main import main
from flexunet_pl.nn.flexunet import pad_to_multiple
from flexunet_pl.training import precision
from flexunet_pl.training.callbacks import ScoreWriter
from flexunet_pl.training.optim import build_optimizer, clip_by_value


def two_convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1))


def take_steps(network: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        optimizer.zero_grad()
        network(torch.randn(2, 3, 8, 8, generator=generator)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_state_of_another_memory_order_goes_on_as_before(name: str) -> None:
    plain = two_convolutions()
    optimizer = build_optimizer(name, plain, 0.01, 0.0)
    take_steps(plain, optimizer, 1)

    together = two_convolutions().to(memory_format=torch.channels_last)
    together.load_state_dict(plain.state_dict())
    resumed = build_optimizer(name, together, 0.01, 0.0)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for weight, state in resumed.state.items():
        kept = [value for value in state.values() if torch.is_tensor(value) and value.shape == weight.shape]
        assert kept
        assert all(value.stride() == weight.stride() for value in kept)

    take_steps(plain, optimizer, 2)
    take_steps(together, resumed, 2)
    for one, other in zip(plain.parameters(), together.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)  # 3 steps of Adam move a weight by 0.03


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_weights_whose_channels_lie_together_take_the_steps_of_torch(order: torch.memory_format) -> None:
    plain, together = two_convolutions(), two_convolutions().to(memory_format=torch.channels_last)
    theirs = torch.optim.AdamW(plain.parameters(), lr=0.01, weight_decay=0.1)
    ours = build_optimizer("adamw", together, 0.01, 0.1)
    ours.param_groups[-1]["weight_decay"] = 0.1  # ours spares biases
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        for one, other in zip(plain.parameters(), together.parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone(memory_format=order if one.ndim == 4 else torch.preserve_format)
        theirs.step()
        ours.step()
    for one, other in zip(plain.parameters(), together.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
        assert other.shape == one.shape


@pytest.mark.parametrize(("name", "kernel"), [("adam", "_fused_adam_"), ("adamw", "_fused_adamw_")])
def test_the_fused_kernel_gets_nothing_that_it_would_copy(
    name: str, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    fused = getattr(torch, kernel)

    def spy(*lists: list[torch.Tensor], **options: object) -> object:
        calls.append(all(tensor.is_contiguous() for tensors in lists[:4] for tensor in tensors))
        return fused(*lists, **options)

    monkeypatch.setattr(torch, kernel, spy)
    network = two_convolutions().to(memory_format=torch.channels_last)
    take_steps(network, build_optimizer(name, network, 0.01, 0.0), 1)
    assert calls
    assert all(calls)


def test_clipping_in_one_pass_is_that_of_torch() -> None:
    ours, theirs = two_convolutions(), two_convolutions()
    for network in (ours, theirs):
        for number, weight in enumerate(network.parameters()):
            weight.grad = torch.linspace(-2, 1.5, weight.numel()).view_as(weight) if number != 1 else None
    clip_by_value(build_optimizer("adam", ours, 0.01, 0.0), 0.5)
    nn.utils.clip_grad_value_(theirs.parameters(), 0.5)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        if one.grad is None:
            assert other.grad is None
        else:
            assert torch.equal(one.grad, other.grad)  # type: ignore[arg-type]  # both have one
            assert one.grad.abs().max().item() == 0.5


@pytest.mark.parametrize(
    ("amx", "avx512", "expected", "reason"),
    [
        (True, True, "bf16-mixed", "this CPU has AMX"),
        (False, True, "bf16-mixed", "this CPU has AVX512-BF16"),
        (False, False, "32-true", "this CPU has neither AMX nor AVX512-BF16"),
    ],
)
def test_auto_picks_what_the_processor_computes_in_and_says_so(
    amx: bool,
    avx512: bool,
    expected: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    with caplog.at_level("INFO", logger=precision.__name__):
        trainer = precision.Trainer(
            accelerator="cpu", precision="auto", logger=False, enable_checkpointing=False, enable_progress_bar=False
        )
    assert trainer.precision == expected
    said = [record.getMessage() for record in caplog.records if record.name == precision.__name__]
    assert said == [f"Precision: {expected}; {reason}."]


def test_auto_trains_in_bf16_and_evaluates_in_fp32(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "bf16_feature", lambda: "AMX")
    used = []
    for stage in ("train", "test"):
        start = f"on_{stage}_start"
        monkeypatch.setattr(
            ScoreWriter, start, lambda _self, trainer, _task: used.append(trainer.precision), raising=False
        )
    common = ["--config", str(tiny_config), "--trainer.precision", "auto"]
    assert main(["fit", *common, "--run_dir", str(tmp_path / "run")]) == 0
    checkpoint = ["--ckpt_path", str(tmp_path / "run" / "checkpoints" / "last.ckpt")]
    assert main(["test", *common, *checkpoint, "--run_dir", str(tmp_path / "test")]) == 0
    assert used == ["bf16-mixed", "32-true"]


def test_padding_by_nothing_copies_nothing() -> None:
    image = torch.randn(1, 3, 8, 12)
    assert pad_to_multiple(image, 4) is image
    assert pad_to_multiple(image, 8).shape == (1, 3, 8, 16)


def test_two_runs_in_bf16_with_one_seed_are_the_same(tiny_config: Path, tmp_path: Path) -> None:
    kept = []
    for name in ("one", "other"):
        arguments = ["--config", str(tiny_config), "--trainer.precision", "bf16-mixed"]
        assert main(["fit", *arguments, "--run_dir", str(tmp_path / name)]) == 0
        kept.append(torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True))
    one, other = (content["state_dict"] for content in kept)
    assert all(torch.equal(one[key], other[key]) for key in one)
    losses = [
        [state["best_model_score"] for key, state in content["callbacks"].items() if "val/loss" in key]
        for content in kept
    ]
    assert losses[0]
    assert losses[0] == losses[1]


def test_bf16_trains_to_the_scores_of_fp32(tiny_config: Path, tmp_path: Path) -> None:
    losses: dict[str, list[float]] = {"32-true": [], "bf16-mixed": []}
    for kind, found in losses.items():
        for seed in ("1", "2", "3"):
            run_dir = tmp_path / kind / seed
            arguments = ["--config", str(tiny_config), "--seed_everything", seed, "--trainer.max_epochs", "4"]
            assert main(["fit", *arguments, "--trainer.precision", kind, "--run_dir", str(run_dir)]) == 0
            checkpoint = ["--ckpt_path", str(run_dir / "checkpoints" / "last.ckpt"), "--run_dir", str(run_dir / "test")]
            assert main(["test", "--config", str(tiny_config), *checkpoint]) == 0
            found.append(json.loads((run_dir / "test" / "test_scores.json").read_text())["loss"])
    plain, half = losses.values()
    assert plain != half  # bf16 was at work
    spread = max(plain) - min(plain)
    assert abs(sum(half) - sum(plain)) / 3 < spread / 2


def test_the_training_loss_of_an_epoch_weighs_each_image_alike(
    tiny_config: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """Without dropout, and with steps too small to matter, it is the validation loss of the same images."""
    splits = [
        f"--data.{split}_{kind}={tiny_data / 'train' / kind}"
        for split in ("train", "valid")
        for kind in ("images", "masks")
    ]
    still = ["--model.dropout", "0", "--model.learning_rate", "1e-12", "--data.batch_size", "5"]
    curves = ["--trainer.callbacks+", "flexunet_pl.training.callbacks.Curves", "--trainer.max_epochs", "1"]
    words = ["fit", "--config", str(tiny_config), *splits, *still, *curves, "--run_dir", str(tmp_path / "run")]
    assert main(words) == 0
    header, row = (tmp_path / "run" / "curves" / "losses.csv").read_text().splitlines()
    assert header == "epoch,loss,val_loss"
    _, loss, val_loss = map(float, row.split(","))
    assert loss == pytest.approx(val_loss, rel=1e-5)
