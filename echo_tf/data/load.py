"""Data sets: uint8 images in memory, cached as one `.npz` a data set, prepared by TensorFlow Datasets when absent."""

import os
import socket
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from echo_tf.errors import DataError
from echo_tf.files import replacing
from echo_tf.models.config import DATASETS

DATA_DIR_VARIABLE = "ECHO_TF_DATA"


@dataclass(frozen=True)
class Dataset:
    """Images of one data set.

    `train` and `test` (and `validation`, which only Binary MNIST comes with; see `holdout`) are float32 in [0, 1], shape
    `(n, 28, 28, 1)`, made from the stored uint8 at every access. Grey values stay grey. `raw(split)` is the uint8 array
    itself, `raw(split) / white` the image.

    Attributes:
        name: Name of the data set.
        splits: uint8 arrays of shape `(n, 28, 28, 1)` by split.
        white: Stored value that stands for 1.0: 1 for binary images, else 255.
        labels: Integer arrays of shape `(n,)` by split, for the splits that have labels.
        source: `"original"`, or `"reconstruction"` for an Omniglot file that is not the published one.
    """

    name: str
    splits: dict[str, np.ndarray]
    white: int
    labels: dict[str, np.ndarray]
    source: str = "original"

    def raw(self, split: str) -> np.ndarray:
        """uint8 images of a split, shape `(n, 28, 28, 1)`. Raises `DataError` if there is no such split."""
        if split not in self.splits:
            raise DataError(
                f"{self.name} has no {split} split, only {', '.join(self.splits)}. `dataset.holdout(n)` makes a validation "
                "split from the end of the training images."
            )
        return self.splits[split]

    def images(self, split: str) -> np.ndarray:
        """float32 images of a split in [0, 1], shape `(n, 28, 28, 1)`."""
        return self.raw(split).astype(np.float32) / np.float32(self.white)

    @property
    def train(self) -> np.ndarray:
        return self.images("train")

    @property
    def test(self) -> np.ndarray:
        return self.images("test")

    @property
    def validation(self) -> np.ndarray | None:
        return self.images("validation") if "validation" in self.splits else None

    @property
    def train_labels(self) -> np.ndarray | None:
        return self.labels.get("train")

    @property
    def test_labels(self) -> np.ndarray | None:
        return self.labels.get("test")

    def holdout(self, n: int) -> "Dataset":
        """The same data set with the last `n` training images as its validation split instead.

        Raises:
            ValueError: `n` is not between 1 and the number of training images less one.
        """
        train = self.raw("train")
        if not 1 <= n < len(train):
            raise ValueError(
                f"Invalid value received for argument `n`. Expected 1 <= n < {len(train)}, the training images of "
                f"{self.name}. Received: n={n}"
            )
        splits = {**self.splits, "train": train[:-n], "validation": train[-n:]}
        labels = dict(self.labels)
        if "train" in labels:
            labels |= {"train": labels["train"][:-n], "validation": labels["train"][-n:]}
        return replace(self, splits=splits, labels=labels)


@dataclass(frozen=True)
class _Spec:
    """What the cache file of a data set must hold, and which TFDS builder makes it."""

    sizes: dict[str, int]  # images by split
    white: int
    builder: str
    label_key: str | None = None  # cache arrays are named {split}_{label_key}
    label_feature: str | None = None


_SPECS = {
    "binary_mnist": _Spec({"train": 50_000, "validation": 10_000, "test": 10_000}, 1, "binarized_mnist"),
    "fashion_mnist": _Spec({"train": 60_000, "test": 10_000}, 255, "fashion_mnist", "labels", "label"),
    "omniglot": _Spec({"train": 24_345, "test": 8_070}, 255, "omniglot_chardata", "alphabet", "alphabet"),
}

