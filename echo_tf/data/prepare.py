"""Makes the cache file of a known data set with TensorFlow Datasets, from the network or from the published raw files."""

import contextlib
import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from echo_tf.data.sprites import FACTORS, SIZE, SIZES
from echo_tf.errors import DataError
from echo_tf.files import replacing


@dataclass(frozen=True)
class Spec:
    """What the cache file of a data set must hold, and which TFDS builder makes it."""

    builder: str
    white: int
    sizes: dict[str, int]  # images by split
    raw_files: tuple[str, ...]  # by the names under which TFDS looks for them
    label_feature: str = ""
    label_key: str = ""  # labels are in the cache as {split}_{label_key}


_IDX = tuple(f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
_AMAT = tuple(f"binarized_mnist_{part}.amat" for part in ("train", "valid", "test"))
SPECS = {
    "binary_mnist": Spec("binarized_mnist", 1, {"train": 50_000, "validation": 10_000, "test": 10_000}, _AMAT),
    "fashion_mnist": Spec("fashion_mnist", 255, {"train": 60_000, "test": 10_000}, _IDX, "label", "labels"),
    "mnist": Spec("mnist", 255, {"train": 60_000, "test": 10_000}, _IDX, "label", "labels"),
    "omniglot": Spec("omniglot_chardata", 255, {"train": 24_345, "test": 8_070}, ("chardata.mat",), "alphabet", "alphabet"),
}


def prepare(name: str, data_dir: Path, raw_dir: Path | None) -> None:
    """Write `data_dir/NAME.npz`, with TFDS files beside it in `data_dir/tfds`.

    Args:
        name: A key of `SPECS`.
        data_dir: Folder of the cache, made if it is not there.
        raw_dir: Folder with the raw files; then the network is not asked. `None`: they are downloaded.

    Raises:
        DataError: the data can be neither found nor fetched, or a raw file is not the published one. No empty folder is left.
    """
    spec = SPECS[name]
    raw_files = ", ".join(spec.raw_files)
    cache = f"{name}.npz" + (" (Keras' file will do)" if name == "mnist" else "")
    remedy = f"Point --data-dir (or $ECHO_TF_DATA) at a folder with {cache}, or --raw-dir at one with {raw_files}."
    if raw_dir is not None:  # else TFDS would look for what is missing in the network
        if missing := [file for file in spec.raw_files if not (raw_dir / file).is_file()]:
            raise DataError(f"{raw_dir} does not hold {', '.join(missing)}. {remedy}")
    elif name == "omniglot":
        raise DataError(f"chardata.mat, in the repository yburda/iwae, has no stable address to fetch it from. {remedy}")
    import tensorflow_datasets as tfds

    import echo_tf.data.omniglot_chardata  # noqa: F401  (registers the builder)

    with _prepared(spec.builder, name, data_dir, raw_dir, remedy) as builder:
        arrays = {}
        for split, size in spec.sizes.items():
            batch = next(iter(tfds.as_numpy(builder.as_dataset(split=split, batch_size=size))))
            arrays[split] = batch["image"][..., 0]
            if spec.label_key:
                arrays[f"{split}_{spec.label_key}"] = batch[spec.label_feature]
        if name == "omniglot":
            arrays["is_original"] = np.array(builder.info.metadata["is_original"])
        with replacing(data_dir / f"{name}.npz") as temporary:
            np.savez_compressed(temporary, **arrays)


@contextlib.contextmanager
def _prepared(builder_name: str, name: str, data_dir: Path, raw_dir: Path | None, remedy: str) -> Iterator[Any]:
    """A TFDS builder that has its data; whatever fails in the block means that they are not to be had."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

    try:
        with _folder_unless_empty(data_dir / "tfds") as folder:
            builder = tfds.builder(builder_name, data_dir=folder)
            if raw_dir is None and not builder.data_path.exists():
                for host in {urlsplit(url).hostname for url in builder.url_infos}:
                    socket.getaddrinfo(host, None)  # without a network TFDS would try again for minutes
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=raw_dir))
            yield builder
    except NonMatchingChecksumError as error:
        raise DataError(f"A raw file of {name} is not the published one ({first_line(error)}). Fetch it anew.") from None
    except Exception as error:  # TFDS fails in many ways without a network
        raise DataError(f"{name} is not in {data_dir} and cannot be prepared ({first_line(error)}). {remedy}") from error


def prepare_dsprites(data_dir: Path) -> None:
    """Write `data_dir/dsprites.npz`, with TFDS files beside it in `data_dir/tfds`.

    Raises:
        DataError: the data cannot be fetched, or are not all combinations of the factors. No empty folder is left.

    Source: Matthey et al. 2017 (dSprites).
    """
    import tensorflow_datasets as tfds

    remedy = "Point --data-dir (or $ECHO_TF_DATA) at a folder with dsprites.npz or tfds/dsprites, or use sprites: no download."
    with _prepared("dsprites", "dsprites", data_dir, None, remedy) as builder:
        bits = bits_by_combination(tfds.as_numpy(builder.as_dataset(split="train", batch_size=4_096)), SIZES["dsprites"])
        with replacing(data_dir / "dsprites.npz") as temporary:
            np.savez_compressed(temporary, bits=bits)


def bits_by_combination(batches: Iterable[dict[str, np.ndarray]], sizes: tuple[int, ...]) -> np.ndarray:
    """Images as TFDS has dSprites, eight pixels a byte, in the order of the combinations of their factors.

    Args:
        batches: With `image`, uint8 of 0 and 1 and shape `(n, 64, 64, 1)`, and integers `label_shape`, `label_scale`,
            `label_orientation`, `label_x_position`, `label_y_position` of shape `(n,)`; in any order.
        sizes: Number of values by factor.

    Returns:
        uint8, shape `(product of sizes, 512)`.

    Raises:
        DataError: a combination is missing or comes twice, or a pixel is neither 0 nor 1.
    """
    bits = np.zeros((int(np.prod(sizes)), SIZE * SIZE // 8), np.uint8)
    found = np.zeros(len(bits), int)
    keys = [f"label_{factor}_position" if factor in ("x", "y") else f"label_{factor}" for factor in FACTORS]
    for batch in batches:
        if batch["image"].max() > 1:
            raise DataError(f"dsprites has a pixel of value {batch['image'].max()}, expected 0 and 1.")
        numbers = np.ravel_multi_index([batch[key] for key in keys], sizes)
        bits[numbers] = np.packbits(batch["image"].reshape(len(numbers), -1), axis=1)
        np.add.at(found, numbers, 1)
    if np.any(found != 1):
        raise DataError(
            f"dsprites has {np.sum(found == 0)} combinations of factors too few, {np.sum(found > 1)} more than once."
        )
    return bits


@contextlib.contextmanager
def _folder_unless_empty(folder: Path) -> Iterator[Path]:
    """Make a folder. If the block fails, remove it again, all that is empty in it, and the parents that were made for it."""
    made = [path for path in folder.parents if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    except BaseException:
        for path in [*(Path(root) for root, _, _ in os.walk(folder, topdown=False)), *made]:
            with contextlib.suppress(OSError):  # a folder that holds a file stays
                path.rmdir()
        raise


def first_line(error: Exception) -> str:
    """First line of a message, or the name of the error if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
