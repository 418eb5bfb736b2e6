"""How a setting is called: the same in tables, labels, titles and names of files."""

import functools
import re
from collections.abc import Sequence

from echo_tf.experiments.elsewhere import Elsewhere
from echo_tf.experiments.records import Result
from echo_tf.models.config import available_methods, flatten, load_config
from echo_tf.report.words import WORDS

# Settings that have a part of their own in names, and a column in tables.
_WITH_PART = ("seed", "beta", "training.epochs", "training.dtype_policy")


def parts(result: Result) -> dict[str, str]:
    """What a name of a setting is made of, in its order; a part that is as usual is empty.

    The data set, its source, the method, what the model has otherwise than its method says, beta or the target in its place,
    the length of training, the precision of the networks, the images that were measured, those held out of training, the seed.
    """
    config = result.config
    return {
        "data": dataset_title(result.dataset),
        "source": "reconstruction" if result.source == "reconstruction" else "",
        "method": plain_title(config.method),
        "variant": ", ".join([*(["released"] if config.protocol == "released" else []), *departures(result)]),
        "beta": result.target or f"β = {config.beta:g}",
        "epochs": f"{config.training.epochs} epochs",
        "precision": config.training.dtype_policy.removeprefix("mixed_"),
        "split": "" if result.split == "test" else result.split,
        "holdout": f"held out {result.cell.holdout}" if result.cell.holdout else "",
        "seed": f"seed {config.seed}",
    }


def method_name(result: Result) -> str:
    """`vae (released, d_max=49)`: the method, and what the model has otherwise."""
    found = parts(result)
    return result.method + (f" ({found['variant']})" if found["variant"] else "")


def method_title(result: Result) -> str:
    """`VAE + MAF (released)`: the method as people write it, and what the model has otherwise."""
    found = parts(result)
    return found["method"] + (f" ({found['variant']})" if found["variant"] else "")


def plain_title(method: str) -> str:
    """`VAE + MAF` for `vae_maf`; the name of a method that is not ours as it is."""
    return WORDS["methods"].get(method, method)


def point_name(row: dict) -> str:
    """`vae (released, held out 700)`: the method of a row of an experiment, and what its cell says of protocol and holdout."""
    protocol, holdout = row["cell"].partition("-")[0], row["cell"].partition("-holdout=")[2]
    found = [*(["released"] if protocol == "released" else []), *([f"held out {holdout}"] if holdout else [])]
    return row["method"] + (f" ({', '.join(found)})" if found else "")


def point_title(row: dict) -> str:
    """`VAE (released, held out 700)`: the same, the method as people write it."""
    return point_name(row).replace(row["method"], plain_title(row["method"]), 1)


def without_seed(cell: str) -> str:
    """The name of a folder without its seed: the same for models that differ in nothing else."""
    return re.sub(r"-seed=\d+", "", cell)


def told_apart(row: dict, others: Sequence[dict]) -> str:
    """`, 8 epochs, validation`: the length of the training if not all have that, and the split if it is not the test set."""
    epochs = f", {row['epochs']} epochs" if len({other["epochs"] for other in others}) > 1 else ""
    return epochs + ("" if row.get("split", "test") == "test" else f", {row['split']}")


def beta_or_target(row: dict) -> str:
    """How the rate of the model of a row was set: `β = 1`, or `rate 20` where that was held."""
    return row["target"] or f"β = {row['beta']:g}"


def dataset_title(dataset: str) -> str:
    """`Binary MNIST` for `binary_mnist`; the name of data of one's own as it is."""
    return WORDS["data"].get(dataset, dataset)


def spelled(name: str) -> str:
    """`Gaussian, independent` for `gaussian_independent`: the name of a source, a channel or a noise as people write it."""
    return ", ".join(WORDS["words"].get(word, word) for word in name.split("_"))


def data_title(result: Result) -> str:
    """`Omniglot*`: the data set as people write it, with what `data_name` has behind it."""
    return data_name(result).replace(result.dataset, dataset_title(result.dataset), 1)


def data_name(result: Result) -> str:
    """`omniglot* (valid.) -1345` as tables have it: a star for a reconstruction, the split, the images held out."""
    holdout = result.cell.holdout
    return starred(result) + ("" if result.split == "test" else " (valid.)") + (f" -{holdout}" if holdout else "")


def starred(result: Result | Elsewhere) -> str:
    """The data set, with a star if it is a reconstruction."""
    return result.dataset + ("*" if result.source == "reconstruction" else "")


def labels(results: Sequence[Result], without: Sequence[str] = ("seed",)) -> list[str]:
    """Names of results that are shown together: the method, and the parts that they have not in common.

    Args:
        results: One for each name.
        without: Parts that are left out.
    """
    skip = {*_common(results), *without, "method", "variant"}  # the last two stand in front
    rests = [[part for key, part in parts(result).items() if part and key not in skip] for result in results]
    return [", ".join([method_title(result), *rest]) for result, rest in zip(results, rests, strict=True)]


def title(results: Sequence[Result], without: Sequence[str] = ("seed",)) -> str:
    """What results that are shown together have in common, the data set first."""
    return ", ".join(part for key, part in _common(results).items() if part and key not in without)


def _common(results: Sequence[Result]) -> dict[str, str]:
    first, *others = map(parts, results)
    return {key: part for key, part in first.items() if all(other[key] == part for other in others)}


def stem(*names: str, split: str = "test", protocol: str = "paper") -> str:
    """Stem of a file, `training_digits_released`: the names, then split and protocol where they are not the usual ones."""
    return "_".join([*names, *([] if split == "test" else [split]), *([] if protocol == "paper" else [protocol])])


def departures(result: Result) -> tuple[str, ...]:
    """Settings of a result that are not those of its method, `("d_max=49",)`, but for those with a part of their own.

    Of a method that is not in `configs/` no settings are known.
    """
    config = result.config
    if config.method not in available_methods():
        return ()
    usual, found = _usual(config.method, result.dataset, config.protocol), flatten(config)
    changed = [key for key in usual if found[key] != usual[key] and key not in _WITH_PART]
    names = {key: key.removesuffix(".kind").rpartition(".")[2] for key in changed}  # d_max, but network for network.kind
    return tuple(f"{name}={found[key]}" for key, name in names.items() if not key.startswith("constraint."))


@functools.cache
def _usual(method: str, dataset: str, protocol: str) -> dict:
    return flatten(load_config(method, dataset=dataset, protocol=protocol))
