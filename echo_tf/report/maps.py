"""Figures of two dimensions of the codes of trained models. Reads files only, no models."""

from pathlib import Path

import numpy as np

from echo_tf.experiments.records import LatentMap, Result
from echo_tf.report.names import title
from echo_tf.report.pictures import mosaic
from echo_tf.report.style import method_look, pyplot, save

MOST_CLASSES = 20  # that colours can tell apart


def plot_map(result: Result, found: LatentMap, path: Path) -> Path:
    """Codes of images in the two dimensions of highest rate, coloured by label, and what the decoder makes of these dimensions.

    Without labels, or with more than `MOST_CLASSES`, the codes have one colour. Of data that are no images there is no second
    panel.
    """
    is_image = found.decoded.ndim == 4 or found.decoded.shape[4:] in ((1,), (3,))
    figure, axes = pyplot().subplots(1, 1 + is_image, figsize=(4.6 + 4.2 * is_image, 4.3), squeeze=False)
    names = [f"z, dimension {j} ({rate:.2f} nats)" for j, rate in zip(found.dimensions, found.rate_nats, strict=True)]
    axis, classes = axes[0, 0], np.unique(found.labels)
    if 1 < len(classes) <= MOST_CLASSES:
        colours = pyplot().get_cmap("tab10" if len(classes) <= 10 else "tab20")
        for place, label in enumerate(classes):
            axis.scatter(*found.z[found.labels == label].T, s=4, linewidths=0, color=colours(place), label=str(label))
        figure.legend(title="label", loc="outside left upper", markerscale=3)
    else:
        axis.scatter(*found.z.T, s=4, linewidths=0, color=method_look(result.method)["color"])
    axis.set(xlabel=names[0], ylabel=names[1], title=f"{len(found.z):,} {result.split} images")
    if is_image:
        _draw_pictures(axes[0, 1], found)
        axes[0, 1].set(xlabel=names[0], ylabel=names[1], title="decoded")
    figure.suptitle(title([result], without=()))
    return save(figure, path)


def _draw_pictures(axis, found: LatentMap) -> None:
    """The pictures, each in the middle of its values; the second dimension grows upwards."""
    pictures = found.decoded[..., 0] if found.decoded.shape[4:] == (1,) else found.decoded
    half = (found.ticks[:, 1] - found.ticks[:, 0]) / 2
    (left, bottom), (right, top) = found.ticks[:, 0] - half, found.ticks[:, -1] + half
    axis.grid(visible=False)
    extent = (left, right, bottom, top)
    axis.imshow(mosaic(pictures[::-1]), cmap="gray_r", vmin=0, vmax=255, extent=extent, aspect="auto")
