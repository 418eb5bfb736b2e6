"""Builder `omniglot_chardata`: the 28x28 Omniglot images of `chardata.mat` (Burda, Grosse & Salakhutdinov 2016)."""

import hashlib
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

ORIGINAL_MD5 = "21ecaf34373511aa7691cf2e0802aa3d"
ALPHABETS = 50


class Builder(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of the images and alphabets in `chardata.mat`, upright, in the order of the file.

    The file stores each image column by column with values in [0, 1]; the builder turns them upright and rounds to 1/255.
    Any file with the right keys, shapes and range is taken; `info.metadata["is_original"]` tells whether its md5 is that of
    the published one. The stock builder `omniglot` of TFDS is another data set (105x105 pixels, other splits).

    Raises:
        ValueError: while preparing, a file with other keys, shapes or values.
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put chardata.mat (repository yburda/iwae, folder datasets/OMNIGLOT) into manual_dir."
    SIZES: ClassVar = {"train": 24_345, "test": 8_070}

    def _info(self):
        image = tfds.features.Image(shape=(28, 28, 1), dtype=np.uint8)
        alphabet = tfds.features.ClassLabel(num_classes=ALPHABETS)
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten characters of 50 alphabets, 28x28 grey pixels, split by drawer.",
            features=tfds.features.FeaturesDict({"image": image, "alphabet": alphabet}),
            homepage="https://github.com/yburda/iwae",
            metadata=tfds.core.MetadataDict(is_original=False),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        from scipy.io import loadmat

        path = Path(dl_manager.manual_dir) / "chardata.mat"
        self.info.metadata["is_original"] = hashlib.md5(path.read_bytes()).hexdigest() == ORIGINAL_MD5
        arrays, generators = loadmat(path), {}
        for split, keys in (("train", ("data", "target")), ("test", ("testdata", "testtarget"))):
            for key, rows in zip(keys, (784, ALPHABETS), strict=True):
                shape, found = (rows, self.SIZES[split]), arrays.get(key, np.empty(0))
                if found.shape != shape or not (found.min() >= 0 and found.max() <= 1):
                    raise ValueError(f"{path}: `{key}` must have shape {shape}, found {found.shape}, and values from 0 to 1")
            generators[split] = self._generate_examples(*(arrays[key] for key in keys))
        return generators

    def _generate_examples(self, data, target):
        images = np.rint(255.0 * data.T.reshape(-1, 28, 28).transpose(0, 2, 1)).astype(np.uint8)
        for index, (image, alphabet) in enumerate(zip(images, target.argmax(axis=0), strict=True)):
            yield index, {"image": image[..., None], "alphabet": int(alphabet)}
