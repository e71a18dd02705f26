"""What the figures of all rooms share: colours, panels, and how they are written.

Each `plot_*` function takes the path of the PNG file before what it draws (`written`), builds one
figure in memory and then writes it whole: after an error the file that stood at `path` before is
still there, or none. Nothing global of matplotlib is touched and `pyplot` is never imported, so the
functions work without a display and beside a notebook.

Line colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/); colour maps differ in
lightness from end to end or, diverging, from the middle: both serve colour-blind readers.
"""

import functools
import io

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from toolbox.durable_files import write_whole

BLUE, ORANGE, VERMILION = "#0072B2", "#E69F00", "#D55E00"
GREEN, PURPLE, SKY_BLUE = "#009E73", "#CC79A7", "#56B4E9"
LINE_COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY_BLUE, "black")
DPI = 200
LABEL_PT, TICK_PT, CLASS_PT = 9, 8, 6.5
RASTER_NEURONS = 80  # more rows than this cannot be told apart on a page


def written(draw, is_small=False):
    """Make of a function that draws a figure one that writes it to its first argument, a path.

    The function itself, which returns the figure, stays as `.draw`.
    """

    @functools.wraps(draw)
    def plot(path, *arguments, **options):
        save_figure(draw(*arguments, **options), path, is_small)

    plot.draw = draw
    return plot


def save_figure(figure, path, is_small=False):
    """Write a PNG file; a small one has half the resolution and a palette of 256 colours."""
    with write_whole(path) as file:
        if not is_small:
            figure.savefig(file, format="png", dpi=DPI)
            return
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=DPI / 2)
        image = Image.open(drawn).convert("RGB").quantize(256, Image.Quantize.FASTOCTREE)
        image.save(file, "png", optimize=True)


def with_note(title, note):
    """A title with a note on a line of its own, if there is one."""
    return f"{title}\n{note}".strip()


def draw_raster(axes, spikes, n_repeat, n_regular, n_directions):
    """Draw evenly chosen neurons of each group, spikes at their time in frames."""
    n_neurons = spikes.shape[1]
    n_shown = min(n_neurons, RASTER_NEURONS)
    shown = np.linspace(0, n_neurons - 1, n_shown).round().astype(int)
    per_direction = n_neurons // n_directions
    names = ("forward\nregular", "forward\nadaptive", "backward\nregular", "backward\nadaptive")
    ticks = {}
    for group, name in enumerate(names[: 2 * n_directions]):
        direction, is_adaptive = divmod(group, 2)
        first, last = (n_regular, per_direction) if is_adaptive else (0, n_regular)
        places = shown - direction * per_direction
        rows = np.flatnonzero((places >= first) & (places < last))
        if not rows.size:
            continue
        steps, columns = np.nonzero(spikes[:, shown[rows]])
        axes.vlines(
            (steps + 0.5) / n_repeat,
            rows[columns] - 0.42,
            rows[columns] + 0.42,
            color=VERMILION if "adaptive" in name else BLUE,
            linewidth=0.5,
        )
        if rows[0]:
            axes.axhline(rows[0] - 0.5, color="black", linewidth=0.8, zorder=3)
        ticks[rows.mean()] = name
    axes.set_ylim(n_shown - 0.5, -0.5)
    axes.set_yticks(list(ticks), list(ticks.values()))
    label_axes(axes, y=f"{n_shown} of the layer's {n_neurons} neurons")


def stacked_panels(width_in, heights_in, title):
    """Figure, its grid (second column: colour bars) and panels that share a horizontal axis."""
    figure = Figure(figsize=(width_in, sum(heights_in) + 0.9), layout="constrained")
    set_title(figure, title)
    grid = figure.add_gridspec(
        len(heights_in), 2, width_ratios=(1, 0.012), height_ratios=heights_in
    )
    panels = []
    for row in range(len(heights_in)):
        panels.append(figure.add_subplot(grid[row, 0], sharex=panels[0] if panels else None))
    for axes in panels[:-1]:
        axes.tick_params(labelbottom=False)
    figure.align_ylabels(panels)
    return figure, grid, panels


def set_title(figure, title):
    # A title may hold a user's comment, where "$" is no mathematics. Escaped, because wrapping
    # measures the text as mathematics whatever `parse_math` says.
    figure.suptitle(title.replace("$", r"\$"), fontsize=11, wrap=True)


def label_axes(axes, x=None, y=None):
    if x is not None:
        axes.set_xlabel(x, fontsize=LABEL_PT)
    if y is not None:
        axes.set_ylabel(y, fontsize=LABEL_PT)
    axes.tick_params(labelsize=TICK_PT)


def colour_bar(figure, cell, image, label):
    bar = figure.colorbar(image, cax=figure.add_subplot(cell))
    bar.set_label(label, fontsize=LABEL_PT)
    bar.ax.tick_params(labelsize=TICK_PT)
