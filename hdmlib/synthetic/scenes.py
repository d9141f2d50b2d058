"""One picture with people: a random generator in; an RGB picture and every person's joints, visibility and boxes out.

A scene has a camera, a floor and a wall in perspective, things and other people behind and in front of the main person,
one light with cast shadows, and a lens and sensor with faults. Joints come from the geometry, with
sub-pixel precision, and their visibility from the z-buffer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from hdmlib.skeletons import COCO_17, MPII_16
from hdmlib.synthetic.body import SKULL_AXES, SKULL_CENTRE, Body, pose_body, sample_lengths, sample_pose
from hdmlib.synthetic.clothes import Palette, dress, sample_outfit
from hdmlib.synthetic.raycast import SAMPLES, Camera, Raster, draw
from hdmlib.synthetic.scenery import background, daylight, furnish, noise_bank, seat

# Flesh around a joint, as a share of the stature: a joint is seen when the surface seen at its pixel is this person's
# and at most so far before it. Points on the skin (face) have only the tolerance of a pixel's slant.
_FLESH = {
    "nose": 0.020, "eye": 0.012, "ear": 0.030, "shoulder": 0.065, "elbow": 0.042, "wrist": 0.032, "hip": 0.095,
    "knee": 0.055, "ankle": 0.045, "pelvis": 0.105, "thorax": 0.080, "upper_neck": 0.078, "head_top": 0.060,
}  # fmt: skip


@dataclass(frozen=True)
class PersonLabel:
    """Annotation of one person of a picture; pixels are 0-based with centres at integers.

    Attributes:
        joints: Name -> (x, y, v) for all joints of COCO-17 and MPII-16; v is 2 seen, 1 hidden, 0 outside the picture
            (x, y are true all the same).
        box: (x, y, width, height) of the pixels that show the person, as COCO has it: edges, from 0 to the picture's
            size.
        area: Number of those pixels.
        head_box: (x1, y1, x2, y2) around the whole head, seen or not.
        stature: Height in pixels the person would have standing upright there.
    """

    joints: dict[str, tuple[float, float, int]]
    box: tuple[float, float, float, float]
    area: float
    head_box: tuple[float, float, float, float]
    stature: float


@dataclass(frozen=True)
class Scene:
    """A picture and its annotations.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        people: The labels, the main person's first.
        owners: (H, W) uint8, what a pixel shows: 0 background, 1 the main person, 2 and up bystanders, 200 a thing.
    """

    image: np.ndarray
    people: tuple[PersonLabel, ...]
    owners: np.ndarray


# Camera ---------------------------------------------------------------------------------------------------------------


def _extremes(body: Body) -> np.ndarray:
    """Points (N, 3) that span the body: joints, finger tips, toes and heels."""
    points = list(body.joints.values())
    for side in ("left", "right"):
        wrist, hand = body.frames[f"{side}_hand"]
        ankle, foot = body.frames[f"{side}_foot"]
        points.append(wrist - body.lengths["hand"] * hand[:, 1])
        points += [
            ankle + foot @ np.array([0, -body.lengths["ankle"], z * body.lengths["foot"]]) for z in (-0.25, 0.75)
        ]
    return np.array(points)


def _look_at(rng: np.random.Generator, body: Body, width: int, height: int) -> Camera:
    """A camera that shows the body 55 to 90 % of the picture high, anywhere in it, now and then cut by a border."""
    focal = max(width, height) * rng.uniform(1.1, 2.2)
    pitch, roll = np.deg2rad(min(abs(rng.normal(7, 8)), 35)), np.deg2rad(rng.normal(0, 3))
    # Looking down, never up, keeps the camera above the floor.
    down_and_ahead = np.array([[1, 0, 0], [0, -np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), -np.cos(pitch)]])
    tilt = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    rotation = tilt @ down_and_ahead
    points = _extremes(body)
    centre = (points.min(0) + points.max(0)) / 2
    turned = (points - centre) @ rotation.T
    share = rng.uniform(0.55, 0.90)
    distance = 3.0
    for _ in range(6):  # distance at which the projection is as large as wanted; converges fast
        flat = turned[:, :2] / (turned[:, 2:] + distance) * focal
        span = np.ptp(flat, axis=0)
        distance = max(distance * max(span[1] / (share * height), span[0] / (0.9 * width)), 1.2)
    low, high = flat.min(0), flat.max(0)
    room = np.array([width, height]) - (high - low)
    corner = rng.uniform(0, 1, 2) * np.maximum(room, 0) + np.minimum(room, 0) / 2
    if rng.random() < 0.12:
        axis, sign = int(rng.integers(2)), rng.choice([-1, 1])
        outside = rng.uniform(0.08, 0.25) * (high - low)[axis]
        corner[axis] = -outside if sign < 0 else room[axis] + outside
    position = centre - distance * rotation[2]
    return Camera(focal, corner - low, width, height, rotation, position)


# People ---------------------------------------------------------------------------------------------------------------


def _sample_person(rng: np.random.Generator) -> tuple[str, Body]:
    """A body in a random pose without hands or elbows inside the trunk.

    It may face anywhere, but like the people of photographs most often the camera, which looks along -z.
    """
    stature, girth, lengths = sample_lengths(rng)
    yaw = rng.normal(0, 55)
    for _ in range(6):
        stance, angles = sample_pose(rng)
        body = pose_body(angles, lengths, stature=stature, girth=girth, yaw=yaw)
        if not _arms_inside(body):
            break
    return stance, body


def _arms_inside(body: Body) -> bool:
    origin, chest = body.frames["chest"]
    names = ("left_elbow", "right_elbow", "left_wrist", "right_wrist")
    x, y, z = ((np.array([body.joints[n] for n in names]) - origin) @ chest).T / body.stature
    reach = body.girth * 0.09
    return bool((((x / reach) ** 2 + (z / (0.8 * reach)) ** 2 < 1) & (y > -0.12) & (y < 0.21)).any())


def _moved(body: Body, shift: np.ndarray) -> Body:
    frames = {name: (origin + shift, rotation) for name, (origin, rotation) in body.frames.items()}
    return replace(body, frames=frames, joints={name: point + shift for name, point in body.joints.items()})


def _bystander(rng: np.random.Generator, camera: Camera) -> tuple[str, Body]:
    """Another person, behind the main one or beside and a little nearer."""
    stance, body = _sample_person(rng)
    ahead = camera.rotation[2] * (1, 0, 1)
    ahead /= np.linalg.norm(ahead)
    side = np.array([-ahead[2], 0, ahead[0]]) * rng.choice([-1, 1])
    if rng.random() < 0.75:
        shift = ahead * rng.uniform(0.5, 3.0) + side * rng.uniform(0.25, 1.6)
    else:
        shift = ahead * rng.uniform(-0.5, 0.2) + side * rng.uniform(0.55, 1.0)
    return stance, _moved(body, shift)


def draw_scene(rng: np.random.Generator, size: int = 256) -> Scene:
    """Draw one picture with a main person and, in about a quarter of them, one or two more.

    Args:
        rng: Source of all randomness: the same state gives the same scene.
        size: The longer side of the picture in pixels.

    Returns:
        The picture and its labels. Bystanders of whom little is visible are unlabelled, as in real annotations.

    Raises:
        ValueError: If ``size`` is below 32.
    """
    if size < 32:
        raise ValueError(f"size must be at least 32 pixels, got {size}")
    aspect = float(rng.choice([0.75, 1.0, 1.0, 4 / 3]))
    width, height = round(size * min(1.0, aspect)), round(size * min(1.0, 1 / aspect))
    people = [_sample_person(rng)]
    _, main = people[0]
    camera = _look_at(rng, main, width, height)
    if rng.random() < 0.25:
        people += [_bystander(rng, camera) for _ in range(int(rng.choice([1, 1, 2])))]
    bodies = [body for _, body in people]
    palette = Palette()
    solids = furnish(rng, palette, camera, main)
    for number, (stance, body) in enumerate(people, start=1):
        solids += dress(body, sample_outfit(rng, palette), number)
        if stance == "sit":
            solids += seat(rng, palette, body)
    sun = np.array([rng.normal(0, 0.8), rng.uniform(0.5, 1.5), 0.0]) - camera.rotation[2] * rng.uniform(0.0, 1.4)
    sun /= np.linalg.norm(sun)
    raster = Raster(camera)
    draw(raster, solids, sun * rng.uniform(0.55, 0.95), rng.uniform(0.3, 0.5))
    surroundings = background(rng, camera), daylight(rng, camera, bodies, sun)
    image = _expose(rng, _compose(raster, *surroundings, palette))
    labels = [label_person(raster, camera, body, number) for number, body in enumerate(bodies, start=1)]
    known = [labels[0], *(label for label in labels[1:] if label and _worth_a_label(label, height))]
    return Scene(image, tuple(label for label in known if label), raster.owner[::SAMPLES, ::SAMPLES].copy())


# Picture --------------------------------------------------------------------------------------------------------------


def _compose(raster: Raster, surroundings: np.ndarray, brightness: np.ndarray, palette: Palette) -> np.ndarray:
    """Colour the samples, darken crevices, and average them over the surroundings: (H, W, 3) float32."""
    # Colour times brightness in 8 bits, which OpenCV does fast; 128 stands for brightness 1.
    table = np.zeros((1, 256, 3), np.uint8)
    table[0, : len(palette.colours)] = np.clip(palette.colours, 0, 255)
    shade = cv2.convertScaleAbs(raster.shade, alpha=128)
    colour = cv2.multiply(cv2.LUT(cv2.merge([raster.paint] * 3), table), cv2.merge([shade] * 3), scale=1 / 128)
    size = surroundings.shape[1::-1]
    colour = cv2.resize(colour, size, interpolation=cv2.INTER_AREA)
    drawn = cv2.threshold(raster.paint, 0, 255, cv2.THRESH_BINARY)[1]
    bare = 1 - cv2.resize(drawn, size, interpolation=cv2.INTER_AREA).astype(np.float32) * np.float32(1 / 255)
    # Ambient occlusion from the z-buffer alone: what lies behind its surroundings receives less light from the sky.
    depth = raster.depth[::SAMPLES, ::SAMPLES].copy()
    far = cv2.minMaxLoc(depth, drawn[::SAMPLES, ::SAMPLES].copy())[1]
    depth = np.minimum(depth, np.float32(far + 0.25))
    reach = surroundings.shape[0] // 36 * 2 + 1
    sky = 1 - np.clip((depth - cv2.blur(depth, (reach, reach))) * 4, 0, 0.4)
    people = cv2.multiply(colour, cv2.merge([sky] * 3), dtype=cv2.CV_32F)
    return people + cv2.multiply(surroundings, cv2.merge([bare * brightness] * 3), dtype=cv2.CV_32F)


def _expose(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """White balance, exposure, lens blur and sensor noise; to (H, W, 3) uint8."""
    gain = rng.normal(1, 0.04, 3) * rng.uniform(0.85, 1.15)
    blur, grain = rng.uniform(0, 0.8), rng.uniform(1, 7)
    if blur > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    rows, columns = (np.arange(n) + shift for n, shift in zip(image.shape, rng.integers(0, 256, 2), strict=False))
    noise = noise_bank()[5].take(rows, axis=0, mode="wrap").take(columns, axis=1, mode="wrap") * np.float32(2 * grain)
    gains: Any = (*gain.tolist(), 1.0)  # OpenCV's scalar, a number for each channel
    return cv2.add(cv2.multiply(image, gains), cv2.merge([noise] * 3), dtype=cv2.CV_8U)


# Labels ---------------------------------------------------------------------------------------------------------------


def label_person(raster: Raster, camera: Camera, body: Body, owner: int) -> PersonLabel | None:
    """Annotate one person from the geometry and the z-buffer.

    Args:
        raster: The drawing, from this camera.
        camera: The camera.
        body: The person.
        owner: The number its solids carry in the raster.

    Returns:
        The label, or ``None`` if nothing of the person is visible.
    """
    mask = raster.owner == owner
    columns, rows = np.any(mask, axis=0).nonzero()[0], np.any(mask, axis=1).nonzero()[0]
    if not len(columns):
        return None
    x0, x1, y0, y1 = (float(c) / SAMPLES for c in (columns[0], columns[-1] + 1, rows[0], rows[-1] + 1))
    names = sorted({*COCO_17.joints, *MPII_16.joints})
    points = camera.see(np.array([body.joints[name] for name in names]))
    pixels = camera.project(points)
    inside = np.all((pixels >= -0.5) & (pixels < np.array([camera.width, camera.height]) - 0.5), axis=1)
    depth, owners = raster.at(np.where(inside[:, None], pixels, 0))
    flesh = np.array([_FLESH[name.removeprefix("left_").removeprefix("right_")] for name in names]) * body.stature
    seen = np.equal(owners, owner) & (depth >= points[:, 2] - flesh)
    joints = {
        name: (float(x), float(y), 0 if not a else 2 if b else 1)
        for name, (x, y), a, b in zip(names, pixels, inside, seen, strict=True)
    }
    depth_of_body = float(camera.see(body.joints["pelvis"])[2])
    return PersonLabel(
        joints=joints,
        box=(x0, y0, x1 - x0, y1 - y0),
        area=float(mask.sum()) / SAMPLES**2,
        head_box=_head_box(camera, body),
        stature=body.stature * camera.focal / depth_of_body,
    )


def _head_box(camera: Camera, body: Body) -> tuple[float, float, float, float]:
    """A box in pixels around the head with its hair, as loose as annotators draw it.

    It bounds the outline of the skull's ellipsoid grown by a tenth: the dual conic c c^T - M M^T solved for its extent
    along x and y. 0.6 of its diagonal is then 0.12 of the stature, as on people of the real MPII.
    """
    origin, frame = body.frames["head"]
    size = body.lengths["head"]
    centre = camera.see(origin + frame @ (size * SKULL_CENTRE))
    axes = camera.rotation @ frame * (1.1 * size * SKULL_AXES)
    conic = np.outer(centre, centre) - axes @ axes.T
    mid = conic[:2, 2] / conic[2, 2]
    half = np.sqrt(np.maximum(mid**2 - np.diag(conic)[:2] / conic[2, 2], 0))
    low, high = ((mid + sign * half) * camera.focal + camera.centre for sign in (-1, 1))
    return (float(low[0]), float(low[1]), float(high[0]), float(high[1]))


def _worth_a_label(label: PersonLabel, height: int) -> bool:
    """Whether a bystander is large and complete enough that an annotator would mark the joints."""
    seen = sum(v == 2 for _, _, v in label.joints.values())
    return label.box[3] > 0.3 * height and seen >= 9
