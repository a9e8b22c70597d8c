"""FlexUNet for multiclass defect segmentation: train, evaluate, export, run anywhere.

The names below are loaded when they are first used, so that importing the package loads neither torch nor numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flexunet_pl.api import Model, Run, fit, load_model
    from flexunet_pl.core.errors import UserError
    from flexunet_pl.core.types import Prediction, Region
    from flexunet_pl.data.palette import Palette
    from flexunet_pl.export import export_model as export

__version__ = "0.1.0"
__all__ = ["Model", "Palette", "Prediction", "Region", "Run", "UserError", "export", "fit", "load_model"]

_MODULES = {
    "Palette": "flexunet_pl.data.palette",
    "Prediction": "flexunet_pl.core.types",
    "Region": "flexunet_pl.core.types",
    "UserError": "flexunet_pl.core.errors",
}


if not TYPE_CHECKING:  # so that type checkers report misspelled names

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name == "export":  # a package that can be called
            return import_module("flexunet_pl.export")
        value = globals()[name] = getattr(import_module(_MODULES.get(name, "flexunet_pl.api")), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
