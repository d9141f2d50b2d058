"""People on pictures: what is drawn is where it was given, and as it was given."""

import matplotlib.pyplot as plt
import numpy as np

from hdmlib.plots import people as draw
from hdmlib.skeletons import COCO_17


def test_confidence_is_size_and_colour_and_a_missed_joint_a_square():
    rng = np.random.default_rng(0)
    joints, confidence, missed = rng.uniform(5, 60, (2, 17, 2)), rng.random((2, 17)), rng.random((2, 17)) < 0.3
    pictures = np.full((2, 64, 64, 3), 128, np.uint8)
    figure = draw.people_by_confidence(pictures, {"matching": (joints, confidence, missed)}, COCO_17)
    _, circles, squares = figure.axes[1].collections
    for dots, these in ((circles, ~missed[1]), (squares, missed[1])):
        np.testing.assert_allclose(dots.get_offsets(), joints[1, these])
        np.testing.assert_allclose(dots.get_array(), confidence[1, these])
        assert (np.argsort(dots.get_sizes()) == np.argsort(confidence[1, these])).all()
        assert dots.get_clim() == (0, 1)
    assert len(circles.get_paths()[0].vertices) > len(squares.get_paths()[0].vertices)
    plt.close(figure)