# Raw files by the names under which TFDS looks for them.
_RAW_FILES = {
    "binary_mnist": [f"binarized_mnist_{split}.amat" for split in ("train", "valid", "test")],
    "fashion_mnist": [f"{p}-{kind}-ubyte.gz" for p in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")],
    "omniglot": ["chardata.mat"],
}


def default_data_dir() -> Path:
    """`$ECHO_TF_DATA` if set, else `~/.cache/echo_tf`."""
    return Path(os.environ.get(DATA_DIR_VARIABLE) or Path.home() / ".cache" / "echo_tf")


def load_dataset(name: str, data_dir: str | Path | None = None, raw_dir: str | Path | None = None) -> Dataset:
    """Load a data set from its cache, preparing the cache first where it is missing.

    `digits` ships with scikit-learn: 8x8 grey digits resized to 28x28, the last 360 for testing. The others are read
    from `data_dir/NAME.npz`. If that file does not exist, TensorFlow Datasets prepares the data (downloading them, or from
    `raw_dir` with no network, checksums verified either way) and the file is written.

    Args:
        name: `"digits"`, `"binary_mnist"`, `"omniglot"` or `"fashion_mnist"`.
        data_dir: Folder of the cache. `None`: `$ECHO_TF_DATA`, else `~/.cache/echo_tf`.
        raw_dir: Folder with the published raw files, or `None`.

    Returns:
        The `Dataset`.

    Raises:
        ValueError: unknown `name`.
        DataError: a cache file that is damaged or has other contents than expected; data that can be neither found nor
            fetched; a raw file with a wrong checksum. Nothing that was on disk is overwritten.

    Source: static Binary MNIST of Larochelle & Murray 2011 (50,000 train); Omniglot as `chardata.mat` of Burda et al. 2016
        (24,345 train), shown upright; Fashion-MNIST of Xiao et al. 2017 (60,000 train). Grey values serve as Bernoulli
        targets, as in the paper.
    """
    if name not in DATASETS:
        raise ValueError(f"Unknown data set {name!r}. Expected one of: {', '.join(DATASETS)}")
    if name == "digits":
        return _load_digits()
    data_dir = Path(data_dir) if data_dir is not None else default_data_dir()
    path = data_dir / f"{name}.npz"
    if not path.exists():
        _prepare(name, data_dir, Path(raw_dir) if raw_dir is not None else None)
    return _read_cache(name, path)


def _load_digits() -> Dataset:
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits

    digits = load_digits()
    size = 28
    # Bilinear; pixel values run from 0 to 16.
    images = zoom(digits.images / 16.0, (1, size / 8, size / 8), order=1, grid_mode=True, mode="nearest")
    images = np.rint(255.0 * images).astype(np.uint8)[..., None]
    n = 1437  # four fifths; the file is in the order of the writers, so the test digits are mostly by others
    return Dataset(
        name="digits",
        splits={"train": images[:n], "test": images[n:]},
        white=255,
        labels={"train": digits.target[:n], "test": digits.target[n:]},
    )


def _read_cache(name: str, path: Path) -> Dataset:
    spec = _SPECS[name]
    remedy = "Delete or replace the file; it is made anew when it is missing."
    try:
        with zipfile.ZipFile(path):  # np.load would also take a single array
            pass
        with path.open("rb") as file, np.load(file, allow_pickle=False) as members:
            arrays = dict(members)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}). {remedy}") from None

    splits, labels = {}, {}
    for split, size in spec.sizes.items():
        images = arrays.get(split)
        if images is None or images.shape != (size, 28, 28) or images.dtype != np.uint8:
            found = "nothing" if images is None else f"{images.dtype} of shape {images.shape}"
            raise DataError(f"{path}: array `{split}` must be uint8 of shape ({size}, 28, 28), found {found}. {remedy}")
        if images.max(initial=0) > spec.white:
            raise DataError(f"{path}: array `{split}` has values above {spec.white}. {remedy}")
        splits[split] = images[..., None]
        if spec.label_key:
            values = arrays.get(f"{split}_{spec.label_key}")
            if values is None or values.shape != (size,):
                raise DataError(f"{path}: array `{split}_{spec.label_key}` of shape ({size},) is missing. {remedy}")
            labels[split] = values
    # The cache of an Omniglot file says whether it was the published one; a file that does not say is a reconstruction.
    is_original = name != "omniglot" or bool(arrays.get("is_original", False))
    return Dataset(name, splits, spec.white, labels, "original" if is_original else "reconstruction")


def _prepare(name: str, data_dir: Path, raw_dir: Path | None) -> None:
    """Prepare a data set with TFDS and write its cache file."""
    spec = _SPECS[name]
    remedy = (
        f"Point --data-dir (or ${DATA_DIR_VARIABLE}) at a folder that holds {name}.npz, or --raw-dir at one that holds "
        f"{', '.join(_RAW_FILES[name])}."
    )
    if raw_dir is not None:  # else TFDS would look for what is missing in the network
        missing = [file for file in _RAW_FILES[name] if not (raw_dir / file).is_file()]
        if missing:
            raise DataError(f"{raw_dir} does not hold {', '.join(missing)}. {remedy}")
    if raw_dir is None and name == "omniglot":
        raise DataError(
            f"{name} is neither in {data_dir} nor downloadable: chardata.mat has no stable public address. It is in the "
            f"repository yburda/iwae. {remedy}"
        )
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{data_dir} cannot be made ({error}). Choose another --data-dir.") from None

    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

    import echo_tf.data.omniglot_chardata  # noqa: F401  (registers the builder)

    download = tfds.download.DownloadConfig(manual_dir=raw_dir)
    try:
        builder = tfds.builder(spec.builder, data_dir=data_dir / "tfds")
        if raw_dir is None and not builder.data_path.exists():
            _check_hosts(builder.url_infos)
        builder.download_and_prepare(download_config=download)
        arrays = {}
        for split, size in spec.sizes.items():
            examples = tfds.as_numpy(builder.as_dataset(split=split, batch_size=size))
            batch = next(iter(examples))
            arrays[split] = batch["image"][..., 0]
            if spec.label_key:
                arrays[f"{split}_{spec.label_key}"] = batch[spec.label_feature]
        if name == "omniglot":
            arrays["is_original"] = np.array(builder.info.metadata["is_original"])
    except NonMatchingChecksumError as error:
        raise DataError(f"A raw file of {name} is not the published one ({_first_line(error)}). Fetch it anew.") from None
    except Exception as error:  # TFDS fails in many ways without a network; each means the data are not to be had.
        raise DataError(f"{name} is not in {data_dir} and cannot be prepared ({_first_line(error)}). {remedy}") from error
    with replacing(data_dir / f"{name}.npz") as temporary:
        np.savez_compressed(temporary, **arrays)


def _check_hosts(urls: Iterable[str]) -> None:
    """Fail at once without a network: TFDS would try again for minutes."""
    for host in {urlsplit(url).hostname for url in urls}:
        socket.getaddrinfo(host, None)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
