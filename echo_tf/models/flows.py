"""Autoregressive flows: a Keras MADE as the network of TensorFlow Probability's masked autoregressive bijector.

TFP's own networks are invisible to Keras 3, which would never train them; its bijectors take any function.
"""

import itertools

import keras
import numpy as np
from keras import ops

from echo_tf.echo.checks import Tensor
from echo_tf.echo.freezing import freeze_parts


@keras.saving.register_keras_serializable(package="echo_tf")
class MADE(keras.layers.Layer):
    """Masked network whose j-th outputs depend on the inputs before j only.

    `h = relu(W_l * mask h' + b)`, masks applied at every call. With the degree of input j its place in the order, and hidden
    units of degrees 1, ..., dim - 1 in equal shares (the highest first if there are fewer units), a weight is kept if the
    degree does not fall (into hidden units) or rises (into outputs). Works in float32 under any dtype policy.

    Args:
        dim: Integer >= 1, number of inputs.
        hidden: Widths of the hidden layers.
        reverse: Boolean. `True` numbers the inputs from the last to the first.

    Call arguments:
        inputs: Shape `(batch, dim)`.

    Returns:
        Shifts, shape `(batch, dim)`.

    Source: Germain et al. 2015; sizes in the paper's appendix (three layers of 640, shift only).

    Example:
        >>> tuple(MADE(4, hidden=(16,))(keras.ops.ones((2, 4))).shape)
        (2, 4)
    """

    def __init__(self, dim: int, hidden: tuple[int, ...] = (640, 640, 640), *, reverse: bool = False, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.dim, self.hidden, self.reverse = dim, tuple(hidden), reverse

    def build(self, inputs_shape=None):
        place = np.arange(1, self.dim + 1)
        degrees = [place[::-1] if self.reverse else place]
        highest = max(1, self.dim - 1)
        degrees += [highest - np.arange(width) * highest // width for width in self.hidden]
        masks = [after >= before[:, None] for before, after in itertools.pairwise(degrees)]
        masks.append(degrees[0] > degrees[-1][:, None])
        self.masks = [mask.astype("float32") for mask in masks]
        self.kernels = [
            self.add_weight(shape=mask.shape, initializer="glorot_uniform", name=f"kernel_{i}")
            for i, mask in enumerate(self.masks)
        ]
        self.biases = [
            self.add_weight(shape=mask.shape[1:], initializer="zeros", name=f"bias_{i}") for i, mask in enumerate(self.masks)
        ]

    def call(self, inputs):
        h = inputs
        for i, (kernel, bias, mask) in enumerate(zip(self.kernels, self.biases, self.masks, strict=True)):
            h = ops.matmul(h if i == 0 else ops.relu(h), kernel * mask) + bias
        return h

    def get_config(self):
        return {**super().get_config(), "dim": self.dim, "hidden": list(self.hidden), "reverse": self.reverse}


@keras.saving.register_keras_serializable(package="echo_tf")
class AutoregressiveFlow(keras.layers.Layer):
    """Chain of masked autoregressive shifts, the order reversed from one to the next; fast from data to base.

    A step maps `u` to `x` by `x_j = u_j + shift_j(x_<j)`: `dim` passes. Its inverse takes one pass. So a density (MAF)
    evaluates `inverse`, and an encoder that must sample fast (IAF) *uses* `inverse` as its map. Shifts preserve volume.

    Args:
        dim: Integer, dimension.
        steps: Integer, number of steps.
        hidden: see `MADE`.

    Call arguments:
        x: Shape `(batch, dim)`.

    Returns:
        `(u, log_det)`: `u = T^-1(x)`, shape `(batch, dim)`, and `log |det du/dx|`, shape `(batch,)`; float32.

    Raises:
        NotImplementedError: a Keras backend without TensorFlow Probability (anything but TensorFlow and JAX).

    Source: Papamakarios et al. 2017 (MAF); Kingma et al. 2016 (IAF); the paper's appendix: four shift-only steps.
    """

    def __init__(self, dim: int, steps: int = 4, hidden: tuple[int, ...] = (640, 640, 640), **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.dim, self.steps, self.hidden = dim, steps, tuple(hidden)
        self.networks = [MADE(dim, hidden, reverse=bool(i % 2), name=f"made_{i}") for i in range(steps)]

    def build(self, x_shape=None):
        freeze_parts(self)
        for network in self.networks:
            if not network.built:
                network.build()

    def start_at_identity(self) -> None:
        """Set the last kernels to 0, so that `T` is the identity until it learns otherwise."""
        for network in self.networks:
            network.kernels[-1].assign(ops.zeros(network.kernels[-1].shape))

    def call(self, x):
        bijector = self._bijector()
        log_det = bijector.inverse_log_det_jacobian(x, event_ndims=1)  # of shifts a scalar, 0
        return bijector.inverse(x), log_det + ops.zeros_like(x[:, 0])

    def forward(self, u: Tensor) -> Tensor:
        """`x = T(u)`, in `dim` passes through every step. Shape `(batch, dim)`."""
        return self._bijector().forward(u)

    def compute_output_spec(self, x):
        # TFP does not take symbolic tensors.
        return keras.KerasTensor(x.shape, "float32"), keras.KerasTensor(x.shape[:1], "float32")

    def _bijector(self):
        # Made anew at each call: nothing of TFP is an attribute for Keras to track, and its cache cannot answer from memory.
        bijectors = _tfp_bijectors()
        shifts = [lambda x, network=network: (network(x), None) for network in self.networks]
        return bijectors.Chain([bijectors.MaskedAutoregressiveFlow(shift) for shift in shifts])

    def get_config(self):
        return {**super().get_config(), "dim": self.dim, "steps": self.steps, "hidden": list(self.hidden)}


def _tfp_bijectors():
    backend = keras.backend.backend()
    if backend == "tensorflow":
        from tensorflow_probability import bijectors
    elif backend == "jax":
        from tensorflow_probability.substrates.jax import bijectors
    else:
        raise NotImplementedError(f"Flows need the Keras backend tensorflow or jax. The backend is {backend}.")
    return bijectors
