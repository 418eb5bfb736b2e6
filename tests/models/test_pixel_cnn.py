import itertools

import keras
import numpy as np
import pytest

from echo_tf.echo.dense import EchoDense
from echo_tf.errors import ConfigError
from echo_tf.experiments.fitted import measure_looseness
from echo_tf.models.autoencoder import RateDistortionModel
from echo_tf.models.build import build_model
from echo_tf.models.config import load_config
from echo_tf.models.gaussian_echo import with_gaussian_noise
from echo_tf.models.networks import NETWORKS, network_for
from echo_tf.models.pixel_cnn import PixelCNN

SMALL = {"filters": 8, "depth": 2, "kernel": 3, "maps": 2, "units": 8}
TINY = (2, 2, 1)


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def strong(decoder):
    """The decoder with weights so large that what it says is far from even odds."""
    rng = np.random.default_rng(1)
    decoder.set_weights(
        [w if w.dtype != np.float32 else rng.normal(0.0, 0.5, w.shape).astype("float32") for w in decoder.get_weights()]
    )
    return decoder


@pytest.fixture(scope="module")
def tiny():
    return strong(PixelCNN(TINY, 3, seed=0, **SMALL))


@pytest.fixture(scope="module")
def codes():
    return np.random.default_rng(2).normal(size=(2, 3)).astype("float32")


def all_images(shape):
    pixels = int(np.prod(shape))
    return np.array(list(itertools.product((0.0, 1.0), repeat=pixels)), "float32").reshape(-1, *shape)


def log_likelihood(decoder, z, images):
    odds = numpy(decoder([np.tile(z, (len(images), 1)), images])).astype(float)
    return -np.sum(np.logaddexp(0.0, np.where(images == 1, -odds, odds)), axis=(1, 2, 3))


@pytest.mark.parametrize(("shape", "kernel", "depth"), [((5, 4, 1), 3, 2), ((4, 6, 1), 5, 3), ((3, 3, 1), 1, 2)])
def test_a_pixel_sees_those_before_it_and_z(shape, kernel, depth):
    decoder = strong(PixelCNN(shape, 3, **SMALL | {"kernel": kernel, "depth": depth}))
    rng, pixels = np.random.default_rng(0), int(np.prod(shape))
    z, x = rng.normal(size=(1, 3)).astype("float32"), rng.integers(0, 2, (1, *shape)).astype("float32")
    flipped = np.repeat(x.reshape(1, -1), pixels, axis=0)
    flipped[np.diag_indices(pixels)] = 1.0 - flipped[np.diag_indices(pixels)]
    odds = numpy(decoder([np.repeat(z, pixels, 0), flipped.reshape(-1, *shape)])).reshape(pixels, pixels)
    same = numpy(decoder([z, x])).ravel()
    changed = np.abs(odds - same) > 1e-6 * np.abs(same).max()
    assert not np.tril(changed).any()  # pixel i changes nothing at i or before it
    if kernel > 1:
        assert np.diag(changed, 1).reshape(-1)[np.arange(1, pixels) % shape[1] != 0].all()  # the right neighbour
        assert np.diag(changed, shape[1]).all()  # the one below
    else:
        assert not changed[:, 0].any()
    assert np.all(np.abs(numpy(decoder([z + 1.0, x])).ravel() - same) > 1e-4)


def test_all_of_an_8x8_image_is_seen():
    decoder = strong(PixelCNN((8, 8, 1), 2, filters=4, maps=2, units=4))
    z, x = np.zeros((1, 2), "float32"), np.zeros((1, 8, 8, 1), "float32")
    other = x.copy()
    other[0, 0, 1] = 1.0
    assert numpy(decoder([z, x]))[0, 7, 7] != numpy(decoder([z, other]))[0, 7, 7]


def test_probabilities_of_all_images_sum_to_one(tiny, codes):
    for z in codes:
        logs = log_likelihood(tiny, z, all_images(TINY))
        assert np.exp(logs).sum() == pytest.approx(1.0, abs=1e-5)
        assert np.exp(logs).max() > 0.15  # not the even law, of which that would hold for anything


def test_draws_have_the_law_that_the_decoder_says(tiny, codes):
    images, n = all_images(TINY), 4_000
    for z in codes:
        drawn = tiny.sample(np.tile(z, (n, 1)), seed=3)
        found = np.array([(drawn == image).all(axis=(1, 2, 3)).mean() for image in images])
        expected = np.exp(log_likelihood(tiny, z, images))
        assert np.all(np.abs(found - expected) < 5 * np.sqrt(expected * (1 - expected) / n) + 1e-9)


