"""Loads a data set by name, from a cache of one `.npz` file a set, or the user's own from the path of an `.npz` file."""

import difflib
import os
import re
from pathlib import Path

import numpy as np

from echo_tf.data.dataset import KNOWN, Dataset
from echo_tf.data.prepare import SPECS, first_line, prepare, prepare_dsprites
from echo_tf.data.sprites import DEPENDENT, SIZE, SIZES, all_sprites, factor_dataset
from echo_tf.errors import ConfigError, DataError
from echo_tf.files import zip_damage

# Arrays of the `mnist.npz` of `keras.datasets.mnist`, by the names that they have in a cache.
_OF_KERAS = {"train": "x_train", "train_labels": "y_train", "test": "x_test", "test_labels": "y_test"}

ARRAYS = tuple(f"{split}{kind}" for kind in ("", "_labels") for split in ("train", "validation", "test"))  # of own data


_REMAKE = "Delete or replace the file; it is made anew when it is missing."


def load_dataset(name: str | Path, data_dir: str | Path | None = None, raw_dir: str | Path | None = None) -> Dataset:
    """Load a known data set from its cache, preparing the cache first where it is missing, or own data from a file.

    `digits` ships with scikit-learn: 8x8 grey digits resized to 28x28, the last 360 for testing; `binary_digits` are the same
    at 8x8, with pixels of 0 and 1, cut at half of white. `sprites` is rendered: images
    of all combinations of five factors, whose numbers are its labels (`data.sprites`), a random tenth for testing; so is
    `dsprites`. With `_dependent` behind the name they lack blocks of combinations. All but digits and sprites are read from
    `data_dir/NAME.npz`. If that file does not exist, TensorFlow Datasets prepares the data (downloading them, or from
    `raw_dir` with no network, checksums verified either way) and the file is written. For `mnist`, the grey digits, the file of
    `keras.datasets.mnist`, which has that name, will do in either folder.

    Args:
        name: `"digits"`, `"binary_digits"`, `"binary_mnist"`, `"omniglot"`, `"fashion_mnist"`, `"mnist"`, `"sprites"`,
            `"sprites_dependent"`, `"dsprites"` or `"dsprites_dependent"`; or the path of a file that ends in `.npz`, with
            arrays `train`, `test` and optionally `validation`, `train_labels`, `validation_labels`, `test_labels` as
            `Dataset.from_arrays` takes them. Own data are named after their file.
        data_dir: Folder of the cache. `None`: `$ECHO_TF_DATA`, else `~/.cache/echo_tf`.
        raw_dir: Folder with the published raw files, or `None`.

    Returns:
        The `Dataset`.

    Raises:
        ConfigError: unknown `name`.
        DataError: a file that is damaged or has other contents than expected; data that can be neither found nor fetched; a
            raw file with a wrong checksum. Nothing that was on disk is overwritten.

    Source: static Binary MNIST of Larochelle & Murray 2011 (50,000 train); Omniglot as `chardata.mat` of Burda et al. 2016
        (24,345 train), shown upright; Fashion-MNIST of Xiao et al. 2017 (60,000 train); MNIST of LeCun et al. 1998 (60,000
        train), which is not in the paper. Grey values serve as Bernoulli
        targets, as in the paper.
    """
    if Path(name).suffix == ".npz":
        return _load_own(Path(name))
    if name not in KNOWN:
        raise ConfigError(f"Unknown data set {str(name)!r}. Expected one of {', '.join(KNOWN)}, or the path of a .npz file.")
    if name in ("digits", "binary_digits"):
        return _load_digits(str(name))
    if name in ("sprites", f"sprites{DEPENDENT}"):
        return factor_dataset(str(name), all_sprites())
    data_dir = Path(data_dir or os.environ.get("ECHO_TF_DATA") or Path.home() / ".cache" / "echo_tf")
    if name in ("dsprites", f"dsprites{DEPENDENT}"):
        path = data_dir / "dsprites.npz"  # one file for both
        if not path.exists():
            prepare_dsprites(data_dir)
        return factor_dataset(str(name), _read_dsprites(path))
    path = data_dir / f"{name}.npz"
    if not path.exists() and name == "mnist" and raw_dir is not None and (file := Path(raw_dir) / path.name).exists():
        path = file
    if not path.exists():
        prepare(str(name), data_dir, Path(raw_dir) if raw_dir is not None else None)
    return _read_cache(str(name), path)


