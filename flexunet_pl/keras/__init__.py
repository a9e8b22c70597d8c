"""Keras files in and out of FlexUNet: .keras, .weights.h5 and .h5, without Keras, TensorFlow or anything executed.

``keras_files`` opens files safely, ``keras_config`` and ``keras_lambda`` read a model's configuration,
``keras_weights`` its weights; ``keras_layers`` says which Keras layers a FlexUNet consists of, ``keras_model_json``
writes that down. docs/keras.md tells which file is for whom.
"""

from flexunet_pl.keras.reader import KerasModel, load_keras, read_keras
from flexunet_pl.keras.writer import write_keras, write_legacy_h5, write_weights_h5

__all__ = ["KerasModel", "load_keras", "read_keras", "write_keras", "write_legacy_h5", "write_weights_h5"]