def test_seeds_of_draws(tiny, codes):
    z = np.tile(codes[:1], (50, 1))
    np.testing.assert_array_equal(tiny.sample(z, seed=1), tiny.sample(z, seed=1))
    assert (tiny.sample(z, seed=1) != tiny.sample(z, seed=2)).any()
    assert (tiny.sample(z) != tiny.sample(z)).any()  # of its own generator


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_save_and_load(tmp_path, codes, policy):
    decoder = strong(PixelCNN((3, 4, 1), 3, dtype=policy, **SMALL))
    x = np.random.default_rng(0).integers(0, 2, (2, 3, 4, 1)).astype("float32")
    decoder.save(tmp_path / "decoder.keras")
    loaded = keras.saving.load_model(tmp_path / "decoder.keras")
    odds = decoder([codes, x])
    assert keras.backend.standardize_dtype(odds.dtype) == "float32"
    np.testing.assert_array_equal(numpy(odds), numpy(loaded([codes, x])))
    assert loaded.takes_example and loaded.get_config() == decoder.get_config()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (4, 4, 3)}, r"`shape`.*\(height, width, 1\)"),
        ({"shape": (16,)}, r"`shape`.*\(height, width, 1\)"),
        ({"kernel": 4}, "`kernel`. Expected an odd integer"),
        ({"filters": 0}, "`filters`. Expected an integer >= 1"),
        ({"latent_dim": 0}, "`latent_dim`"),
    ],
)
def test_bad_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        PixelCNN(**{"shape": (4, 4, 1), "latent_dim": 2} | change)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 2, (40, 4, 4, 1)).astype("float32")


@pytest.fixture(scope="module")
def model(images):
    decoder = PixelCNN((4, 4, 1), 2, seed=0, **SMALL)
    encoder = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(4)])
    found = RateDistortionModel(encoder, decoder, EchoDense(2, d_max=9, seed=0))
    found.compile("adam")
    found.fit(images, batch_size=20, epochs=1, verbose=0)
    return found


class TestModel:
    def test_distortion_of_a_given_z(self, model, images):
        outputs = model.predict(images, verbose=0)
        np.testing.assert_allclose(model.distortion_of(outputs["z"], images), outputs["distortion"], rtol=1e-4)

    def test_decodes_by_drawing(self, model, images):
        z = model.encode(images[:3])
        drawn = [model.decode(z), model.generate(3), model.reconstruct(images[:3], samples=1)]
        for found in drawn:
            assert found.shape == (3, 4, 4, 1) and np.isin(found, (0.0, 1.0)).all()
        assert model.reconstruct(images[:3], samples=4).shape == (3, 4, 4, 1)

    def test_save_and_load(self, model, images, tmp_path):
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert loaded.takes_example
        z = model.encode(images)
        np.testing.assert_array_equal(loaded.distortion_of(z, images), model.distortion_of(z, images))

    def test_other_noise_is_refused(self, model, images):
        with pytest.raises(ValueError, match=r"decoder of `z` alone. Received: PixelCNN"):
            with_gaussian_noise(model, images, None, 0)

    def test_its_marginal_can_be_fitted(self, model, images):
        """With Gaussian noise in the place of Echo's, for which no decoder is needed."""
        rates, gains = measure_looseness(model, images, images, steps=1)
        assert rates.shape == gains.shape == (len(images),)

    def test_other_distortions_are_refused(self, model):
        with pytest.raises(ValueError, match=r"`distortion`.*draws pixels of 0 and 1"):
            RateDistortionModel(model.encoder, model.decoder, EchoDense(2, d_max=9), distortion="gaussian")


def test_networks():
    encoder, decoder = NETWORKS["pixelcnn"]((8, 8, 1), 7)
    assert encoder.output_shape == (None, 512) and decoder.output_shape == (None, 8, 8, 1)
    assert network_for("pixelcnn", (28, 28, 1)) == "pixelcnn"
    assert network_for("auto", (8, 8, 1)) == "mlp"
    for shape in ((20,), (8, 8, 3)):
        with pytest.raises(ConfigError, match=r"pixelcnn \(height, width, 1\)\. Received: network.kind=pixelcnn"):
            NETWORKS["pixelcnn"](shape, 7)


def test_configurations():
    model = build_model(load_config("vae_pixelcnn", network={"latent_dim": 2}), (4, 4, 1))
    assert isinstance(model.decoder, PixelCNN)
    with pytest.raises(ConfigError, match=r"distortion.kind.*pixelcnn"):
        load_config("vae_pixelcnn", distortion={"kind": "gaussian"})
    with pytest.raises(ConfigError, match=r"channel.gaussian_at.*pixelcnn"):
        load_config("echo_pixelcnn", channel={"gaussian_at": 0.5})
