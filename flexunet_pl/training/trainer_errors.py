"""Tell what Lightning raises over options and checkpoints, which users can fix, from faults of a program."""

from types import TracebackType

from lightning.fabric.utilities.exceptions import MisconfigurationException

from flexunet_pl.core.arguments import PROGRAM
from flexunet_pl.core.errors import UserError

# What Lightning raises, and torch when it restores an optimizer, over values that do not fit.
ERRORS = (
    *(MisconfigurationException, RuntimeError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError),
    AssertionError,
)
OPTIONS = f"all options: {PROGRAM} fit --help-all"
RESTORING = ("lightning.pytorch.trainer.connectors.checkpoint_connector", "lightning.pytorch.core.saving")


def explained(error: Exception) -> UserError | None:
    """Return the UserError for an error of Lightning's own code or over a checkpoint, None for any other."""
    modules = _modules(error.__traceback__)
    if isinstance(error, UserError):
        return None
    if "Error(s) in loading state_dict" in str(error):
        keys = "the checkpoint does not fit the network that the keys under model describe"
        return UserError(f"{keys} ({root_of(error)[:300]})")
    if any(module in RESTORING for module in modules):
        return UserError(f"the checkpoint cannot be restored ({root_of(error)[:300]}); it is damaged, or another run's")
    if modules[-1].startswith("lightning."):
        return UserError(f"trainer: {root_of(error)}; {OPTIONS}")
    return None


def root_of(error: BaseException) -> str:
    """Return the root cause of an error in one line, such as a package that is not installed."""
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    return " ".join(str(error).split()) or type(error).__name__


def _modules(place: TracebackType | None) -> list[str]:
    """Return the names of the modules that an error went through, where it was raised last."""
    modules = []
    while place is not None:
        modules.append(str(place.tb_frame.f_globals.get("__name__", "")))
        place = place.tb_next
    return modules
