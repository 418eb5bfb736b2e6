import keras
import numpy as np
import pytest
from keras import ops

from echo_tf.echo.dense import EchoDense
from echo_tf.echo.matrix_dense import MatrixEchoDense
from echo_tf.experiments.evaluation import evaluate
from echo_tf.models.autoencoder import RateDistortionModel
from echo_tf.models.build import build_gaussian_phase, build_model
from echo_tf.models.channels import GaussianChannel
from echo_tf.models.config import load_config
from echo_tf.models.gaussian_echo import GaussianEcho, with_gaussian_noise
from echo_tf.models.losses import gaussian_log_density

DIM, FEATURES = 3, 5
SMALL = {"network": {"latent_dim": DIM}, "channel": {"d_max": 9}, "flow": {"hidden_units": 8, "hidden_layers": 1, "steps": 2}}


def features(n=4_000, seed=0):
    return np.random.default_rng(seed).normal(size=(n, FEATURES)).astype("float32")


@pytest.fixture(scope="module", params=["diagonal", "triangular"])
def channels(request):
    """An Echo channel with random heads, and the Gaussian one that matches it."""
    echo = (EchoDense if request.param == "diagonal" else MatrixEchoDense)(DIM, d_max=99, reservoir_size=4_000, seed=0)
    echo.build((None, FEATURES))
    if request.param == "triangular":
        echo.below_head.kernel.assign(np.random.default_rng(1).normal(0.0, 0.3, echo.below_head.kernel.shape))
    gaussian = GaussianEcho(echo, seed=0)
    gaussian.match(features())
    echo.adapt(features())
    return echo, gaussian


def test_noise_has_the_mean_and_the_covariance_of_echoes(channels):
    echo, gaussian = channels
    draws = echo.noise_samples(features(), 20_000, 1_000)
    factor = ops.convert_to_numpy(gaussian.noise_factor)
    se = draws.std(axis=0) / np.sqrt(len(draws))
    assert np.all(np.abs(draws.mean(axis=0) - ops.convert_to_numpy(gaussian.noise_mean)) < 5 * se)
    products = (draws - draws.mean(axis=0))[:, :, None] * (draws - draws.mean(axis=0))[:, None, :]
    se = products.std(axis=0) / np.sqrt(len(draws))
    assert np.all(np.abs(products.mean(axis=0) - factor @ factor.T) < 5 * se)


def test_output_is_white_and_has_the_rate_of_echo(channels):
    """Averaged over the data that were matched; for any other channel the two rates differ."""
    echo, gaussian = channels
    z, rate = gaussian(np.repeat(features(), 5, axis=0), return_rate=True)
    z = ops.convert_to_numpy(z)
    assert np.abs(z.mean(axis=0)).max() < 5 / np.sqrt(len(z))
    assert np.abs(np.cov(z, rowvar=False) - np.eye(DIM)).max() < 5 * np.sqrt(2 / len(z))
    expected = ops.mean(ops.sum(echo.rate_per_dimension(features()), axis=-1))
    assert float(ops.mean(rate)) == pytest.approx(float(expected), rel=1e-3)
    assert ops.convert_to_numpy(rate).std() > 0.01  # of single examples it is not


