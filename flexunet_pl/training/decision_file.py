"""decision.json of a run folder: the threshold by which pieces are OK or NG, and what is known about it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flexunet_pl.core.arguments import PROGRAM
from flexunet_pl.core.console import warn
from flexunet_pl.core.errors import UserError
from flexunet_pl.data.manifest import sha256_of
from flexunet_pl.inference.onnx_infer import Acceptance, InferenceError
from flexunet_pl.training.runs import CHECKPOINTS, is_run, named_run

FILE = "decision.json"
# What an exported model carries: neither the curve, nor paths of this machine.
EXPORTED = (
    *Acceptance._fields,
    *("wanted_escape_rate", "escapes", "defective", "escape_rate_upper", "overkill", "good", "threshold_interval"),
)


def run_of(path: Path) -> Path | None:
    """Return the run folder that a word of a command line names, or that holds the checkpoint it names; else None."""
    path = named_run(path)
    folder = path.parent.parent if path.parent.name == CHECKPOINTS else path
    return folder if is_run(folder) else None


def decision_of(checkpoint: Path) -> dict[str, Any] | None:
    """Return the content of decision.json in the run folder of a checkpoint; None if there is none for it.

    Raises:
        UserError: If the file cannot be read, or has no threshold.
    """
    path = checkpoint.parent.parent / FILE
    if checkpoint.parent.name != CHECKPOINTS or not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        belongs = content["checkpoint_sha256"] == sha256_of(checkpoint)
        content["threshold"] + 0.0
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        repair = f"remove it, or write it anew with {PROGRAM} decide {path.parent}"
        raise UserError(f"{path}: cannot be read as a decision ({reason}); {repair}") from error
    if not belongs:
        again = f"{PROGRAM} decide {path.parent}"
        warn(f"{path}: its threshold was chosen for another checkpoint than {checkpoint.name} and is not used; {again}")
        return None
    return dict(content)


def exported_decision(checkpoint: Path) -> dict[str, Any] | None:
    """Return what an exported model carries of :func:`decision_of`."""
    content = decision_of(checkpoint)
    return None if content is None else {key: content[key] for key in EXPORTED if key in content}


def acceptance_of(checkpoint: Path, names: Sequence[str]) -> Acceptance:
    """Return how the pieces of a checkpoint's images are decided; ``names`` are its classes, background first.

    Raises:
        UserError: If decision.json is not usable.
    """
    content = decision_of(checkpoint)
    if content is None:
        return Acceptance()
    try:
        return Acceptance().changed(names, str(checkpoint.parent.parent / FILE), **content)
    except InferenceError as error:
        raise UserError(str(error)) from error
