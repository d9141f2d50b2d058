"""The synthetic people: bodies within human measures, exact ray casting, and labels that agree with the picture."""

import cv2
import numpy as np
import pytest

from hdmlib.skeletons import COCO_17, MPII_16
from hdmlib.synthetic.body import RANGES, SEGMENTS, SKULL_CENTRE, pose_body, sample_lengths, sample_pose, turn
from hdmlib.synthetic.clothes import Palette, dress, sample_outfit
from hdmlib.synthetic.raycast import SAMPLES, Camera, Raster, Solid, draw
from hdmlib.synthetic.scenes import draw_scene, label_person

LIGHT = np.array([0.3, 0.7, 0.5])


def camera_at(distance: float, height: float = 0.9, size: int = 256, focal: float = 400.0) -> Camera:
    """A level camera on the +z side that looks along -z: it sees a body of yaw 0 from the front."""
    return Camera(
        focal, np.array([size / 2, size / 2]), size, size, np.diag([1.0, -1.0, -1.0]), np.array([0, height, distance])
    )


def random_body(seed: int, yaw: float | None = None):
    rng = np.random.default_rng(seed)
    stature, girth, lengths = sample_lengths(rng)
    _, angles = sample_pose(rng)
    return pose_body(angles, lengths, stature=stature, girth=girth, yaw=rng.uniform(0, 360) if yaw is None else yaw)


def standing(yaw: float = 0.0, **angles: float):
    lengths = {name: 1.7 * share for name, share in SEGMENTS.items()}
    return pose_body(angles, lengths, stature=1.7, yaw=yaw)


# Bodies ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_bones_keep_their_lengths_in_every_pose(seed):
    body = random_body(seed)

    def distance(a, b):
        return np.linalg.norm(body.joints[a] - body.joints[b])

    for side in ("left", "right"):
        bones = {"upper_arm": ("shoulder", "elbow"), "forearm": ("elbow", "wrist"), "thigh": ("hip", "knee")}
        for name, ends in (bones | {"shank": ("knee", "ankle")}).items():
            assert distance(*(f"{side}_{end}" for end in ends)) == pytest.approx(body.lengths[name])
    assert distance("left_hip", "right_hip") == pytest.approx(2 * body.lengths["hip"])
    for name, share in SEGMENTS.items():
        assert abs(body.lengths[name] / (share * body.stature) - 1) <= 0.04
    assert 1.4 < body.stature < 2.0


def test_poses_stay_within_the_ranges_of_people():
    rng = np.random.default_rng(0)
    seen = {name: [] for name in RANGES}
    for _ in range(400):
        for name, angle in sample_pose(rng)[1].items():
            joint = name.split("_", 1)[1] if name.startswith(("left_", "right_")) else name
            if joint in RANGES:
                seen[joint].append(angle)
    for joint, (low, high) in RANGES.items():
        assert low <= min(seen[joint])
        assert max(seen[joint]) <= high
        assert np.ptp(seen[joint]) > 0.3 * (high - low), f"{joint} hardly moves"


def test_every_joint_of_both_skeletons_is_there_and_left_is_left():
    joints = standing().joints
    assert {*COCO_17.joints, *MPII_16.joints} == set(joints)
    for name, point in joints.items():
        if name.startswith("left_"):
            mirrored = joints[name.replace("left_", "right_")] * (-1, 1, 1)
            assert point[0] > 0
            np.testing.assert_allclose(point, mirrored, atol=1e-12)
    assert joints["nose"][2] > joints["head_top"][2]
    np.testing.assert_allclose(joints["pelvis"], (joints["left_hip"] + joints["right_hip"]) / 2)
    assert joints["head_top"][1] == pytest.approx(1.7, rel=0.02)


@pytest.mark.parametrize(
    ("angle", "joint", "axis"),
    [
        ("left_hip_flexion", "left_knee", 2),
        ("left_knee_flexion", "left_ankle", -2),
        ("right_elbow_flexion", "right_wrist", 2),
        ("right_shoulder_flexion", "right_elbow", 2),
        ("left_shoulder_abduction", "left_elbow", 0),
        ("lumbar_flexion", "head_top", 2),
    ],
)
def test_angles_turn_the_way_they_are_named(angle, joint, axis):
    moved = standing(**{angle: 40.0}).joints[joint] - standing().joints[joint]
    assert np.sign(axis or 1) * moved[abs(axis)] > 0.05


def test_bodies_rest_on_the_ground():
    for seed in range(20):
        lowest = min(point[1] for point in random_body(seed).joints.values())
        assert 0 < lowest < 0.2


# Ray casting ----------------------------------------------------------------------------------------------------------


def inside(solid: Solid, points: np.ndarray) -> np.ndarray:
    """Whether points (N, 3) lie in a solid: the union of its spheres, independent of the ray caster."""
    local = (points - solid.origin) @ solid.rotation / np.array(solid.scale)
    if solid.box:
        return (np.abs(local) < solid.radii[0]).all(1)
    s = np.linspace(0, 1, 40 if solid.length else 1)
    centres = np.stack([0 * s, s * solid.length, 0 * s], 1)
    radii = solid.radii[0] + s * (solid.radii[1] - solid.radii[0])
    return (np.linalg.norm(local[:, None] - centres, axis=2) < radii).any(1)


