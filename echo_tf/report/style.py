"""What all figures share: style file, colours and markers, and writing them as PNG and PDF."""

from pathlib import Path

STYLE = Path(__file__).with_name("figures.mplstyle")

# Nine for the methods of the paper and three for ours beside them, which readers with colour blindness tell apart.
_PAPER_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999", "#882255")
COLOURS = (*_PAPER_COLOURS, "#332288", "#999933", "#6B3E26")
MARKERS = "osD^vPX*<>hpd8H"  # all that can be filled by halves
FILLS = ("full", "left", "none", "top", "right", "bottom")  # of markers of one method, by setting

# One colour and marker a method in every figure. The paper's nine and ours that stand beside them have colours of their own;
# the others have the same colours again, and are so ordered that none has that of the method that it departs from.
_OF_PAPER = ("echo", "vae", "iaf", "info_vae", "vae_vamp", "vae_maf", "iaf_mmd", "iaf_vamp", "iaf_maf")
BESIDE_PAPER = (*_OF_PAPER, "echo_matrix", "vae_full", "echo_maf")
_DEPARTING = ("vae_shared_noise", "echo_replace", "echo_mmd", "echo_gaussian", "vae_conv_5x5", "echo_large_batch")
_OTHERS = ("echo_literal", "echo_reservoir", "echo_pixelcnn", "vae_pixelcnn", "vae_tc", "echo_tc")
_LAST = ("vae_released_schedule", "echo_independent", "echo_matrix_gaussian", "echo_matrix_independent")
METHODS = (*BESIDE_PAPER, *_DEPARTING, *_OTHERS, *_LAST)


def pyplot():
    """`matplotlib.pyplot` without a screen, in our style."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcdefaults()
    plt.style.use(STYLE)
    return plt


def method_look(method: str, *drawn: str) -> dict[str, str]:
    """Colour and marker of a method. One that is not ours has its look by its place among all methods that are `drawn`."""
    place = list(dict.fromkeys([*METHODS, *drawn, method])).index(method)
    return {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}


def save(figure, path: Path) -> Path:
    """Write a figure to the PNG file `path`, and as PDF beside it, and close it. Returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for heading in (*figure.texts, *(axis.title for axis in figure.axes)):
        heading.set_wrap(True)  # where the figure ends
    figure.savefig(path)
    figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})  # the same results give the same bytes
    pyplot().close(figure)
    return path


def legend(axis, beside: bool = False, loc: str = "best") -> None:
    """Legend with one entry a label, in the axis or beside it."""
    handles = _entries(axis)
    place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if beside else {"loc": loc}
    axis.legend(handles.values(), handles.keys(), **place)


def headed(figure, heading: str = "", columns: int = 3):
    """The figure under a heading, with one legend below for all its panels, one entry a label."""
    handles = {label: handle for axis in figure.axes for label, handle in _entries(axis).items()}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns)
    if heading:
        figure.suptitle(heading)
    return figure


def _entries(axis) -> dict:
    return dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
