"""The options of `reproduce.py`. Needs no Keras."""

import argparse
import contextlib
import difflib
import importlib.util
import math
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from echo_tf.command import terminal
from echo_tf.command.experiments import BETA_GRIDS, EXPERIMENTS
from echo_tf.data.dataset import KNOWN
from echo_tf.experiments import order, sharing
from echo_tf.models.config import CONFIG_DIR, PROTOCOLS, available_methods

DATA = {
    "digits": "1,797 small digits of scikit-learn, no download (default)",
    "binary_digits": "the same at 8x8, with pixels of 0 and 1, no download",
    "binary_mnist": "70,000 binarised digits",
    "omniglot": "32,415 characters, from a file that you supply",
    "fashion_mnist": "70,000 articles of clothing",
    "mnist": "70,000 grey digits, which the paper does not have",
    "sprites": "7,776 images of five known factors, rendered, no download",
    "dsprites": "737,280 images of five known factors, of TensorFlow Datasets",
    "sprites_dependent": "the same without blocks of combinations; and dsprites_dependent",
    "FILE.npz": "your own arrays train and test; if you like validation, train_labels, test_labels",
    "all": "the three of the paper",
}


class _Parser(argparse.ArgumentParser):
    """An error shows the option that it is about, or that comes closest, not all of them."""

    def error(self, message: str):
        named = re.match(r"(?:argument|unrecognized arguments:) (--[\w-]+)", message)
        meant = difflib.get_close_matches(named[1], self._option_string_actions, n=1) if named else []
        about = [self._option_string_actions[name] for name in meant]
        formatter = self._get_formatter()
        if about:
            formatter.add_usage(None, about, [])
            formatter.add_arguments(about)
        else:
            formatter.add_text(f"{self.prog} --help lists all options.")
        self.exit(2, f"{formatter.format_help()}\n{self.prog}: error: {message}\n")


def _number(kind: type, low: float, high: float = math.inf) -> dict:
    """Type and name of an argument: a number of at least `low` and below `high`, so never infinite or NaN."""

    def number(text):
        with contextlib.suppress(ValueError):
            if low <= (value := kind(text)) < high:
                return value
        whole, below = "a whole" if kind is int else "a finite", "" if high == math.inf else f" and below {high:,}"
        raise argparse.ArgumentTypeError(f"expected {whole} number of at least {low}{below}, received {text[:20]!r}")

    return {"type": number, "metavar": "N" if kind is int else "X"}


def _betas(text: str) -> tuple[float, ...]:
    """The betas that a word of `--beta` stands for: a grid by its name, or a number."""
    if text in BETA_GRIDS:
        return BETA_GRIDS[text]
    try:
        return (_number(float, 0)["type"](text),)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; or name a grid: {', '.join(BETA_GRIDS)}") from None


def _dataset(text: str) -> str | Path:
    if text in (*KNOWN, "all"):
        return text
    if Path(text).suffix != ".npz":
        names = ", ".join(KNOWN)
        raise argparse.ArgumentTypeError(f"expected one of {names}, or a .npz file of your own, or all, received {text!r}")
    return Path(text)


def _listed(title: str, lines: dict[str, str]) -> str:
    indented = {"initial_indent": " " * 2, "subsequent_indent": " " * 26, "width": terminal.width()}
    return "\n".join([f"{title}:", *(textwrap.fill(f"{name:<23} {line}", **indented) for name, line in lines.items())])  # type: ignore[arg-type]


def _methods() -> dict[str, str]:
    """The first sentence of every file in `configs/`, by the name of the method."""
    comments = {}
    for name in available_methods():
        text = (CONFIG_DIR / f"{name}.yaml").read_text(encoding="utf-8")
        comment = " ".join(line.lstrip("# ") for line in re.findall(r"\A(?:#.*\n)*", text)[0].splitlines())
        comments[name] = re.split(r"(?<=[.?]) |: ", comment)[0].rstrip(".")
    return comments