@pytest.mark.parametrize(
    "solid",
    [
        Solid(np.array([0.1, 0.8, 0.0]), turn("z", 30) @ turn("x", 50), 0.6, (0.3, 0.1)),
        Solid(np.array([0.0, 0.9, 0.0]), turn("x", 88), 0.5, (0.1, 0.3)),
        Solid(np.array([0.0, 0.9, 0.0]), turn("x", -88), 0.5, (0.1, 0.3)),
        Solid(np.array([0.0, 0.9, 0.0]), turn("y", 40), 0.4, (0.2, 0.25), (1.4, 1.0, 0.7)),
        Solid(np.array([-0.2, 1.0, 0.3]), turn("z", 70), 0.0, (0.4, 0.4), (1.0, 0.5, 0.7)),
        Solid(np.array([0.2, 0.7, 0.0]), turn("y", 35) @ turn("x", 20), 0.0, (1.0, 1.0), (0.3, 0.2, 0.4), box=True),
    ],
    ids=["cone", "cone end on", "cone from behind", "flat cone", "ellipsoid", "box"],
)
def test_depth_agrees_with_marching_along_the_rays(solid):
    camera = camera_at(4.0, size=64, focal=200.0)
    raster = Raster(camera)
    draw(raster, [solid], LIGHT)
    depths = np.arange(2.5, 6.0, 0.004)
    rng = np.random.default_rng(0)
    compared = hits = 0
    for row, column in rng.integers(0, 64 * SAMPLES, (120, 2)):
        pixel = (np.array([column, row]) + 0.5) / SAMPLES - 0.5
        ray = np.array([*((pixel - camera.centre) / camera.focal), 1.0])
        march = inside(solid, depths[:, None] * ray @ camera.rotation + camera.position)
        found = raster.depth[row, column]
        compared += np.isfinite(found) == march.any()
        if np.isfinite(found) and march.any():
            hits += 1
            assert found == pytest.approx(depths[march.argmax()], abs=0.03)
    assert compared >= 117  # the march may miss a sliver at the outline
    assert hits >= 12


def test_nearer_solids_hide_farther_ones_in_any_order():
    near = Solid(np.array([0, 0.9, 1.0]), np.eye(3), 0, (0.2, 0.2), paint=1, owner=1)
    far = Solid(np.array([0, 0.9, 0.0]), np.eye(3), 0, (0.5, 0.5), paint=2, owner=2)
    for order in ([near, far], [far, near]):
        raster = Raster(camera_at(4.0))
        draw(raster, order, LIGHT)
        assert raster.at(np.array([[128.0, 128.0]]))[1] == 1
        assert {0, 1, 2} == set(np.unique(raster.owner))


# People ---------------------------------------------------------------------------------------------------------------


def portrait(body, seed: int = 0, camera: Camera | None = None):
    rng, palette = np.random.default_rng(seed), Palette()
    outfit = sample_outfit(rng, palette)
    solids = dress(body, outfit, 1)
    raster = Raster(camera or camera_at(3.0))
    draw(raster, solids, LIGHT)
    return raster, outfit, solids


@pytest.mark.parametrize("seed", range(6))
def test_front_and_back_can_be_told_apart(seed):
    front, outfit, _ = portrait(standing(), seed)
    back, _, _ = portrait(standing(yaw=180), seed)
    face = [outfit.white, outfit.iris, outfit.lips]
    assert np.isin(front.paint, face).sum() > 20
    assert np.isin(back.paint, face).sum() == 0
    # A person's back is no mirror image of the front, nor is the front of itself where a pocket marks the left.
    assert (back.paint != front.paint[:, ::-1])[front.paint > 0].mean() > 0.05


def test_seen_from_the_front_the_left_hand_is_on_the_right():
    body = standing()
    camera = camera_at(3.0)
    pixels = camera.project(camera.see(np.array([body.joints["left_wrist"], body.joints["right_wrist"]])))
    assert pixels[0, 0] > 128 > pixels[1, 0]


