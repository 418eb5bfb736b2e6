"""Examples as users give them: arrays, datasets, generators."""

from typing import Any

import keras
import numpy as np
from keras import ops

from echo_tf.echo.checks import alike
from echo_tf.models.distortions import DistortionFunction, check_data, check_is_array


def check_examples(x: Any, encoder: keras.Model, distortion: DistortionFunction) -> None:
    """Raise `ValueError` for examples that the encoder or the distortion is not made for.

    Looked at is all of an array, and the first batch of anything else.
    """
    check_is_array(x)
    x = some_examples(x, 1) if not hasattr(x, "shape") else ops.convert_to_numpy(x)
    # Subclassed encoders, and those that are not built, do not know their shape.
    found, expected = x.shape[1:], getattr(encoder, "input_shape", x.shape)[1:]
    if not alike(found, expected):
        raise ValueError(
            f"Expected examples of shape {tuple(expected)}, as the encoder takes them. Received: {found}. Add a last axis "
            "to grey images (x[..., None]); move channels that come first to the end (np.moveaxis(x, 1, -1))."
        )
    if x.size == 0:
        raise ValueError("Expected at least one example. Received: none")
    check_data(distortion, x)


def some_examples(data: Any, n: int) -> np.ndarray:
    """`n` examples of anything that `fit` takes but generators, or all if there are fewer.

    Rows of an array are taken evenly from all of it, as it may be sorted; batches are taken to be shuffled, and the first ones
    serve.

    Raises `ValueError` for batches of dictionaries, and where there is no example.
    """
    if hasattr(data, "shape"):
        data = data if isinstance(data, np.ndarray) else ops.convert_to_numpy(data)
        return data[np.linspace(0, len(data) - 1, min(n, len(data))).astype(int)]
    examples, found = [], 0
    batches = (data[i] for i in range(len(data))) if isinstance(data, keras.utils.PyDataset) else iter(data)
    for batch in batches:
        batch = batch[0] if isinstance(batch, tuple | list) else batch
        check_is_array(batch)
        examples.append(ops.convert_to_numpy(batch))
        found += len(examples[-1])
        if found >= n:
            break
    if not examples:
        raise ValueError("Expected at least one example. Received: none")
    return np.concatenate(examples)[:n]
