"""Annealed importance sampling: `log p(x)` of a decoder and a marginal, from below and, for drawn examples, from above.

A chain moves from a law `q(z)` that can be drawn from to the posterior. Between them stand
`p_t(z) = q(z)^(1 - beta_t) [p(z) p(x|z)]^beta_t`, `0 = beta_0 < ... < beta_T = 1`. It begins with a draw of `q` and moves so
that each `p_t` in its turn stays what it is. Its weight
`w = prod_t [p(z_{t-1}) p(x|z_{t-1}) / q(z_{t-1})]^(beta_t - beta_{t-1})` has the expectation `p(x)`, so that
`E log w <= log p(x)`. A chain that begins with a draw of the posterior and goes the other way has `E 1/w = 1/p(x)`, and bounds
from above; such a draw is known for an example that was made from it.

Both hold for any `q`; the closer it is to the posterior, the shorter a chain may be. Here it is a Gaussian with mean and
covariance of what the encoder sends for the example.

Source: Neal 2001 (annealing); Grosse et al. 2015 (both directions); Wu et al. 2017 and Huang et al. 2020 (decoders).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops
from scipy.special import expit, logsumexp

from echo_tf.echo.checks import Tensor
from echo_tf.echo.matrix import product
from echo_tf.models.losses import gaussian_log_density

STEEPNESS = 4.0  # of the schedule; Wu et al. 2017
LEAPFROGS = 3  # steps of a trajectory: for 2 to 6 of them the gap is that of the number of steps in all
ACCEPTANCE = 0.8  # a common aim of Hamiltonian moves
FIRST_STEP = 0.5


@dataclass(frozen=True)
class Latents:
    """A marginal with a density, and a decoder behind it.

    Attributes:
        draw: `n -> (n, dim)`, draws from the marginal.
        log_density: `(n, dim) -> (n,)`, its log density in nats.
        decode: From such draws to parameters of `p(x|z)`.
    """

    draw: Callable[[int], Tensor]
    log_density: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]


class Start(NamedTuple):
    """Gaussians that chains start from, one for each example: `z = mean + factor u`, `u ~ N(0, I)`.

    Attributes:
        mean: Shape `(n, dim)`.
        factor: Lower-triangular, its diagonal positive. Shape `(n, dim, dim)`.
    """

    mean: Tensor
    factor: Tensor

    @classmethod
    def of(cls, draws: np.ndarray) -> "Start":
        """The Gaussians with the moments of given draws, shape `(draws, n, dim)`, `draws > dim`."""
        centred = draws - (mean := draws.mean(axis=0, dtype=np.float64))
        covariance = np.einsum("kni,knj->nij", centred, centred) / (len(draws) - 1)
        return cls(_tensor(mean), _tensor(np.linalg.cholesky(covariance)))

    def coordinates(self, z: Tensor) -> Tensor:
        """The `u` of given `z`, shape `(n, dim)`."""
        return ops.solve_triangular(self.factor, (z - self.mean)[..., None], lower=True)[..., 0]


class State(NamedTuple):
    """Where chains are: `u`; `log p(x, u)` there, the density of `z` in these coordinates; and its gradient."""

    u: Tensor
    log_joint: Tensor
    gradient: Tensor

    @property
    def log_ratio(self) -> Tensor:
        """`log p(x, u) - log N(u; 0, I)`: what weights are made of. Shape `(n,)`."""
        return self.log_joint - gaussian_log_density(self.u, 0.0, 0.0)

    def energy(self, beta: Tensor) -> Tensor:
        """`log p_t(u)`, shape `(n,)`."""
        return (1.0 - beta) * gaussian_log_density(self.u, 0.0, 0.0) + beta * self.log_joint

    def force(self, beta: Tensor) -> Tensor:
        """Its gradient, shape `(n, dim)`."""
        return beta * self.gradient - (1.0 - beta) * self.u


def temperatures(count: int) -> np.ndarray:
    """`beta_0 = 0, ..., beta_count = 1`, by a sigmoid: close together at both ends. Shape `(count + 1,)`."""
    ends = expit(STEEPNESS * np.linspace(-1.0, 1.0, count + 1))
    return (ends - ends[0]) / (ends[-1] - ends[0])


class Annealer:
    """Annealed importance sampling for one decoder and one marginal.

    Args:
        latents: The two.
        distortion: `(x, parameters) -> -log p(x|z)` in nats, shape `(n,)`.
        count: Integer >= 1, number of temperatures.
    """

    def __init__(self, latents: Latents, distortion: Callable, count: int):
        import tensorflow as tf

        self.latents, self.distortion, self.betas = latents, distortion, temperatures(count)
        self.steps = np.full(count, FIRST_STEP)  # of the moves at beta_0, beta_1, ...: there is none at 1
        self._at = tf.function(self._state, reduce_retracing=True)
        self._move = tf.function(self._moved, reduce_retracing=True)

    def _state(self, x: Tensor, start: Start, u: Tensor) -> State:
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(u)
            z = start.mean + product(start.factor, u)
            log_joint = self.latents.log_density(z) - self.distortion(x, self.latents.decode(z))
        log_det = ops.sum(ops.log(ops.diagonal(start.factor, axis1=-2, axis2=-1)), axis=-1)
        return State(u, log_joint + log_det, tape.gradient(log_joint, u))

    def _moved(self, x: Tensor, start: Start, state: State, beta: Tensor, step: Tensor) -> tuple[State, Tensor]:
        """Chains after one Hamiltonian move at a temperature, and the share of trajectories that were accepted.

        A move draws a momentum, follows the gradient for some leapfrog steps, and is accepted or not.

        Args:
            x, start: Examples, and where their chains start.
            state: Where the chains are.
            beta: Scalar, the inverse temperature.
            step: Scalar, the most that a leapfrog step has. Each chain takes a random share of it, as trajectories of one
                length may end where they began.

        Source: Neal 2011.
        """
        step = step * keras.random.uniform((ops.shape(state.u)[0], 1), 0.5, 1.0)
        new, momentum = state, keras.random.normal(ops.shape(state.u))
        before = state.energy(beta) - 0.5 * ops.sum(ops.square(momentum), axis=-1)
        for _ in range(LEAPFROGS):
            momentum = momentum + 0.5 * step * new.force(beta)
            new = self._state(x, start, new.u + step * momentum)
            momentum = momentum + 0.5 * step * new.force(beta)
        after = new.energy(beta) - 0.5 * ops.sum(ops.square(momentum), axis=-1)
        yes = ops.log(keras.random.uniform(ops.shape(before))) < after - before  # not where that is NaN
        kept = (ops.where(yes if old.shape.rank == 1 else yes[:, None], now, old) for now, old in zip(new, state, strict=True))
        return State(*kept), ops.mean(ops.cast(yes, "float32"))

    def tune(self, x: np.ndarray, start: Start) -> np.ndarray:
        """Set the size of the moves at every temperature, from chains of given examples, which are not to be measured.

        Sizes are constant afterwards, since weights are only right for moves that do not look at where a chain has been.

        Returns:
            Share of accepted proposals at every temperature.
        """
        x, state = self._started(x, start)
        rates, step = np.empty(len(self.steps)), self.steps[0]
        for t, beta in enumerate(self.betas[:-1]):
            state, share = self._move(x, start, state, _tensor(beta), _tensor(step))
            rates[t] = float(share)
            step *= math.exp(np.clip(rates[t] - ACCEPTANCE, -0.3, 0.3))
            self.steps[t] = step
        return rates

    def forward(self, x: np.ndarray, start: Start) -> np.ndarray:
        """`log w` of a chain for every example, in expectation at most `log p(x)`. Shape `(n,)`."""
        x, state = self._started(x, start)
        return self._annealed(x, start, state, range(1, len(self.betas)))

    def backward(self, x: np.ndarray, start: Start, z: Tensor) -> np.ndarray:
        """`log w` of chains that begin with draws of the posterior, in expectation at least `log p(x)`. Shape `(n,)`."""
        x = _tensor(x)
        state = self._at(x, start, start.coordinates(_tensor(z)))
        return self._annealed(x, start, state, range(len(self.betas) - 1, 0, -1))

    def _started(self, x: np.ndarray, start: Start) -> tuple[Tensor, State]:
        x = _tensor(x)
        return x, self._at(x, start, keras.random.normal(ops.shape(start.mean)))

    def _annealed(self, x: Tensor, start: Start, state: State, order: range) -> np.ndarray:
        """Weights of chains that cross the temperatures, one after the other from `order[0]` on."""
        total = np.zeros(len(x))
        for t in order:
            total += (self.betas[t] - self.betas[t - 1]) * ops.convert_to_numpy(state.log_ratio)
            if t != order[-1]:
                between = t if order.step > 0 else t - 1  # the law between this part of the weight and the next
                state, _ = self._move(x, start, state, _tensor(self.betas[between]), _tensor(self.steps[between]))
        return total


def _tensor(value: Any) -> Tensor:
    return ops.convert_to_tensor(value, "float32")


def below(log_weights: np.ndarray) -> np.ndarray:
    """`log 1/K sum_k w_k`: of weights of `K` chains from the start. Shapes `(K, n)` to `(n,)`."""
    return logsumexp(log_weights, axis=0) - math.log(len(log_weights))


def above(log_weights: np.ndarray) -> np.ndarray:
    """`-log 1/K sum_k 1/w_k`: of weights of `K` chains from the posterior. Shapes `(K, n)` to `(n,)`."""
    return -below(-log_weights)
