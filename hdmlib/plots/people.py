"""People on pictures: skeletons, heatmaps over photos, galleries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke

from hdmlib.skeletons import Skeleton, side_of

# With more joints than this a contact sheet numbers them instead of naming them.
MOST_NAMES = 30
# Width of a picture on a contact sheet, in points.
SHEET_POINTS = 270
# Left and right differ in hue and lightness; joints on the body's axis are white.
LEFT, RIGHT, MIDDLE = "#ffb000", "#4cc9f0", "#ffffff"


def joint_colours(skeleton: Skeleton) -> list[str]:
    """One colour per joint: the person's left, the person's right, the middle."""
    colours = [MIDDLE] * len(skeleton)
    for a, b in skeleton.flip_pairs:
        left, right = (b, a) if side_of(skeleton.joints[a]) == "right" else (a, b)
        colours[left], colours[right] = LEFT, RIGHT
    return colours


def draw_skeleton(
    axes: Axes, joints: np.ndarray, skeleton: Skeleton, shown: np.ndarray | None = None, *, hollow: bool = False
) -> None:
    """Draw limbs and joints over a picture.

    Args:
        axes: Where the picture is.
        joints: (K, 2) in the picture's pixels.
        skeleton: Names and limbs of the K joints.
        shown: (K,) truthy for the joints to draw; all by default.
        hollow: Rings instead of dots and thin limbs, to distinguish one pose from another.
    """
    shown = np.ones(len(skeleton), bool) if shown is None else np.asarray(shown) > 0
    colours = joint_colours(skeleton)
    limbs = [(a, b) for a, b in skeleton.limbs if shown[a] and shown[b]]
    side = [colours[a] if colours[a] == colours[b] else MIDDLE for a, b in limbs]
    lines = [joints[[a, b]] for a, b in limbs]
    axes.add_collection(LineCollection(lines, colors="black", linewidths=1.4 if hollow else 2.8, alpha=0.55))
    axes.add_collection(LineCollection(lines, colors=side, linewidths=0.7 if hollow else 1.6))
    face = "none" if hollow else [c for c, s in zip(colours, shown, strict=True) if s]
    edge = [c for c, s in zip(colours, shown, strict=True) if s] if hollow else "black"
    axes.scatter(
        *joints[shown].T, s=20 if hollow else 11, c=face, edgecolors=edge, linewidths=0.9 if hollow else 0.4, zorder=3
    )


def show_picture(axes: Axes, picture: np.ndarray, title: str = "") -> None:
    """An (H, W, 3) uint8 picture or an (H, W) map without axes."""
    axes.imshow(picture, interpolation="nearest" if picture.ndim == 2 else "bilinear")
    axes.set_xlim(-0.5, picture.shape[1] - 0.5)
    axes.set_ylim(picture.shape[0] - 0.5, -0.5)
    axes.set_axis_off()
    if title:
        axes.set_title(title, fontsize=9)


def overlay(axes: Axes, picture: np.ndarray, heatmap: np.ndarray, title: str = "", *, own_scale: bool = True) -> None:
    """A heatmap over its greyed picture, each cell at its position; scaled to its own peak, or as it is, up to 1."""
    grey = picture.mean(axis=2) * 0.55
    show_picture(axes, np.repeat(grey[..., None], 3, axis=2).astype(np.uint8), title)
    height, width = picture.shape[:2]
    strength = heatmap / max(float(heatmap.max()), np.finfo(float).tiny) if own_scale else heatmap
    axes.imshow(
        strength, cmap="inferno", vmin=0, vmax=1, alpha=np.clip(strength * 1.6, 0, 1), interpolation="bilinear",
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
    )  # fmt: skip


def crops_with_targets(
    pictures: np.ndarray, joints: np.ndarray, shown: np.ndarray, targets: Mapping[str, np.ndarray], skeleton: Skeleton
) -> Figure:
    """The input of a training step: one column per crop, joints above, the targets of the losses below.

    Args:
        pictures: (N, H, W, 3) uint8.
        joints: (N, K, 2) in pixels of the crops.
        shown: (N, K) weights; joints of weight 0 are not drawn.
        targets: Name of a target -> (N, h, w) map, all joints in one.
        skeleton: The joints.
    """
    rows, columns = 1 + len(targets), len(pictures)
    figure, grid = plt.subplots(
        rows, columns, figsize=(1.75 * columns, 1.8 * rows), squeeze=False, layout="constrained"
    )
    for i in range(columns):
        show_picture(grid[0, i], pictures[i])
        draw_skeleton(grid[0, i], joints[i], skeleton, shown[i])
        for row, (name, maps) in enumerate(targets.items(), start=1):
            show_picture(grid[row, i], maps[i])
            if i == 0:
                grid[row, 0].set_title(name, loc="left", fontsize=9)
    grid[0, 0].set_title("crop and annotated joints", loc="left", fontsize=9)
    return figure


def prediction_gallery(
    pictures: np.ndarray,
    maps: np.ndarray,
    predicted: np.ndarray,
    true: np.ndarray,
    cells: np.ndarray,
    shown: np.ndarray,
    skeleton: Skeleton,
    close_ups: Sequence[int],
) -> Figure:
    """Validation people, one row each: prediction, truth, all heatmaps in one, and single joints' heatmaps.

    Args:
        pictures: (N, H, W, 3) uint8.
        maps: (N, K, h, w) readouts.
        predicted: (N, K, 2) in pixels of the crops.
        true: (N, K, 2) likewise.
        cells: (N, K, 2) the truth in cells of the maps.
        shown: (N, K) truthy where the truth is labelled.
        skeleton: The joints.
        close_ups: Indices of the joints whose own maps are shown.
    """
    columns = 3 + len(close_ups)
    figure, grid = plt.subplots(
        len(pictures), columns, figsize=(1.6 * columns, 1.65 * len(pictures)), squeeze=False, layout="constrained"
    )
    for i, row in enumerate(grid):
        first = i == 0
        show_picture(row[0], pictures[i], "predicted" if first else "")
        draw_skeleton(row[0], predicted[i], skeleton)
        show_picture(row[1], pictures[i], "annotated" if first else "")
        draw_skeleton(row[1], true[i], skeleton, shown[i])
        overlay(row[2], pictures[i], _all_in_one(maps[i]), "all heatmaps" if first else "")
        for axes, k in zip(row[3:], close_ups, strict=True):
            show_picture(axes, maps[i, k], skeleton.joints[k].replace("_", " ") if first else "")
            if shown[i, k]:
                axes.plot(*cells[i, k], marker="+", color="#4cc9f0", markersize=9, markeredgewidth=1.4)
    return figure


def before_and_after(
    pictures: np.ndarray,
    true: np.ndarray,
    shown: np.ndarray,
    states: Mapping[str, tuple[np.ndarray, np.ndarray]],
    skeleton: Skeleton,
) -> Figure:
    """The same people, a column each: the annotation, then heatmaps and joints of each state of a network.

    Args:
        pictures: (N, H, W, 3) uint8.
        true: (N, K, 2) in pixels of the crops.
        shown: (N, K) truthy where the truth is labelled; the other joints are not drawn.
        states: Title -> maps (N, K, h, w) and joints (N, K, 2) read from them.
        skeleton: The joints.
    """
    figure, grid = plt.subplots(
        1 + len(states), len(pictures), figsize=(1.75 * len(pictures), 1.85 * (1 + len(states))), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for i, axes in enumerate(grid[0]):
        show_picture(axes, pictures[i])
        draw_skeleton(axes, true[i], skeleton, shown[i])
    grid[0, 0].set_title("annotated", loc="left", fontsize=9)
    # One scale for all states of a joint: the flat map of an untrained network is dark beside a trained one.
    peaks = np.max([maps.max(axis=(2, 3), keepdims=True) for maps, _ in states.values()], axis=0)
    for row, (title, (maps, joints)) in zip(grid[1:], states.items(), strict=True):
        for i, axes in enumerate(row):
            overlay(axes, pictures[i], (maps[i] / peaks[i]).max(axis=0), own_scale=False)
            draw_skeleton(axes, joints[i], skeleton, shown[i])
        row[0].set_title(title, loc="left", fontsize=9)
    return figure


def _all_in_one(maps: np.ndarray) -> np.ndarray:
    """(K, h, w) heatmaps as one (h, w), each scaled to its own peak."""
    return (maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), np.finfo(float).tiny)).max(axis=0)


# Marker and colour of each kind of failure of ``metrics.failures``; told apart in grey by the marker.
FAILURE_MARKERS = {
    "left and right swapped": ("^", "#e78ac3"), "another joint": ("s", "#ffd92f"), "missed": ("X", "#ff5a36"),
}  # fmt: skip


def failed_people(
    pictures: np.ndarray, true: np.ndarray, predicted: np.ndarray, kinds: np.ndarray, skeleton: Skeleton
) -> Figure:
    """People in rows of six with their annotation, and an arrow from each joint that was not found to where it was put.

    Args:
        pictures: (N, H, W, 3) uint8.
        true: (N, K, 2) in pixels of the crops.
        predicted: (N, K, 2) likewise.
        kinds: (N, K) as ``metrics.failures`` returns them.
        skeleton: The joints.
    """
    columns = min(6, len(pictures))
    rows = -(-len(pictures) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(1.75 * columns, 1.95 * rows + 0.3), squeeze=False, layout="constrained"
    )
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, picture, joints, found, kind in zip(grid.flat, pictures, true, predicted, kinds, strict=False):
        show_picture(axes, picture)
        draw_skeleton(axes, joints, skeleton, kind != "", hollow=True)
        for name, (marker, colour) in FAILURE_MARKERS.items():
            these = kind == name
            axes.add_collection(
                LineCollection(list(np.stack([joints, found], axis=1)[these]), colors=colour, linewidths=1.1)
            )
            axes.plot(
                *found[these].T, marker, color=colour, markeredgecolor="black", markeredgewidth=0.6, markersize=5.5
            )
        axes.set_title(f"{np.isin(kind, list(FAILURE_MARKERS)).sum()} of {(kind != '').sum()} not found", fontsize=8)
    handles = [
        Line2D([], [], marker=marker, color=colour, markeredgecolor="black", linestyle="none", label=name)
        for name, (marker, colour) in FAILURE_MARKERS.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)
    return figure


# Of a joint's dot, by its confidence: light where it is sure, dark where it is not.
CONFIDENCE = "viridis"


def people_by_confidence(
    pictures: np.ndarray, poses: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], skeleton: Skeleton
) -> Figure:
    """The same people, a row per loss: each joint's dot is as light and as large as the network is sure of it.

    Args:
        pictures: (N, H, W, 3) uint8.
        poses: Title -> joints (N, K, 2) in pixels of the crops, confidence (N, K) from 0 to 1, and (N, K) truthy for
            the joints that are not where the annotation is: squares instead of circles.
        skeleton: The joints.
    """
    count = len(pictures)
    figure, grid = plt.subplots(
        len(poses), count, figsize=(1.75 * count + 0.9, 1.85 * len(poses)), squeeze=False, layout="constrained"
    )
    dots = None
    for row, (title, (joints, confidence, missed)) in zip(grid, poses.items(), strict=True):
        for axes, picture, person, sure, off in zip(row, pictures, joints, confidence, missed, strict=True):
            show_picture(axes, (picture * 0.6).astype(np.uint8))
            limbs = [person[[a, b]] for a, b in skeleton.limbs]
            axes.add_collection(LineCollection(limbs, colors="white", linewidths=0.7, alpha=0.6))
            for marker, these in (("o", np.asarray(off) == 0), ("s", np.asarray(off) != 0)):
                dots = axes.scatter(
                    *person[these].T, c=sure[these], s=10 + 34 * sure[these], marker=marker, cmap=CONFIDENCE, vmin=0,
                    vmax=1, edgecolors="black", linewidths=0.6, zorder=3,
                )  # fmt: skip
        row[0].set_title(title, loc="left", fontsize=9)
    if dots is not None:
        figure.colorbar(dots, ax=grid, shrink=0.8, pad=0.01, label="confidence").ax.tick_params(labelsize=7)
    return figure


def people_on_photo(
    photo: np.ndarray,
    boxes: np.ndarray,
    joints: np.ndarray,
    skeleton: Skeleton,
    *,
    shown: np.ndarray | None = None,
    heat: np.ndarray | None = None,
) -> Figure:
    """A photo with its predicted people and, beside it, their heatmaps.

    Args:
        photo: (H, W, 3) uint8.
        boxes: (N, 4) x, y, width, height in pixels of the photo.
        joints: (N, K, 2) likewise.
        skeleton: The joints.
        shown: (N, K) truthy for the joints to draw; all by default.
        heat: (H, W), all heatmaps at their positions on the photo; ``None``: the photo alone.
    """
    height, width = photo.shape[:2]
    columns, side = 1 if heat is None else 2, 4.2 / max(height, width)
    figure, grid = plt.subplots(
        1, columns, figsize=(columns * width * side, height * side), squeeze=False, layout="constrained"
    )
    show_picture(grid[0, 0], photo)
    shown = np.ones(joints.shape[:2], bool) if shown is None else shown
    for box, person, seen in zip(boxes, joints, shown, strict=True):
        grid[0, 0].add_patch(Rectangle(box[:2], *box[2:], fill=False, edgecolor=MIDDLE, linewidth=0.8, linestyle=":"))
        draw_skeleton(grid[0, 0], person, skeleton, seen)
    if heat is not None:
        overlay(grid[0, 1], photo, heat)
    return figure


def contact_sheet(
    pictures: np.ndarray, joints: np.ndarray, shown: np.ndarray, skeleton: Skeleton, titles: Sequence[str]
) -> Figure:
    """Annotated people in rows of four, each joint with its name, or its number where there are many.

    Args:
        pictures: (N, H, W, 3) uint8.
        joints: (N, K, 2) in pixels of the pictures.
        shown: (N, K) truthy where the joint is labelled.
        skeleton: Names, pairs and limbs of the K joints.
        titles: One for each picture.
    """
    columns = min(4, len(pictures))
    rows = -(-len(pictures) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(3.9 * columns, 4.1 * rows), squeeze=False, layout="constrained", dpi=100
    )
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, picture, person, labelled, title in zip(grid.flat, pictures, joints, shown, titles, strict=False):
        show_picture(axes, picture)
        axes.set_title(title, fontsize=7)
        draw_skeleton(axes, person, skeleton, labelled)
        _name_joints(axes, person, skeleton, labelled)
    figure.supxlabel(_sheet_legend(skeleton), fontsize=8)
    return figure


def _name_joints(axes: Axes, joints: np.ndarray, skeleton: Skeleton, shown: np.ndarray) -> None:
    """Write each shown joint's name beside it, where it covers no other name; a line leads to those further off."""
    many, colours, twins = len(skeleton) > MOST_NAMES, joint_colours(skeleton), skeleton.flip_order
    width, height = (abs(np.subtract(*limits)) for limits in (axes.get_xlim(), axes.get_ylim()))
    size, point = 5 if many else 6, width / SHEET_POINTS
    taken: list[tuple[float, float, float, float]] = []
    for k in np.flatnonzero(shown):
        text = str(k) if many else skeleton.joints[k].replace("_", " ")
        outwards = -1 if shown[twins[k]] and joints[k, 0] < joints[twins[k], 0] else 1
        places = _places(joints[k], (0.55 * size * len(text) * point, 1.1 * size * point), outwards, 3 * point)
        free = (place for place in places if _fits(place, (width, height), taken))
        left, top, right, bottom = next(free, places[0])
        taken.append((left, top, right, bottom))
        far = not top - 2 * size * point < joints[k, 1] < bottom + 2 * size * point
        axes.annotate(
            text, joints[k], ((left + right) / 2, (top + bottom) / 2), color=colours[k], fontsize=size, clip_on=True,
            ha="center", va="center", path_effects=[Stroke(linewidth=1.4, foreground="black"), Normal()],
            arrowprops={"arrowstyle": "-", "color": colours[k], "linewidth": 0.5, "shrinkB": 0} if far else None,
        )  # fmt: skip


