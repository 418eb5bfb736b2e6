"""Which cells a command line asks for, in which order they are trained, and how long that takes. Needs no Keras."""

import argparse
import dataclasses
import sys
from pathlib import Path

from echo_tf.errors import ConfigError
from echo_tf.experiments import order
from echo_tf.experiments.cells import Cell, differences, plan
from echo_tf.experiments.estimates import in_words, recorded_speeds, seconds_per_step, total_in_words
from echo_tf.experiments.inputs import Input, read_inputs
from echo_tf.experiments.records import check_model, is_finished
from echo_tf.models.config import available_methods, load_config
from echo_tf.report.paper import paper_table


def plan_cells(options: argparse.Namespace, inputs: dict[str, Input] | None = None) -> list[Cell]:
    """The cells that the options ask for, those of several data sets with what matters most first.

    Args:
        options: The command line.
        inputs: Its data sets, as `read_inputs` gives them; `None` to read them here.

    Raises:
        ConfigError: a configuration that cannot be used, or two models that would have one folder.
    """
    inputs = read_inputs(options.dataset) if inputs is None else inputs
    training = {"epochs": options.epochs, "dtype_policy": options.dtype_policy}
    targets = {"rate": options.target_rate, "distortion": options.target_distortion}
    overrides = {"training": {name: value for name, value in training.items() if value is not None}}
    overrides |= {"protocol": options.protocol} if options.protocol else {}
    for quantity, target in targets.items():
        if target is not None:
            overrides["constraint"] = {"quantity": quantity, "target_nats": target}
    in_paper = [method for method in available_methods() if method in paper_table()["binary_mnist"]]
    methods = [method for one in options.method for method in (in_paper if one == "all" else [one])]
    holds_out = options.validate or options.split == "validation"
    cells = []
    for name, data in inputs.items():
        configs = [load_config(method, dataset=name, **overrides) for method in methods]
        configs = [dataclasses.replace(c, beta=b) for c in configs for b in options.own_betas.get(c.method, [c.beta])]
        cells += plan(name, configs, options.beta, options.seeds, data.holdout if holds_out else 0, data.fingerprint)
    _check_apart(cells)
    return order.most_important_first(cells) if len(inputs) > 1 else cells


def _check_apart(cells: list[Cell]) -> None:
    """Refuse cells of one folder, as of two files of the same name, or of betas that differ behind the sixth digit."""
    found: dict[Path, Cell] = {}
    for cell in cells:
        folder = cell.folder(Path())
        if changes := differences(found.setdefault(folder, cell), cell):
            raise ConfigError(
                f"Two models would have the folder {folder} ({changes}). Rename a file, or use another --out for one."
            )


def unfinished_cells(options: argparse.Namespace, inputs: dict[str, Input], cells: list[Cell]) -> list[Cell]:
    """The cells that are still to train or evaluate, in the order in which that begins. Raises `CellError` as `check_model`."""
    left = [c for c in cells if not is_finished(c, options.out, options.split, options.rate_samples, options.echoes)]
    for cell in left:
        check_model(cell.folder(options.out))
    if options.jobs == 1 or len(inputs) > 1:
        return left
    return order.longest_first(left, {name: data.images for name, data in inputs.items()}, options.out)


def estimate_cells(options: argparse.Namespace, inputs: dict[str, Input], cells: list[Cell]) -> None:
    """Print the cells that are still to train, with the time that each takes as far as that is known."""
    left, images = unfinished_cells(options, inputs, cells), {name: data.images for name, data in inputs.items()}
    speeds = [] if options.measure else recorded_speeds(options.out, images)
    steps = _measured_steps(left, inputs) if options.measure else [seconds_per_step(cell, speeds) for cell in left]
    known = []
    for cell, step in zip(left, steps, strict=True):
        folder = cell.folder(options.out)
        if step is None:
            print(folder)
            continue
        known.append(step * order.epoch_steps(cell, images) * order.epochs_left(cell, options.out))
        print(f"{folder}  {in_words(known[-1])}")
    told = [f"{len(left)} to train, {len(cells) - len(left)} finished."]
    if known:
        source = "steps measured now" if options.measure else f"epochs in {options.out}, wherever those were trained"
        told += [total_in_words(known, options.jobs or len(known)), f"By {source}; compiling and evaluation come on top."]
    if len(known) < len(left):
        which = f"{len(left) - len(known)} of them" if known else "them"
        told.append(f"No epoch in {options.out} tells the time of {which}; --measure trains a few steps to say it.")
    print(*told, file=sys.stderr)


def _measured_steps(cells: list[Cell], inputs: dict[str, Input]) -> list[float | None]:
    """Seconds for a step of every cell. Cells that differ in seed, beta or data of the same shape are measured once."""
    from echo_tf.experiments.measure import measure_step

    kinds = [(dataclasses.replace(c.config, seed=0, beta=1.0), inputs[c.dataset].shape) for c in cells]
    seconds = {}
    for config, shape in dict.fromkeys(kinds):
        seconds[config, shape] = step = measure_step(config, shape)
        print(f"{config.method}: {1000 * step:.3g} ms a step", file=sys.stderr)
    return [seconds[kind] for kind in kinds]
