"""The panel that sliders redraw, and the descent as a strip and as an animation."""

import io

import numpy as np
import pytest
from PIL import Image

from hdmlib.plots import panel

SIZE = (6, 8)


@pytest.fixture
def state():
    """A uniform heatmap, its plan to four demanders, and signed maps."""
    rng = np.random.default_rng(0)
    suppliers = np.full(SIZE, 1 / 48)
    points = np.array([[3, 2], [4, 2], [3, 3], [4, 3]], dtype=float)
    plan = np.outer(suppliers.ravel(), [0.4, 0.3, 0.2, 0.1])
    return {
        "suppliers": suppliers, "plan": plan, "points": points, "potential": rng.standard_normal(SIZE),
        "descent": rng.standard_normal(SIZE), "joint": np.array([3.4, 2.3]),
    }  # fmt: skip


def test_a_redraw_changes_the_picture_and_not_its_size(state):
    board = panel.LossPanel(SIZE)
    board.update(**state)
    first = Image.open(io.BytesIO(board.png()))
    board.update(**{**state, "descent": -state["descent"]})
    second = Image.open(io.BytesIO(board.png()))
    assert first.size == second.size
    assert first.tobytes() != second.tobytes()
    np.testing.assert_array_equal(board.images[3].get_array(), -state["descent"])


def test_flows_lead_from_cells_to_demanders_the_heaviest_first(state):
    board = panel.LossPanel(SIZE)
    plan = np.zeros_like(state["plan"])
    plan[10, 2] = 1.0  # cell (2, 1)
    board.update(**{**state, "plan": plan})
    segments = board.flows.get_segments()
    heaviest = segments[int(np.argmax(board.flows.get_linewidth()))]
    np.testing.assert_array_equal(heaviest, [[2, 1], [3, 3]])


def test_a_strip_has_a_row_a_loss_and_a_column_a_step():
    paths = {name: np.random.default_rng(1).random((4, *SIZE)) for name in ("matching", "cross-entropy")}
    figure = panel.descent_strip(paths, [0, 3], np.array([3.0, 2.0]))
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["matching", "cross-entropy"]
    assert [axes.get_title() for axes in figure.axes[:2]] == ["start", "step 3"]


def test_an_animation_is_saved_where_a_notebook_keeps_its_figures(tmp_path, monkeypatch):
    paths = {"matching": np.random.default_rng(2).random((6, *SIZE))}
    monkeypatch.delenv("HDMLIB_FIGURES", raising=False)
    panel.save_descent(paths, [0, 2, 5], np.array([3.0, 2.0]), "descent")
    monkeypatch.setenv("HDMLIB_FIGURES", str(tmp_path))
    panel.save_descent(paths, [0, 2, 5], np.array([3.0, 2.0]), "descent")
    [saved] = tmp_path.iterdir()
    with Image.open(saved) as animation:
        assert animation.n_frames == 3
        assert animation.info["loop"] == 0
