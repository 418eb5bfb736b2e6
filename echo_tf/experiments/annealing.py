"""Annealed importance sampling: `log p(x)` of a decoder and a marginal, from below and, for drawn examples, from above.

Between the marginal `p(z)` and the posterior stand `p_t(z) = p(z) p(x|z)^beta_t`, `0 = beta_0 < ... < beta_T = 1`. A chain
begins with a draw of `p(z)` and moves so that each `p_t` in its turn stays what it is. Its weight
`w = prod_t p(x|z_{t-1})^(beta_t - beta_{t-1})` has the expectation `p(x)`, so that `E log w <= log p(x)`. A chain that begins
with a draw of the posterior and goes the other way has `E 1/w = 1/p(x)`, and bounds from above; such a draw is known for an
example that was made from it.

Source: Neal 2001 (annealing); Grosse et al. 2015 (both directions); Wu et al. 2017 and Huang et al. 2020 (decoders).
"""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops
from scipy.special import expit, logsumexp

from echo_tf.echo.checks import Tensor
from echo_tf.errors import ConfigError

STEEPNESS = 4.0  # of the schedule; Wu et al. 2017
LEAPFROGS = 10  # steps of a trajectory
ACCEPTANCE = 0.8  # a common aim of Hamiltonian moves
FIRST_STEP = 0.5