def _load_own(path: Path) -> Dataset:
    if not path.exists():
        raise DataError(f"{path} does not exist. Expected the path of a .npz file of your own, or one of {', '.join(KNOWN)}.")
    arrays = _read_arrays(path, "Expected plain arrays of numbers, as `np.savez(path, train=..., test=...)` writes them.")
    unknown = [name for name in arrays if name not in ARRAYS]
    if unknown or not {"train", "test"} <= arrays.keys():
        remedy = "Add what is missing."
        if unknown:
            nearest = difflib.get_close_matches(unknown[0], ARRAYS, n=1, cutoff=0)[0]
            remedy = f"Rename `{unknown[0]}` (the nearest name is `{nearest}`), or leave it out."
        expected = f"the arrays `train` and `test`, and none but {', '.join(ARRAYS)}"
        raise DataError(f"{path} must hold {expected}. Found: {', '.join(arrays) or 'nothing'}. {remedy}")
    name = re.sub(r"[^\w.+=-]+", "-", path.stem).lstrip(".+=-")  # it names a folder
    try:
        return Dataset.from_arrays(**arrays, name=name)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None


def _load_digits(name: str) -> Dataset:
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits

    digits, scale = load_digits(), 28 / 8
    values, labels = digits.images / 16.0, digits.target
    if name == "binary_digits":
        images, white = (values >= 0.5).astype(np.uint8)[..., None], 1
    else:  # bilinear
        values = zoom(values, (1, scale, scale), order=1, grid_mode=True, mode="nearest")
        images, white = np.rint(255.0 * values).astype(np.uint8)[..., None], 255
    n = 1437  # four fifths; the file is in the order of the writers, so the test digits are mostly by others
    return Dataset(name, {"train": images[:n], "test": images[n:]}, white, {"train": labels[:n], "test": labels[n:]})


def _read_cache(name: str, path: Path) -> Dataset:
    spec, arrays = SPECS[name], _read_arrays(path, _REMAKE)
    if name == "mnist" and set(arrays) == set(_OF_KERAS.values()):
        arrays = {own: arrays[of_keras] for own, of_keras in _OF_KERAS.items()}
    splits, labels = {}, {}
    for split, size in spec.sizes.items():
        splits[split] = _expected(path, arrays, split, "u", (size, 28, 28))[..., None]
        if splits[split].max() > spec.white:
            raise DataError(f"{path}: array `{split}` has values above {spec.white}. {_REMAKE}")
        if spec.label_key:
            labels[split] = _expected(path, arrays, f"{split}_{spec.label_key}", "iu", (size,))
    # The cache of an Omniglot file says whether it was the published one; a file that does not say is a reconstruction.
    is_original = name != "omniglot" or str(arrays.get("is_original")) == "True"
    return Dataset(name, splits, spec.white, labels, "original" if is_original else "reconstruction")


def _read_dsprites(path: Path) -> np.ndarray:
    """Images of all combinations, uint8 of 0 and 1; the file has eight pixels a byte."""
    shape = int(np.prod(SIZES["dsprites"])), SIZE * SIZE // 8
    bits = _expected(path, _read_arrays(path, _REMAKE), "bits", "u", shape)
    return np.unpackbits(bits, axis=1).reshape(-1, SIZE, SIZE, 1)


def _expected(path: Path, arrays: dict[str, np.ndarray], name: str, kinds: str, shape: tuple[int, ...]) -> np.ndarray:
    """An array of a cache: of this shape, and uint8, or of any integers (`"iu"`)."""
    array = arrays.get(name)
    if array is None or array.shape != shape or array.dtype.kind not in kinds or (kinds == "u" and array.dtype != np.uint8):
        expected = f"{'uint8' if kinds == 'u' else 'integers'} of shape {shape}"
        found = "nothing" if array is None else f"{array.dtype} of shape {array.shape}"
        raise DataError(f"{path}: array `{name}` must be {expected}, found {found}. {_REMAKE}")
    return array


def _read_arrays(path: Path, remedy: str) -> dict[str, np.ndarray]:
    """All arrays of an `.npz` file, by name. Nothing is unpickled."""
    try:
        if damage := zip_damage(path):  # NumPy would also take what is no zip file, and read past damage in a header
            raise ValueError(damage)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as members:
            return {name: np.asarray(values) for name, values in members.items()}  # a member that is no array is bytes
    except Exception as error:  # NumPy and zipfile fail in many ways, and memory may be too small
        raise DataError(f"{path} cannot be read ({first_line(error)}). {remedy}") from None