def _parser(description: str) -> argparse.ArgumentParser:
    listed = [
        _listed("experiments", {name: one.sentence for name, one in EXPERIMENTS.items()}),
        _listed("methods", {**_methods(), "all": "the nine of the paper's table 2", "FILE.yaml": "your own"}),
        _listed("data sets", DATA),
    ]
    layout = argparse.RawDescriptionHelpFormatter
    parser = _Parser("reproduce.py", description=description, epilog="\n\n".join(listed), formatter_class=layout)
    count, nats = _number(int, 1, 10_000), _number(float, 0) | {"metavar": "NATS"}

    add = parser.add_argument_group("what").add_argument
    add("--experiment", choices=EXPERIMENTS, default="comparison", metavar="NAME", help="see below (default: comparison)")
    several = f"of several the first comes first, and there the methods {', '.join(order.METHODS)} before others"
    add("--dataset", nargs="+", type=_dataset, metavar="NAME", help=f"one or more, see below; {several}")
    add("--method", nargs="+", metavar="NAME", help="one or more, see below (default: echo vae, or those of the experiment)")
    weights = f"weights of the rate, or {', '.join(BETA_GRIDS)}: a grid, see the guide (default: 1, or those of the experiment)"
    add("--beta", nargs="+", type=_betas, metavar="X", help=weights)
    target = parser.add_argument_group("what, with a target in the place of beta").add_mutually_exclusive_group()
    target.add_argument("--target-rate", **nats, help="let training find the beta that gives this rate")
    target.add_argument("--target-distortion", **nats, help="the same for the distortion")

    add = parser.add_argument_group("training").add_argument
    add("--epochs", **_number(int, 1, 2**31), help="default: that of the method, 200; 30 on digits; bottleneck: 20")
    add("--seeds", **count, default=1, help="train with N seeds, from that of the method, 0, on (default: 1)")
    protocols = "paper (default): what it says, but for Echo's parametrisation; released: what its code does otherwise"
    add("--protocol", choices=PROTOCOLS, help=protocols)
    add("--dtype-policy", choices=["float32", "mixed_bfloat16"], help="precision of the networks (default: float32)")
    add("--validate", action="store_true", help="also measure a validation split after every epoch")
    add("--tensorboard", action="store_true", help="write event files into every cell's folder (needs tensorboard)")

    add = parser.add_argument_group("final evaluation").add_argument
    add("--split", choices=["test", "validation"], default="test", help="images to evaluate with (default: test)")
    elsewhere = "also evaluate on the test images of other data sets of the same shape, for a table of their own"
    add("--evaluate-on", nargs="+", type=_dataset, metavar="NAME", help=elsewhere)
    draws = "draws of z for each image, and terms of the importance-sampled bound (default: 5)"
    add("--rate-samples", **_number(int, 2, 1_000_000), default=5, help=draws)
    law = "source of Echo noise: training examples, or as in the paper the batch (default: reservoir)"
    add("--echoes", choices=["reservoir", "batch"], default="reservoir", help=law)

    arrays = "with --experiment analysis: write f, s, z, rate and distortion of every image to arrays.npz in the cell's folder"
    add("--arrays", action="store_true", help=arrays)
    add = parser.add_argument_group("with --experiment likelihood").add_argument
    add("--images", **_number(int, 1, 1_000_000), default=1_000, help="images to measure, drawn at random (default: 1000)")
    add("--temperatures", **count, default=100, help="steps from the encoder's law to the posterior (default: 100)")
    add("--chains", **count, default=1, help="chains for each image (default: 1)")

    add("--strict", action="store_true", help="exit with 1 if a compared cell misses the paper's value")

    add = parser.add_argument_group("folders and files").add_argument
    add("--out", type=Path, default=Path("runs"), metavar="DIR", help="folder of all results (default: runs)")
    add("--data-dir", type=Path, metavar="DIR", help="folder with NAME.npz (default: $ECHO_TF_DATA, else ~/.cache/echo_tf)")
    add("--raw-dir", type=Path, metavar="DIR", help="folder with the published raw files, used instead of a download")
    add("--publish", type=Path, metavar="DIR", help="copy tables and figures to DIR, the results they come from to DIR/cells")
    add("--readme", type=Path, metavar="FILE", help="write the results on the test set into the results section of FILE")

    add = parser.add_argument_group("machine").add_argument
    jobs = (
        "train so many models at once, the longest first, on a GPU by CUDA's multi-process service where it is installed; "
        f"auto: one for every two cores, at most {sharing.MOST_ON_A_GPU} for each GPU (default: 1, in this process; on Ray all)"
    )
    either = count | {"type": lambda text: text if text == "auto" else count["type"](text), "metavar": "N|auto"}
    add("--jobs", **either, help=jobs)
    threads = (
        "threads of a model, on Ray its processors (default: all, with --jobs auto its share, on Ray 1); another number "
        "changes the last digits"
    )
    add("--threads", **count, help=threads)
    add("--executor", choices=["local", "ray"], default="local", help="where models are trained: processes here, or Ray")
    add("--ray-address", metavar="ADDRESS", help="of the Ray cluster; auto: the one on this machine (default: a new one)")
    add("--gpus", **_number(float, 0), default=0.0, help="GPUs that a model asks of Ray, also a share of one (default: 0)")

    add = parser.add_argument_group("without training").add_argument
    add("--report", action="store_true", help="make tables and figures from the results in --out")
    export = "write the trained models in --out to DIR, for load_pretrained"
    add("--export", type=Path, metavar="DIR", help=export)
    dry = "list the cells to train in their order, with the hours that epochs on disk in --out let expect"
    add("--dry-run", action="store_true", help=dry)
    add("--measure", action="store_true", help="with --dry-run: expect hours from a few steps of every method (minutes)")
    return parser


