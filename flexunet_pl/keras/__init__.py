"""Write Keras files (.keras, .weights.h5, .h5), and read those of a FlexUNet, without running code of theirs."""

from flexunet_pl.keras.reader import KerasModel, load_keras, read_keras
from flexunet_pl.keras.writer import write_keras, write_legacy_h5, write_weights_h5

__all__ = ["KerasModel", "load_keras", "read_keras", "write_keras", "write_legacy_h5", "write_weights_h5"]
