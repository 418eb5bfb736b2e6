"""The rate-distortion autoencoder and its construction from a configuration."""

import dataclasses
import logging
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from echo_tf.distribution import SeedGenerator, replica_count
from echo_tf.echo.layers_old import EchoDense
from echo_tf.models.channels import Draw, GaussianChannel, IAFChannel
from echo_tf.models.config import Config, config_from_dict, load_config
from echo_tf.models.losses import (
    bernoulli_distortion,
    constrained_beta,
    dimension_bandwidth,
    gaussian_log_density,
    kernel_is_constant,
    median_bandwidth,
    mmd,
)
from echo_tf.models.networks import DECODERS, ENCODERS, IMAGE_SHAPE
from echo_tf.models.priors import MAFPrior, VampPrior
from echo_tf.models.schedules import make_optimizer

logger = logging.getLogger(__name__)

Tensor = Any

# Training images whose moments become the constants of an Echo channel: enough that their sampling error does not count.
REFRESH_IMAGES = 10_000

# Added to the seed of a configuration, so that prior and penalty do not draw the very numbers of the channel's noise.
PRIOR_SEED, PENALTY_SEED = 1_000_000, 2_000_000


@keras.saving.register_keras_serializable(package="echo_tf")
class RateDistortionModel(keras.Model):
    """Autoencoder with a noisy channel, trained on `E[distortion + beta * rate]`, plus a penalty if the configuration has one.

    Under a constraint (`ConstraintConfig`) beta changes in training until rate or distortion are at their target. With a pool
    (`channel.pool`), training batches hold `batch_size + pool` images, of which the last `pool` are only encoded.

    `fit`, `evaluate` and `predict` take images alone. Metrics: `loss`, and `rate` and `distortion` in nats per example,
    without beta. Calling the model, and `predict`, give a dictionary of `z` `(n, dim)`, `logits` `(n, 28, 28, 1)`,
    `rate` `(n,)` and, for channels with a density, `log_ratio` `(n,)`: `log q(z|x) - log p(z)` at this very `z`, where the
    rate is exact or averaged as far as formulas go.

    Args:
        config: The `Config`, or its dictionary.

    Source: paper, equation 8 (objective) and section 5 (Bernoulli decoder).

    Example:
        >>> model = build_model("echo")
        >>> outputs = model.predict(np.zeros((100, 28, 28, 1), "float32"), batch_size=100, verbose=0)
        >>> {name: values.shape for name, values in sorted(outputs.items())}
        {'logits': (100, 28, 28, 1), 'rate': (100,), 'z': (100, 32)}
    """

    def __init__(self, config: Config | dict, **kwargs):
        config = config if isinstance(config, Config) else config_from_dict(config)
        # The networks alone follow the dtype policy; images, channel and losses are float32.
        super().__init__(dtype="float32", **kwargs)
        self.config = config
        network, policy = config.network, config.training.dtype_policy
        self.encoder = ENCODERS[network.encoder](dtype=policy)
        self.decoder = DECODERS[network.decoder](network.latent_dim, dtype=policy)
        self.channel = _make_channel(config)
        self.prior = _make_prior(config)
        self.penalty_seed_generator = SeedGenerator(config.seed + PENALTY_SEED)
        self.rate_metric = keras.metrics.Mean(name="rate")
        self.distortion_metric = keras.metrics.Mean(name="distortion")
        if config.mmd.weight:
            self.mmd_metric = keras.metrics.Mean(name="mmd")
            _warn_of_constant_kernel(config)

    def build(self, input_shape=None):
        self.channel.build(self.encoder.output_shape)
        if self.prior is not None:
            self.prior.build()
        self.beta = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(self.config.beta),
            trainable=False,
            aggregation="mean",  # of what replicas make of it
            name="beta",
        )
        self.penalty_weight = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(self.config.mmd.weight), trainable=False, name="penalty_weight"
        )

    def call(self, inputs, training=None):
        inputs, pool = self._split_pool(inputs) if training and self.config.channel.pool else (inputs, None)
        features = self.encoder(inputs, training=training)
        if isinstance(self.channel, EchoDense):
            pool = None if pool is None else self.encoder(pool, training=training)  # the channel stops its gradient
            z, rate = self.channel(features, return_rate=True, training=training, pool=pool)
            return {"z": z, "logits": self.decoder(z, training=training), "rate": rate}
        draw = self.channel.draw(features)
        log_marginal = self.log_marginal(draw)
        rate = self.channel.rate(draw) if self.prior is None else draw.expected_log_density - log_marginal
        return {
            "z": draw.z,
            "logits": self.decoder(draw.z, training=training),
            "rate": rate,
            "log_ratio": draw.log_density - log_marginal,
        }

    def _split_pool(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Images to train on, and those behind them that only serve as echoes."""
        batch, pool = self.config.training.batch_size, self.config.channel.pool
        count = ops.shape(inputs)[0] * batch // (batch + pool)  # in proportion, should a dataset have other batches
        return inputs[:count], inputs[count:]

    def log_marginal(self, draw: Draw) -> Tensor:
        """Log density of `draw.base` if `z` has the law of the marginal, `log p(z) + log |det dz/dbase|`, nats. Not for Echo.

        The components of a VampPrior pass through the same flow as the draw: their densities are those before it.
        """
        if self.prior is None:
            return gaussian_log_density(draw.z, 0.0, 0.0) + draw.log_det
        if isinstance(self.prior, VampPrior):
            return self.prior.log_prob(draw.base, *self._components())
        return self.prior.log_prob(draw.z) + draw.log_det

    def _components(self) -> tuple[Tensor, Tensor]:
        """Means and log variances of the components of a VampPrior."""
        return self.channel.statistics(self.encoder(ops.convert_to_tensor(self.prior.pseudo_inputs)))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        _refuse_weights(sample_weight)
        distortion = bernoulli_distortion(x[: ops.shape(y_pred["rate"])[0]], y_pred["logits"])  # the rest is a pool
        self.rate_metric.update_state(y_pred["rate"])
        self.distortion_metric.update_state(distortion)
        beta = self._constrained_beta(y_pred["rate"], distortion) if training and self._is_constrained else self.beta
        loss = ops.mean(distortion + beta * y_pred["rate"])
        if self.config.mmd.weight:
            discrepancy = self._discrepancy(y_pred["z"])
            self.mmd_metric.update_state(discrepancy)
            loss = loss + self.penalty_weight * discrepancy
        return loss / replica_count()  # Keras sums losses and gradients of replicas

    @property
    def _is_constrained(self) -> bool:
        return self.config.constraint.quantity != "none"

    def _constrained_beta(self, rate: Tensor, distortion: Tensor) -> Tensor:
        """Weight of the rate in this step; changes `beta` for the next."""
        constraint = self.config.constraint
        nats = ops.mean({"rate": rate, "distortion": distortion}[constraint.quantity])
        weight, following = constrained_beta(self.beta, constraint.quantity, nats, constraint.target_nats, constraint.gain)
        self.beta.assign(following)
        return weight

    def _discrepancy(self, z: Tensor) -> Tensor:
        options = self.config.mmd
        prior = keras.random.normal(ops.shape(z), seed=self.penalty_seed_generator)
        squared_bandwidth = median_bandwidth(prior) if options.bandwidth == "median" else _constant_bandwidth(self.config)
        return mmd(z, prior, squared_bandwidth, unbiased=options.unbiased)

    def fit(self, x=None, y=None, batch_size=None, *args, callbacks=None, **kwargs):
        """`keras.Model.fit`, after which the stored constants of the Echo channel are those of the final parameters.

        They are also renewed for each validation, which leaves no trace in the training. From a generator, which cannot be
        read a second time, they stay the running ones of the last training steps; `refresh_channel` renews them. The
        pseudo-inputs of a VampPrior are set to training images before the first training.

        Raises:
            ValueError: a generator for a VampPrior that has not been started; an array that is not whole batches, for a model
                with a pool; `sample_weight`.
        """
        _refuse_weights(kwargs.get("sample_weight"))  # Keras drops weights that come without targets
        data = x
        if hasattr(x, "shape"):
            data = x[: math.floor(len(x) * (1.0 - kwargs.get("validation_split", 0.0)))]  # as Keras splits it
            self._check_whole_batches(len(data), batch_size)
        if isinstance(self.prior, VampPrior) and not ops.convert_to_numpy(self.prior.started) > 0:
            self._start_prior(data)
        callbacks = callbacks if isinstance(callbacks, list | tuple) else [c for c in (callbacks,) if c]
        return super().fit(x, y, batch_size, *args, callbacks=[_RefreshChannel(data), *callbacks], **kwargs)

    def _check_whole_batches(self, count: int, batch_size: int | None) -> None:
        pool = self.config.channel.pool
        whole = self.config.training.batch_size + pool
        if pool and (batch_size != whole or count % whole):
            raise ValueError(
                f"With a pool (channel.pool) a batch is batch_size + pool = {whole} images. Pass batch_size={whole} and a "
                f"multiple of as many training images. Received: {count} images, batch_size={batch_size}"
            )

    def _start_prior(self, data: Any) -> None:
        if hasattr(data, "__next__"):
            raise ValueError(
                "The pseudo-inputs of a VampPrior start from training images, which a generator gives only once. Call "
                "model.prior.start_from(images) before fit, or pass an array or a dataset."
            )
        # Of an array, which may be sorted, all; a dataset is taken to be shuffled.
        images = ops.convert_to_numpy(data) if hasattr(data, "shape") else some_images(data, REFRESH_IMAGES)
        if self.config.prior.start == "mean":
            self.prior.start_from_mean(images, self.config.prior.start_noise)
        else:
            self.prior.start_from(images)

    def start_from(self, trained: "RateDistortionModel") -> None:
        """Take over the trainable weights of a model of the same architecture."""
        for weight, value in zip(self.trainable_variables, trained.trainable_variables, strict=True):
            weight.assign(value)
        if isinstance(self.prior, VampPrior):
            self.prior.started.assign(trained.prior.started)

    def refresh_channel(self, images: np.ndarray) -> None:
        """Renew what the channel stores about the training set (Echo; others store nothing).

        Args:
            images: Training images, shape `(n, 28, 28, 1)` in [0, 1]; some 10,000, see `EchoDense.adapt`.
        """
        if isinstance(self.channel, EchoDense):
            self.channel.adapt(self._features(images))

    def encode(self, x: np.ndarray) -> np.ndarray:
        """One draw of `z` for each image. Shape `(n, dim)`."""
        return ops.convert_to_numpy(self.channel(self._features(x)))

    def decode(self, z: Tensor) -> np.ndarray:
        """Pixel probabilities for given `z`. Shape `(n, 28, 28, 1)`."""
        return ops.convert_to_numpy(ops.sigmoid(self.decoder.predict(ops.convert_to_numpy(z), verbose=0)))

    def reconstruct(self, x: np.ndarray, samples: int = 10) -> np.ndarray:
        """Pixel probabilities averaged over `samples` draws of `z` (10 in the paper). Shape `(n, 28, 28, 1)`."""
        features = self._features(x)
        return np.mean([self.decode(self.channel(features)) for _ in range(samples)], axis=0)

    def generate(self, n: int) -> np.ndarray:
        """Pixel probabilities of `n` images decoded from the channel's marginal. Shape `(n, 28, 28, 1)`.

        For Echo these are draws of its noise, whose law is the exact marginal. Raises `ValueError` if it is untrained.
        """
        if self.prior is None:
            return self.decode(self.channel.sample_marginal(n))
        if isinstance(self.prior, VampPrior):
            return self.decode(self.channel.transform(self.prior.sample(n, *self._components())))
        return self.decode(self.prior.sample(n))

    def _features(self, images: np.ndarray) -> np.ndarray:
        return self.encoder.predict(np.asarray(images), verbose=0)

    @property
    def _named_generators(self) -> dict[str, keras.random.SeedGenerator]:
        generators = {"channel": self.channel.seed_generator, "penalty": self.penalty_seed_generator}
        return generators if self.prior is None else {**generators, "prior": self.prior.seed_generator}

    def save_own_variables(self, store):
        # Training sets the weight of the penalty anew in every epoch.
        store["beta"] = ops.convert_to_numpy(self.beta)
        # Keras saves no state of seed generators; with it a training that is resumed draws the noise that it would have.
        for name, generator in self._named_generators.items():
            store[f"seed_state_{name}"] = ops.convert_to_numpy(generator.state)

    def load_own_variables(self, store):
        self.beta.assign(store["beta"][()])
        for name, generator in self._named_generators.items():
            generator.state.assign(store[f"seed_state_{name}"][()])

    def get_config(self):
        return {"config": dataclasses.asdict(self.config)}


def _make_channel(config: Config) -> keras.layers.Layer:
    channel, units = config.channel, config.network.latent_dim
    if channel.kind == "echo":
        return EchoDense(
            units,
            rate_weight=None,  # the rate enters the objective in compute_loss
            d_max=channel.d_max,
            sampler=channel.sampler,
            replace=channel.replace,
            parametrisation=channel.parametrisation,
            mean_scale=channel.mean_scale,
            seed=config.seed,
        )
    if channel.kind == "gaussian":
        return GaussianChannel(units, shared_noise=channel.shared_noise, seed=config.seed)
    options = {"context_units": channel.context_units, "shared_noise": channel.shared_noise, "seed": config.seed}
    iaf = IAFChannel(units, **_flow_options(config), **options)
    iaf.flow.trainable = config.flow.trainable
    return iaf


def _make_prior(config: Config) -> keras.layers.Layer | None:
    if config.prior.kind == "own":
        return None
    seed = config.seed + PRIOR_SEED
    if config.prior.kind == "vamp":
        return VampPrior(config.prior.components, IMAGE_SHAPE, average=config.prior.average, seed=seed)
    maf = MAFPrior(config.network.latent_dim, **_flow_options(config), seed=seed)
    maf.flow.trainable = config.flow.trainable
    return maf


def _flow_options(config: Config) -> dict:
    flow = config.flow
    return {"steps": flow.steps, "hidden": (flow.hidden_units,) * flow.hidden_layers, "scale": flow.scale}


def _refuse_weights(sample_weight: Any) -> None:
    if sample_weight is not None:
        raise ValueError("A RateDistortionModel takes no sample_weight. Let examples occur as often as they shall weigh.")


def _constant_bandwidth(config: Config) -> float:
    """`h^2` of the rules that do not depend on draws."""
    if config.mmd.bandwidth == "fixed":
        return config.mmd.fixed_bandwidth**2
    return dimension_bandwidth(config.network.latent_dim)


def _warn_of_constant_kernel(config: Config) -> None:
    dim = config.network.latent_dim
    if config.mmd.bandwidth != "median" and kernel_is_constant(_constant_bandwidth(config), dim):
        logger.warning(
            "The bandwidth %g of the MMD kernel makes it constant in float32 for outputs that are as far apart as draws of the "
            "prior in %d dimensions, about %.1f: the penalty has no gradient then. Use mmd.bandwidth: median.",
            _constant_bandwidth(config) ** 0.5,
            dim,
            (2.0 * dim) ** 0.5,
        )


class _RefreshChannel(keras.callbacks.Callback):
    """Renew the constants of the channel for each validation and at the end of training.

    After a validation all is as before it, the states of the noise too, so that a training that is watched goes as one that
    is not.
    """

    def __init__(self, data):
        super().__init__()
        self.data = data

    def on_test_begin(self, logs=None):
        states = [generator.state for generator in self.model._named_generators.values()]
        self.before = [(state, ops.copy(state)) for state in (*self.model.channel.non_trainable_weights, *states)]
        self._refresh()

    def on_test_end(self, logs=None):
        for state, value in self.before:
            state.assign(value)

    def on_train_end(self, logs=None):
        self._refresh()

    def _refresh(self):
        is_generator = hasattr(self.data, "__next__")
        if isinstance(self.model.channel, EchoDense) and not is_generator:
            training = self.model.config.training
            share = training.batch_size / (training.batch_size + self.model.config.channel.pool)
            self.model.refresh_channel(some_images(self.data, REFRESH_IMAGES, share))


def some_images(data: Any, n: int, share: float = 1.0) -> np.ndarray:
    """`n` images of anything that `fit` takes but generators, or all if there are fewer.

    Rows of an array are taken evenly from all of it, as it may be sorted; batches are taken to be shuffled, and the first ones
    serve. Of each batch only the first `share` is taken: a pool behind it holds images that are those of other batches.
    """
    if hasattr(data, "shape"):
        data = data if isinstance(data, np.ndarray) else ops.convert_to_numpy(data)
        return data[np.linspace(0, len(data) - 1, min(n, len(data))).astype(int)]
    images, found = [], 0
    batches = (data[i] for i in range(len(data))) if isinstance(data, keras.utils.PyDataset) else iter(data)
    for batch in batches:
        images.append(ops.convert_to_numpy(batch[0] if isinstance(batch, tuple) else batch))
        images[-1] = images[-1][: round(share * len(images[-1]))]
        found += len(images[-1])
        if found >= n:
            break
    return np.concatenate(images)[:n]


def build_model(config: Config | dict | str, steps_per_epoch: int | None = None) -> RateDistortionModel:
    """Build and compile a model.

    Args:
        config: A `Config`, its dictionary, or the name of a method (`"echo"`, `"vae"`).
        steps_per_epoch: Integer; with it Adam follows the schedule of the configuration, without it the learning rate is
            constant.

    Returns:
        A compiled `RateDistortionModel` with its weights built. What the configuration says of the course of a training,
        `channel.renormalise_at`, `mmd.warmup` and `training.beta_warmup`, is the work of `training.train`: under `fit` alone
        the weights of rate and penalty are at their full value from the first step.

    Raises:
        ConfigError: as `load_config`.
    """
    if isinstance(config, str):
        config = load_config(config)
    model = RateDistortionModel(config)
    model.build((None, *IMAGE_SHAPE))
    model.compile(optimizer=make_optimizer(model.config.training, steps_per_epoch))
    return model
