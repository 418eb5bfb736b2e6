"""The rate-distortion autoencoder and its construction from a configuration."""

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

from echo_tf.channels import GaussianChannel
from echo_tf.config import Config, config_from_dict, load_config
from echo_tf.echo import EchoDense
from echo_tf.losses import bernoulli_distortion
from echo_tf.networks import DECODERS, ENCODERS, IMAGE_SHAPE
from echo_tf.optimizers import make_optimizer

Tensor = Any

# Training images whose moments become the constants of an Echo channel: enough that their sampling error does not count.
REFRESH_IMAGES = 10_000


@keras.saving.register_keras_serializable(package="echo_tf")
class RateDistortionModel(keras.Model):
    """Autoencoder with a noisy channel, trained on `E[distortion + beta * rate]`.

    `fit`, `evaluate` and `predict` take images alone. Metrics: `loss`, and `rate` and `distortion` in nats per example,
    without beta. Calling the model, and `predict`, give a dictionary of `z` `(n, dim)`, `logits` `(n, 28, 28, 1)` and
    `rate` `(n,)`.

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
        network, channel, policy = config.network, config.channel, config.training.dtype_policy
        self.encoder = ENCODERS[network.encoder](dtype=policy)
        self.decoder = DECODERS[network.decoder](network.latent_dim, dtype=policy)
        if channel.kind == "echo":
            self.channel = EchoDense(
                network.latent_dim,
                rate_weight=None,  # the rate enters the objective in compute_loss
                d_max=channel.d_max,
                sampler=channel.sampler,
                replace=channel.replace,
                parametrisation=channel.parametrisation,
                seed=config.seed,
            )
        else:
            self.channel = GaussianChannel(network.latent_dim, seed=config.seed)
        self.rate_metric = keras.metrics.Mean(name="rate")
        self.distortion_metric = keras.metrics.Mean(name="distortion")

    def build(self, input_shape=None):
        self.channel.build(self.encoder.output_shape)

    def call(self, inputs, training=None):
        features = self.encoder(inputs, training=training)
        z, rate = self.channel(features, return_rate=True, training=training)
        return {"z": z, "logits": self.decoder(z, training=training), "rate": rate}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        distortion = bernoulli_distortion(x, y_pred["logits"])
        self.rate_metric.update_state(y_pred["rate"])
        self.distortion_metric.update_state(distortion)
        return ops.mean(distortion + self.config.beta * y_pred["rate"])

    def fit(self, x=None, *args, callbacks=None, **kwargs):
        """`keras.Model.fit`, after which the stored constants of the Echo channel are those of the final parameters.

        They are also renewed before each validation. From a generator, which cannot be read a second time, they stay the
        running ones of the last training steps; `refresh_channel` renews them.
        """
        callbacks = callbacks if isinstance(callbacks, list | tuple) else [c for c in (callbacks,) if c]
        return super().fit(x, *args, callbacks=[_RefreshChannel(x), *callbacks], **kwargs)

    def refresh_channel(self, images: np.ndarray) -> None:
        """Renew what the channel stores about the training set (Echo; others store nothing).

        Args:
            images: Training images, shape `(n, 28, 28, 1)` in [0, 1]; some 10,000, see `EchoDense.refresh`.
        """
        if isinstance(self.channel, EchoDense):
            self.channel.refresh(self._features(images))

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
        return self.decode(self.channel.sample_marginal(n))

    def _features(self, images: np.ndarray) -> np.ndarray:
        return self.encoder.predict(np.asarray(images), verbose=0)

    def save_own_variables(self, store):
        # Keras saves no state of seed generators; with it a training that is resumed draws the noise that it would have.
        store["seed_state"] = ops.convert_to_numpy(self.channel.seed_generator.state)

    def load_own_variables(self, store):
        self.channel.seed_generator.state.assign(store["seed_state"][()])

    def get_config(self):
        return {"config": dataclasses.asdict(self.config)}


class _RefreshChannel(keras.callbacks.Callback):
    """Renew the constants of the channel before a validation and at the end of training."""

    def __init__(self, data):
        super().__init__()
        self.data = data

    def on_test_begin(self, logs=None):
        self._refresh()

    def on_train_end(self, logs=None):
        self._refresh()

    def _refresh(self):
        is_generator = hasattr(self.data, "__next__")
        if isinstance(self.model.channel, EchoDense) and not is_generator:
            self.model.refresh_channel(first_images(self.data, REFRESH_IMAGES))


def first_images(data: Any, n: int) -> np.ndarray:
    """The first `n` images of anything that `fit` takes but generators, or all if there are fewer."""
    if hasattr(data, "shape"):
        return ops.convert_to_numpy(data[:n])
    images, found = [], 0
    batches = (data[i] for i in range(len(data))) if isinstance(data, keras.utils.PyDataset) else iter(data)
    for batch in batches:
        images.append(ops.convert_to_numpy(batch[0] if isinstance(batch, tuple) else batch))
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
        A compiled `RateDistortionModel` with its weights built.

    Raises:
        ConfigError: as `load_config`.
    """
    if isinstance(config, str):
        config = load_config(config)
    model = RateDistortionModel(config)
    model.build((None, *IMAGE_SHAPE))
    model.compile(optimizer=make_optimizer(model.config.training, steps_per_epoch))
    return model