def _places(
    joint: np.ndarray, extent: tuple[float, float], outwards: int, gap: float
) -> list[tuple[float, float, float, float]]:
    """Rectangles (left, top, right, bottom) for a text on both sides of a joint, from the best to the worst."""
    (x, y), (width, height) = joint, extent
    places = []
    for row in (0.8, -0.2, 1.8, -1.2, 2.8, -2.2, 3.8, -3.2):
        for side in (outwards, -outwards):
            left, top = x + gap if side > 0 else x - gap - width, y - row * height
            places.append((left, top, left + width, top + height))
    return places


def _fits(
    place: tuple[float, float, float, float],
    picture: tuple[float, float],
    taken: Sequence[tuple[float, float, float, float]],
) -> bool:
    """Whether a rectangle lies within the picture and over none that is taken."""
    left, top, right, bottom = place
    inside = left >= 0 and top >= 0 and right <= picture[0] and bottom <= picture[1]
    return inside and not any(left < x2 and x1 < right and top < y2 and y1 < bottom for x1, y1, x2, y2 in taken)


def _sheet_legend(skeleton: Skeleton) -> str:
    """What the colours and numbers of a contact sheet stand for."""
    sided = any(side_of(skeleton.joints[k]) for pair in skeleton.flip_pairs for k in pair)
    pairs = "orange: the person's left, blue: right" if sided else "orange and blue: the two joints of a pair"
    parts = [pairs] if skeleton.flip_pairs else []
    parts += ["numbers: positions of the joints in the list, from 0"] if len(skeleton) > MOST_NAMES else []
    return "; ".join(parts)