def test_joints_lie_in_the_drawn_body_and_visibility_agrees_with_marching():
    """A joint is seen when the way from the camera reaches it without entering another part well before."""
    compared = {1: 0, 2: 0}
    for seed in range(10):
        body = random_body(seed)
        camera = camera_at(3.5)
        raster, _, solids = portrait(body, seed, camera)
        label = label_person(raster, camera, body, 1)
        names = list(label.joints)
        # Steps of 6 mm over the last 0.9 m before each joint, all joints at once.
        ways = np.array([body.joints[name] for name in names]) - camera.position
        before = np.arange(0.9, 0, -0.006)
        points = camera.position + ways[:, None] * (1 - before / np.linalg.norm(ways, axis=1)[:, None])[..., None]
        entered = np.any([inside(solid, points.reshape(-1, 3)) for solid in solids], axis=0).reshape(len(names), -1)
        for name, path in zip(names, entered, strict=True):
            x, y, v = label.joints[name]
            around = np.s_[int(2 * y) - 1 : int(2 * y) + 4, int(2 * x) - 1 : int(2 * x) + 4]
            assert 1 in raster.owner[around], f"{name} is not on person {seed}"
            depth = (before[path.argmax()] if path.any() else 0.0) / body.stature
            # Clear cases only: on the skin or deeper than any joint lies in its own flesh, and not on an outline.
            if (depth < 0.01 or depth > 0.12) and np.ptp(raster.depth[around]) < 0.06:
                compared[v] += 1
                assert v == (2 if depth < 0.01 else 1), f"{name} of person {seed}"
    assert compared[1] >= 15
    assert compared[2] >= 15, compared


def test_a_wall_in_front_hides_and_a_border_removes():
    body = standing()
    camera = camera_at(3.0)
    raster, _, solids = portrait(body)
    clear = label_person(raster, camera, body, 1)
    assert clear.joints["left_knee"][2] == clear.joints["nose"][2] == 2
    raster = Raster(camera)
    board = Solid(np.array([0, 0.4, 1.0]), np.eye(3), 0, (1.0, 1.0), (1.0, 0.4, 0.02), 1, 200, box=True)
    draw(raster, [*solids, board], LIGHT)
    behind = label_person(raster, camera, body, 1)
    assert behind.joints["left_knee"][2] == 1
    assert behind.joints["nose"][2] == 2
    assert behind.area < clear.area
    assert behind.box[3] < clear.box[3]
    low = Camera(camera.focal, np.add(camera.centre, (0, 120)), 256, 256, camera.rotation, camera.position)
    raster = Raster(low)
    draw(raster, solids, LIGHT)
    cut = label_person(raster, low, body, 1)
    assert cut.joints["left_ankle"][2] == 0
    assert cut.joints["left_ankle"][1] > 256
    assert cut.box[1] + cut.box[3] == 256
    empty = Raster(camera)
    assert label_person(empty, camera, body, 1) is None


def test_head_box_frames_the_skull():
    body = random_body(3)
    camera = camera_at(3.0)
    raster, _, _ = portrait(body)
    x1, y1, x2, y2 = label_person(raster, camera, body, 1).head_box
    origin, frame = body.frames["head"]
    middle = camera.project(camera.see(origin + frame @ (body.lengths["head"] * SKULL_CENTRE)))
    np.testing.assert_allclose(middle, [(x1 + x2) / 2, (y1 + y2) / 2], atol=1.0)
    size = np.hypot(x2 - x1, y2 - y1) / (camera.focal / camera.see(origin)[2])
    assert 0.25 < size < 0.42  # the diagonal of a head's box, metres


# Scenes ---------------------------------------------------------------------------------------------------------------


def scenes(count: int, size: int = 128):
    return [draw_scene(np.random.default_rng([7, i]), size) for i in range(count)]


def test_scenes_are_pictures_of_people():
    drawn = scenes(40)
    heights, crowds, hidden = [], 0, 0
    for scene in drawn:
        height, width, _ = scene.image.shape
        assert max(height, width) == 128
        assert scene.image.dtype == np.uint8
        assert scene.image.std() > 10
        assert scene.owners.shape == (height, width)
        crowds += len(scene.people) > 1
        for person in scene.people:
            x, y, w, h = person.box
            assert x >= 0 and y >= 0 and x + w <= width and y + h <= height  # noqa: PT018
            assert 0 < person.area <= w * h
            for jx, jy, v in person.joints.values():
                if v:
                    assert -0.5 <= jx < width - 0.5
                    assert -0.5 <= jy < height - 0.5
                if v == 2:
                    assert x - 1 <= jx <= x + w
                    assert y - 1 <= jy <= y + h
                hidden += v == 1
        if scene.people:
            heights.append(scene.people[0].box[3] / height)
    assert len(heights) == 40
    assert 0.4 < np.median(heights) < 0.95
    assert 0 < crowds < 25
    assert hidden > 40


def test_seen_joints_of_scenes_lie_on_their_person():
    for scene in scenes(15):
        for joint in scene.people[0].joints.values():
            if joint[2] == 2:
                x, y = np.rint(joint[:2]).astype(int)
                around = scene.owners[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
                assert 1 in around


def test_a_scene_is_a_function_of_the_generator():
    threads = cv2.getNumThreads()
    first = draw_scene(np.random.default_rng(5), 96)
    cv2.setNumThreads(1)
    again = draw_scene(np.random.default_rng(5), 96)
    cv2.setNumThreads(threads)
    np.testing.assert_array_equal(first.image, again.image)
    assert first.people == again.people
    other = draw_scene(np.random.default_rng(6), 96)
    assert first.people != other.people


def test_too_small_a_picture_is_refused():
    with pytest.raises(ValueError, match="size"):
        draw_scene(np.random.default_rng(0), 16)
