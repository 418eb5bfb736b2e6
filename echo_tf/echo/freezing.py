"""Frozen layers that are made of other layers."""

import keras


def freeze_parts(layer: keras.layers.Layer) -> None:
    """Freeze what a frozen layer is made of; called when it is built.

    Keras does so where `trainable` is set, but not where the constructor is given it, as when a model is loaded or cloned: the
    parts of the layer would be trained then, while it takes itself for frozen.
    """
    if not layer.trainable:
        layer.trainable = True  # else TensorFlow takes the next line for no change, and skips it
        layer.trainable = False
