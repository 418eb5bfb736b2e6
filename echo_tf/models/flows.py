"""Autoregressive flows: a Keras MADE as the network of TensorFlow Probability's masked autoregressive bijector.

TFP's own networks are invisible to Keras 3, which would never train them; its bijectors take any function.
"""

import itertools
from typing import Any

import keras
import numpy as np
from keras import ops

Tensor = Any


@keras.saving.register_keras_serializable(package="echo_tf")
class MADE(keras.layers.Layer):
    """Masked network whose j-th outputs depend on the inputs before j only.

    `h = relu(W_l * mask h' + b)`, masks applied at every call. With the degree of input j its place in the order, and hidden
    units of degrees 1, ..., dim - 1 in equal shares (the highest first if there are fewer units), a weight is kept if the
    degree does not fall (into hidden units) or rises (into outputs). Works in float32 under any dtype policy.

    Args:
        dim: Integer >= 1, number of inputs.
        hidden: Widths of the hidden layers.
        scale: Boolean. `False`: shift only, which preserves volume. `True`: shift and log scale.
        reverse: Boolean. `True` numbers the inputs from the last to the first.
        context_dim: Integer, dimension of a context that all outputs may depend on; 0 for none.

    Call arguments:
        inputs: Shape `(batch, dim)`.
        context: Shape `(batch, context_dim)`; required if `context_dim > 0`.

    Returns:
        `(shift, log_scale)`, each of shape `(batch, dim)`; `log_scale` is `None` if `scale` is false.

    Source: Germain et al. 2015; sizes in the paper's appendix (three layers of 640, shift only). Differs: TFP's default
        template clips log scales to [-5, 3]; here nothing is clipped.

    Example:
        >>> shift, log_scale = MADE(4, hidden=(16,), scale=True)(keras.ops.ones((2, 4)))
        >>> tuple(shift.shape), tuple(log_scale.shape)
        ((2, 4), (2, 4))
    """

    def __init__(
        self,
        dim: int,
        hidden: tuple[int, ...] = (640, 640, 640),
        *,
        scale: bool = False,
        reverse: bool = False,
        context_dim: int = 0,
        **kwargs,
    ):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.dim, self.hidden, self.scale, self.reverse = dim, tuple(hidden), scale, reverse
        self.context_dim = context_dim

    def build(self, inputs_shape=None, context_shape=None):
        place = np.arange(1, self.dim + 1)
        degrees = [place[::-1] if self.reverse else place]
        highest = max(1, self.dim - 1)
        degrees += [highest - np.arange(width) * highest // width for width in self.hidden]
        masks = [after >= before[:, None] for before, after in itertools.pairwise(degrees)]
        # Repeated for the log scale, whose outputs stand behind those of the shift.
        masks.append(np.tile(degrees[0] > degrees[-1][:, None], 1 + self.scale))
        self.masks = [mask.astype("float32") for mask in masks]
        self.kernels = [
            self.add_weight(shape=mask.shape, initializer="glorot_uniform", name=f"kernel_{i}")
            for i, mask in enumerate(self.masks)
        ]
        self.biases = [
            self.add_weight(shape=mask.shape[1:], initializer="zeros", name=f"bias_{i}") for i, mask in enumerate(self.masks)
        ]
        if self.context_dim:
            # To the first layer and to the outputs: the first output has nothing else that could vary.
            self.context_kernels = [
                self.add_weight(shape=(self.context_dim, width), initializer="glorot_uniform", name=f"context_kernel_{i}")
                for i, width in enumerate((self.masks[0].shape[1], self.masks[-1].shape[1]))
            ]

    def call(self, inputs, context=None):
        h = inputs
        for i, (kernel, bias, mask) in enumerate(zip(self.kernels, self.biases, self.masks, strict=True)):
            h = ops.matmul(h if i == 0 else ops.relu(h), kernel * mask) + bias
            if i == 0 and self.context_dim:
                h = h + ops.matmul(context, self.context_kernels[0])
        if self.context_dim:
            h = h + ops.matmul(context, self.context_kernels[1])
        return tuple(ops.split(h, 2, axis=-1)) if self.scale else (h, None)

    def get_config(self):
        names = ("dim", "scale", "reverse", "context_dim")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}, "hidden": list(self.hidden)}


@keras.saving.register_keras_serializable(package="echo_tf")
class AutoregressiveFlow(keras.layers.Layer):
    """Chain of masked autoregressive steps, the order reversed from one to the next; fast from data to base.

    A step maps `u` to `x` by `x_j = u_j exp(log_scale_j(x_<j)) + shift_j(x_<j)`: `dim` passes. Its inverse takes one pass. So a
    density (MAF) evaluates `inverse`, and an encoder that must sample fast (IAF) *uses* `inverse` as its map.

    Args:
        dim: Integer, dimension.
        steps: Integer, number of steps.
        hidden, scale, context_dim: see `MADE`.

    Call arguments:
        x: Shape `(batch, dim)`.
        context: Shape `(batch, context_dim)`; required if `context_dim > 0`.

    Returns:
        `(u, log_det)`: `u = T^-1(x)`, shape `(batch, dim)`, and `log |det du/dx|`, shape `(batch,)`; float32.

    Raises:
        NotImplementedError: a Keras backend without TensorFlow Probability (anything but TensorFlow and JAX).

    Source: Papamakarios et al. 2017 (MAF); Kingma et al. 2016 (IAF); the paper's appendix: four shift-only steps.
    """

    def __init__(
        self,
        dim: int,
        steps: int = 4,
        hidden: tuple[int, ...] = (640, 640, 640),
        *,
        scale: bool = False,
        context_dim: int = 0,
        **kwargs,
    ):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.dim, self.steps, self.hidden, self.scale = dim, steps, tuple(hidden), scale
        self.context_dim = context_dim
        self.networks = [
            MADE(dim, hidden, scale=scale, reverse=bool(i % 2), context_dim=context_dim, name=f"made_{i}") for i in range(steps)
        ]

    def build(self, x_shape=None, context_shape=None):
        for network in self.networks:
            network.build()

    def call(self, x, context=None):
        bijector = self._bijector(context)
        return bijector.inverse(x), bijector.inverse_log_det_jacobian(x, event_ndims=1)

    def forward(self, u: Tensor, context: Tensor | None = None) -> Tensor:
        """`x = T(u)`, in `dim` passes through every step. Shape `(batch, dim)`."""
        return self._bijector(context).forward(u)

    def compute_output_spec(self, x, context=None):
        # TFP does not take symbolic tensors.
        return keras.KerasTensor(x.shape, "float32"), keras.KerasTensor(x.shape[:1], "float32")

    def _bijector(self, context: Tensor | None):
        # Made anew at each call: nothing of TFP is an attribute for Keras to track, and its cache cannot answer from memory.
        bijectors = _tfp_bijectors()

        def function(network):
            return lambda x: network(x) if context is None else network(x, context)

        return bijectors.Chain([bijectors.MaskedAutoregressiveFlow(function(network)) for network in self.networks])

    def get_config(self):
        names = ("dim", "steps", "scale", "context_dim")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}, "hidden": list(self.hidden)}


def _tfp_bijectors():
    backend = keras.backend.backend()
    if backend == "tensorflow":
        from tensorflow_probability import bijectors
    elif backend == "jax":
        from tensorflow_probability.substrates.jax import bijectors
    else:
        raise NotImplementedError(f"Flows need the Keras backend tensorflow or jax. The backend is {backend}.")
    return bijectors