class Latents:
    """A marginal with a density, and Hamiltonian moves that leave `p(z) p(x|z)^beta` what it is.

    A move draws a momentum, follows the gradient for some leapfrog steps, and is accepted or not.

    Args:
        draw: `n -> (n, dim)`, draws from the marginal.
        log_density: `(n, dim) -> (n,)`, its log density in nats.
        decode: From such draws to parameters of `p(x|z)`.

    Source: Neal 2011 (Hamiltonian moves).
    """

    def __init__(self, draw: Callable, log_density: Callable, decode: Callable):
        self.draw, self.log_density, self.decode = draw, log_density, decode

    def move(
        self, z: Tensor, levels: Tensor, log_likelihood: Callable, beta: Tensor, step: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Move chains by one trajectory.

        Args:
            z: Where they are, shape `(n, dim)`.
            levels: `log p(x|z)` there, shape `(n,)`.
            log_likelihood: `(n, dim) -> (n,)`.
            beta: Scalar, the inverse temperature.
            step: Scalar, the most that a leapfrog step has. Each chain takes a random share of it, as trajectories of one
                length may end where they began.

        Returns:
            The same two after it, and the share of trajectories that were accepted.
        """
        step = step * keras.random.uniform((ops.shape(z)[0], 1), 0.5, 1.0)
        new, momentum = z, keras.random.normal(ops.shape(z))
        before = self.log_density(z) + beta * levels - 0.5 * ops.sum(ops.square(momentum), axis=-1)
        _, _, gradient = self._at(new, log_likelihood, beta)
        for _ in range(LEAPFROGS):
            momentum = momentum + 0.5 * step * gradient
            new = new + step * momentum
            energy, new_levels, gradient = self._at(new, log_likelihood, beta)
            momentum = momentum + 0.5 * step * gradient
        after = energy - 0.5 * ops.sum(ops.square(momentum), axis=-1)
        yes = ops.log(keras.random.uniform(ops.shape(levels))) < after - before  # not where that is NaN
        return ops.where(yes[:, None], new, z), ops.where(yes, new_levels, levels), ops.mean(ops.cast(yes, "float32"))

    def _at(self, z: Tensor, log_likelihood: Callable, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`log p(z) + beta log p(x|z)`, `log p(x|z)`, and the gradient of the former."""
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(z)
            levels = log_likelihood(z)
            energy = self.log_density(z) + beta * levels
        return energy, levels, tape.gradient(energy, z)


def temperatures(count: int) -> np.ndarray:
    """`beta_0 = 0, ..., beta_count = 1`, by a sigmoid: close together at both ends. Shape `(count + 1,)`."""
    ends = expit(STEEPNESS * np.linspace(-1.0, 1.0, count + 1))
    return (ends - ends[0]) / (ends[-1] - ends[0])


def check_backend() -> None:
    """Raise `ConfigError` on another backend than TensorFlow, which the gradients are written for."""
    if (backend := keras.backend.backend()) != "tensorflow":
        raise ConfigError(f"Annealed importance sampling needs KERAS_BACKEND=tensorflow. Received: {backend}")


class Annealer:
    """Annealed importance sampling for one decoder and one marginal.

    Args:
        latents: The marginal and its moves.
        distortion: `(x, parameters) -> -log p(x|z)` in nats, shape `(n,)`.
        count: Integer >= 1, number of temperatures.

    Raises:
        ConfigError: as `check_backend`.
    """

    def __init__(self, latents: Latents, distortion: Callable, count: int):
        check_backend()
        import tensorflow as tf

        self.latents, self.distortion, self.betas = latents, distortion, temperatures(count)
        self.steps = np.full(count, FIRST_STEP)  # of the moves at beta_0, beta_1, ...: there is none at 1
        self._move = tf.function(self._moved, reduce_retracing=True)
        self._level = tf.function(self.log_likelihood, reduce_retracing=True)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """`log p(x|z)`, shape `(n,)`."""
        return -self.distortion(x, self.latents.decode(z))

    def _moved(self, x, z, levels, beta, step):
        return self.latents.move(z, levels, lambda z: self.log_likelihood(x, z), beta, step)

    def tune(self, x: np.ndarray) -> np.ndarray:
        """Set the size of the moves at every temperature, from chains of given examples, which are not to be measured.

        Sizes are constant afterwards, since weights are only right for moves that do not look at where a chain has been.

        Returns:
            Share of accepted proposals at every temperature.
        """
        z, levels = self._started(x)
        rates, step = np.empty(len(self.steps)), self.steps[0]
        for t, beta in enumerate(self.betas[:-1]):
            z, levels, share = self._at_temperature(x, z, levels, beta, step)
            rates[t] = float(share)
            step *= math.exp(np.clip(rates[t] - ACCEPTANCE, -0.3, 0.3))
            self.steps[t] = step
        return rates

    def forward(self, x: np.ndarray) -> np.ndarray:
        """`log w` of a chain for every example, in expectation at most `log p(x)`. Shape `(n,)`."""
        z, levels = self._started(x)
        total = np.zeros(len(x))
        for t in range(1, len(self.betas)):
            total += (self.betas[t] - self.betas[t - 1]) * ops.convert_to_numpy(levels)
            if t < len(self.steps):
                z, levels, _ = self._at_temperature(x, z, levels, self.betas[t], self.steps[t])
        return total

    def backward(self, x: np.ndarray, z: Tensor) -> np.ndarray:
        """`log w` of chains that begin with draws of the posterior, in expectation at least `log p(x)`. Shape `(n,)`."""
        levels, total = self._level(_tensor(x), z), np.zeros(len(x))
        for t in range(len(self.betas) - 1, 0, -1):
            total += (self.betas[t] - self.betas[t - 1]) * ops.convert_to_numpy(levels)
            if t > 1:
                z, levels, _ = self._at_temperature(x, z, levels, self.betas[t - 1], self.steps[t - 1])
        return total

    def _started(self, x: np.ndarray) -> tuple[Tensor, Tensor]:
        z = self.latents.draw(len(x))
        return z, self._level(_tensor(x), z)

    def _at_temperature(self, x, z, levels, beta: float, step: float) -> tuple[Any, Any, Any]:
        return self._move(_tensor(x), z, levels, _tensor(beta), _tensor(step))


def _tensor(value: Any) -> Tensor:
    return ops.convert_to_tensor(value, "float32")


def below(log_weights: np.ndarray) -> np.ndarray:
    """`log 1/K sum_k w_k`: of weights of `K` chains from the marginal. Shapes `(K, n)` to `(n,)`."""
    return logsumexp(log_weights, axis=0) - math.log(len(log_weights))


def above(log_weights: np.ndarray) -> np.ndarray:
    """`-log 1/K sum_k 1/w_k`: of weights of `K` chains from the posterior. Shapes `(K, n)` to `(n,)`."""
    return -below(-log_weights)