def parse_arguments(arguments: Sequence[str] | None = None, description: str = "") -> argparse.Namespace:
    """Parse the command line."""
    parser = _parser(description)
    options = parser.parse_args(arguments)
    options.beta = options.beta and list(dict.fromkeys(beta for betas in options.beta for beta in betas))
    experiment = EXPERIMENTS[options.experiment]
    _check_together(parser, options)
    options.dataset = _each_once(options.dataset or list(experiment.datasets))
    options.evaluate_on = _each_once(options.evaluate_on or [])
    if options.executor == "local":
        options.jobs = options.jobs or 1
    elif options.jobs == "auto":
        options.jobs = None  # Ray knows its machines
    targeted = options.target_rate is not None or options.target_distortion is not None
    options.method = options.method or list(experiment.methods)
    options.own_betas = {} if options.beta or experiment.betas or targeted else dict(experiment.own_betas)
    options.beta = options.beta or (list(experiment.betas) or None)
    return options


def _each_once(datasets: list[str | Path]) -> list[str | Path]:
    """Data sets without `all`, in whose place stand those that it means."""
    return list(dict.fromkeys(name for one in datasets for name in (order.DATASETS if one == "all" else [one])))


_REPORTED = {"report", "experiment", "out", "publish", "readme", "strict"}


def _check_together(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse options that do not go together, or not with this machine."""
    experiment, given = EXPERIMENTS[options.experiment], {n for n, v in vars(options).items() if v != parser.get_default(n)}
    ignored = given - experiment.heeds - {"experiment"} if experiment.heeds else set()
    several = experiment.run is not None and (len(options.dataset or []) > 1 or "all" in (options.dataset or []))
    constrained = bool(given & {"target_rate", "target_distortion"})
    without_tensorboard = importlib.util.find_spec("tensorboard") is None
    rules = (  # when options are refused, which, and why
        (True, ignored, f"not with --experiment {options.experiment}"),
        (without_tensorboard, {"tensorboard"}, "TensorBoard is not installed. Run: pip install '.[tensorboard]'"),
        (options.experiment != "analysis", {"arrays"}, "only with --experiment analysis"),
        (not options.dry_run, {"measure"}, "only with --dry-run"),
        (options.experiment != "likelihood", {"images", "temperatures", "chains"}, "only with --experiment likelihood"),
        (options.report and not experiment.run, given - _REPORTED, "not with --report, which takes all results in --out"),
        (options.split != "test", {"evaluate_on"}, "it takes test images; leave out --split"),
        (options.echoes != "reservoir", {"evaluate_on"}, "echoes are training examples there; leave out --echoes"),
        (bool(options.export), given - {"export", "out"}, "not with --export, which takes --out alone"),
        (options.executor != "ray", {"ray_address", "gpus"}, "only with --executor ray"),
        (several, {"dataset"}, f"{options.experiment} takes one data set"),
        (constrained and bool(experiment.betas), {"experiment"}, "rd has betas of its own; leave out the target"),
        (constrained and len(options.beta or []) > 1, {"beta"}, "training to a target starts from a single one"),
    )
    for applies, names, reason in rules:
        for name in sorted(names & given) if applies else []:
            parser.error(f"argument --{name.replace('_', '-')}: {reason}")
