"""plan: choose a whole config for a data set and this machine."""

from collections.abc import Sequence
from pathlib import Path

from flexunet_pl.core.arguments import PROGRAM, with_underscores
from flexunet_pl.core.console import note, say
from flexunet_pl.core.errors import UserError, suggestion

OPTIONS = ("time", "epochs", "out")
HELP = f"""usage: {PROGRAM} plan DATA [options]

Choose a whole config for a data set and this machine, print each choice with its reason, and write it as YAML.
DATA is a folder or an archive: prepared, MVTec AD, a folder for each class, images and masks, or a project of
TensorFlowFlexUNet. {PROGRAM} fit DATA does the same and trains.

  --time    how long to train: 90s, 12m, 1.5h
  --epochs  how many epochs to train
  --out     the file to write (default: DATA's name with .yaml, in this folder)
  --KEY     any key of fit, such as --data.crop_size 256; it stays as given, and the rest adapts

example: {PROGRAM} plan dataset/tile --time 12m"""


def run(words: Sequence[str]) -> int:
    """Run the command."""
    if not {"-h", "--help"}.isdisjoint(words):
        say(HELP)
        return 0
    from flexunet_pl.core.files import write_text
    from flexunet_pl.migrate.data_folder import project_data
    from flexunet_pl.planning.fit import plan_for
    from flexunet_pl.planning.request import read_request

    request = read_request(list(with_underscores(words)))
    if request is None:
        raise UserError(f"plan: give the folder of a data set first, and no config: {PROGRAM} plan dataset/tile")
    if unknown := sorted(request.others.keys() - {"out"}):
        raise UserError(f"plan --{unknown[0]}: is no option{suggestion(unknown[0], OPTIONS)}")
    out = request.others.get("out")
    if out == "":
        raise UserError("plan --out: needs the name of a file")
    if out is not None:
        _check_free(Path(out))
    source, plan = plan_for(request, project_data(request.data))
    path = Path(f"{source.name}.yaml" if out is None else out)
    _check_free(path)
    note(*source.notes)
    write_text(path, plan.text(path.absolute().parent, request.given))
    say(*plan.lines(), "", f"written: {path}; train with {PROGRAM} fit --config {path}")
    return 0


def _check_free(path: Path) -> None:
    if path.exists():
        raise UserError(f"{path}: is there already; name another file with --out")
