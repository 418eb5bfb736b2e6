"""How results that are drawn together are told apart: by label, colour, marker and its filling."""

from collections.abc import Sequence

from echo_tf.experiments.records import Result
from echo_tf.report.names import labels, plain_title
from echo_tf.report.style import method_look

# How the markers of a method are filled, one way for each of its settings.
FILLS = ("full", "left", "bottom", "right", "top", "none")
# Parts of names that the points of a curve have, not the curve.
OF_POINTS = ("beta", "seed")


def looks(results: Sequence[Result], without: Sequence[str] = ("seed",)) -> list[dict]:
    """Label, colour, marker and its filling for results that are drawn together, one a setting; `without` as in `labels`."""
    names, methods = labels(results, without), [result.method for result in results]
    settings = [name.removeprefix(plain_title(method)) for name, method in zip(names, methods, strict=True)]
    fills = {setting: FILLS[place % len(FILLS)] for place, setting in enumerate(dict.fromkeys(settings))}
    found = zip(names, settings, methods, strict=True)
    return [{"label": name, "fillstyle": fills[setting], **method_look(method, *methods)} for name, setting, method in found]