def test_density_is_that_of_the_draws(channels):
    _, gaussian = channels
    draw = gaussian.draw(features(200))
    mean, log_sd, factor = map(ops.convert_to_numpy, gaussian.statistics(features(200)))
    noise = np.linalg.solve(factor, (ops.convert_to_numpy(draw.z) - mean)[..., None])[..., 0]
    expected = ops.convert_to_numpy(gaussian_log_density(noise, 0.0, 0.0)) - np.linalg.slogdet(factor)[1]
    np.testing.assert_allclose(ops.convert_to_numpy(draw.density.at_draw), expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(np.log(np.diagonal(factor, axis1=1, axis2=2)), log_sd, atol=1e-4)


def test_training_standardises_by_the_batch_and_renormalising_by_what_is_stored(channels):
    gaussian = GaussianEcho(channels[0], seed=0)
    gaussian.match(features())
    shifted = features(500) + 1.0  # other features than were matched
    z = [ops.convert_to_numpy(gaussian(np.repeat(shifted, 20, axis=0), training=True))]
    gaussian.renormalise()
    gaussian.match(features())
    stored = ops.convert_to_numpy(gaussian.standardiser.mean)
    z.append(ops.convert_to_numpy(gaussian(np.repeat(shifted, 20, axis=0), training=True)))
    assert np.abs(z[0].mean(axis=0)).max() < 0.06
    assert np.abs(z[0].var(axis=0) - 1.0).max() < 0.06
    assert np.abs(z[1].mean(axis=0)).max() > 0.1
    shift = z[0].mean(axis=0) - z[1].mean(axis=0)  # a batch moves what is stored, but does not take its place
    assert 0 < np.abs(ops.convert_to_numpy(gaussian.standardiser.mean) - stored).max() < np.abs(shift).max()


@pytest.mark.parametrize(
    "echo", [GaussianChannel(DIM), EchoDense(DIM, parametrisation="literal"), EchoDense(DIM, multiplicative=True)]
)
def test_channels_that_cannot_be_made_gaussian(echo):
    with pytest.raises(ValueError, match="`echo`"):
        GaussianEcho(echo)


def test_feature_maps_are_refused():
    with pytest.raises(ValueError, match="Flatten"):
        GaussianEcho(EchoDense(DIM)).build((None, 4, 4, FEATURES))


def test_rate_that_is_reported_is_the_model_s_own():
    """The Echo channel inside has a weight, and would show its rate too, which nobody updates."""
    x = np.random.default_rng(0).normal(size=(100, 6)).astype("float32")
    model = RateDistortionModel(*networks(), GaussianEcho(MatrixEchoDense(DIM, d_max=9), seed=0), distortion="gaussian")
    model.compile()
    model.refresh_channel(x)
    found = model.evaluate(x, verbose=0, return_dict=True)
    assert found["rate"] == pytest.approx(found["loss"] - found["distortion"], rel=1e-4)
    copy = GaussianEcho.from_config(config := model.channel.get_config())
    assert copy.get_config() == config == model.channel.get_config()


def networks():
    encoder = keras.Sequential([keras.Input((6,)), keras.layers.Dense(FEATURES, "tanh")])
    return encoder, keras.Sequential([keras.Input((DIM,)), keras.layers.Dense(6)])


def test_twin_reconstructs_as_the_model_did_and_is_saved(tmp_path):
    x = np.random.default_rng(0).normal(size=(2_000, 6)).astype("float32")
    model = RateDistortionModel(*networks(), MatrixEchoDense(DIM, rate_weight=None, d_max=19, seed=0), distortion="gaussian")
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(x, batch_size=100, epochs=2, verbose=0)
    twin = with_gaussian_noise(model, x, None, seed=0)
    measured = [evaluate(one, x, batch_size=500, passes=4) for one in (model, twin)]
    for quantity in ("rate", "distortion"):
        before, after = (getattr(one, quantity) for one in measured)
        se = np.hypot(before.mean(axis=1).std(ddof=1), after.mean(axis=1).std(ddof=1)) / 2 + 0.01
        assert abs(before.mean() - after.mean()) < 5 * se
    twin.save(tmp_path / "twin.keras")
    loaded = keras.saving.load_model(tmp_path / "twin.keras")
    for quantity in ("rate", "parameters"):
        np.testing.assert_allclose(*(one.predict(x[:20], verbose=0)[quantity] for one in (twin, loaded)), rtol=1e-5, atol=1e-5)


def test_second_phase_goes_on_from_the_first():
    config = load_config("echo_maf", **SMALL, training={"epochs": 4, "batch_size": 20})
    x = np.random.default_rng(0).uniform(size=(60, 6)).astype("float32")
    model = build_model(config, (6,), steps_per_epoch=3)
    assert model.prior is None and not model.channel.has_density
    model.fit(x, batch_size=20, epochs=2, verbose=0)
    twin = build_gaussian_phase(model, config, x, steps_per_epoch=3)
    assert int(twin.optimizer.iterations) == 6
    assert float(twin.optimizer.learning_rate) == pytest.approx(float(model.optimizer.learning_rate))
    momentum = {v.path.partition("/")[2]: ops.convert_to_numpy(v) for v in model.optimizer.variables}
    kept = {v.path.partition("/")[2]: ops.convert_to_numpy(v) for v in twin.optimizer.variables}
    assert momentum.keys() < kept.keys()
    for path, value in momentum.items():
        np.testing.assert_array_equal(kept[path], value, err_msg=path)
    z = ops.convert_to_tensor(features(10)[:, :DIM])
    np.testing.assert_allclose(twin.prior.flow(z)[0], z, atol=1e-6)  # the flow starts as the identity
