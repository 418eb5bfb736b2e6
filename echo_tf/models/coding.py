"""What a rate-distortion model does once it is trained: codes of examples, and examples of codes."""

import numpy as np
from keras import ops

from echo_tf.echo.checks import Tensor, check_count
from echo_tf.models.distortions import decoded_mean
from echo_tf.models.examples import check_examples
from echo_tf.models.passing import Passing
from echo_tf.models.refusals import check_codes


class Coding(Passing):
    """What a model gives outside of its training."""

    def refresh_channel(self, x: np.ndarray) -> None:
        """Renew what the channel stores about the training data, from training examples; some 10,000 of them.

        Raises `ValueError` as `features`, and for fewer than two.
        """
        if self.channel.has_memory:
            self.channel.adapt(self.features(x))

    def features(self, x: np.ndarray) -> np.ndarray:
        """Output of the encoder. Raises `ValueError` for examples that encoder or distortion is not made for."""
        x = np.asarray(x)
        check_examples(x, self.encoder, self.distortion)
        if not self.built:  # the channel is not called, only its methods are
            self.build((None, *x.shape[1:]))
        return self.encoder.predict(x, verbose=0)

    def encode(self, x: np.ndarray) -> np.ndarray:
        """One draw of `z` for each example. Shape `(n, dim)`. Raises `ValueError` as `features`."""
        return ops.convert_to_numpy(self.channel.draw(self.features(x)).z)

    def distortion_of(self, z: Tensor, x: np.ndarray) -> np.ndarray:
        """`-log p(x|z)` in nats of examples with given `z`, which may be that of another one. Shape `(n,)`.

        Raises `ValueError` for examples that encoder or distortion is not made for, and another number of `z`.
        """
        z, x = ops.convert_to_numpy(z), np.asarray(x)
        check_codes(z, self.channel)
        check_examples(x, self.encoder, self.distortion)
        if len(z) != len(x):
            raise ValueError(f"Expected a `z` for each example. Received: {len(z)} for {len(x)}")
        parameters = self.decoder.predict([z, x] if self.takes_example else z, verbose=0)
        return ops.convert_to_numpy(self.distortion(x, parameters))

    def decode(self, z: Tensor) -> np.ndarray:
        """`E[x|z]` for given `z`: probabilities of Bernoulli pixels. The shape of the examples.

        A decoder that takes the example has no `E[x|z]` in closed form. It gives a draw of `p(x|z)`, made pixel by pixel;
        `reconstruct` then averages draws, and `generate` gives draws.
        """
        z = ops.convert_to_numpy(z)
        check_codes(z, self.channel)
        if self.takes_example:
            return self.decoder.sample(z)
        return ops.convert_to_numpy(decoded_mean(self.distortion, self.decoder.predict(z, verbose=0)))

    def reconstruct(self, x: np.ndarray, samples: int = 10) -> np.ndarray:
        """`E[x|z]` averaged over `samples` draws of `z` (10 in the paper). The shape of `x`. Raises as `features`."""
        check_count(samples, "samples")
        z = self.channel.draw(np.repeat(self.features(x), samples, axis=0)).z
        means = self.decode(z)
        return means.reshape(len(x), samples, *means.shape[1:]).mean(axis=1)

    def generate(self, n: int) -> np.ndarray:
        """`E[x|z]` of `n` draws of `z` from the marginal.

        For Echo these are draws of its noise, whose law is the exact marginal. Raises `ValueError` if it is untrained.
        """
        if self.prior is None:
            return self.decode(self.channel.sample_marginal(n))
        return self.decode(self.prior.latent(n, self.channel, self.components()))
