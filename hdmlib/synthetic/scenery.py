"""The surroundings of people in a picture: wall, floor, light with cast shadows, occluders and seats.

A camera and a random generator in; a background picture, its brightness, and solids for the ray caster out. Some
surroundings are meant to be mistaken for people: poles and bent tubes resemble limbs, and some have the colour of
skin.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

from hdmlib.synthetic.body import Body, turn
from hdmlib.synthetic.clothes import Palette
from hdmlib.synthetic.raycast import Camera, Solid

# Owners in the raster: objects from this number on, people below it.
THING = 200

_BONES = (
    ("head_top", "thorax"), ("thorax", "pelvis"), ("left_shoulder", "right_shoulder"), ("left_hip", "right_hip"),
    ("left_shoulder", "left_elbow"), ("left_elbow", "left_wrist"), ("right_shoulder", "right_elbow"),
    ("right_elbow", "right_wrist"), ("left_hip", "left_knee"), ("left_knee", "left_ankle"), ("right_hip", "right_knee"),
    ("right_knee", "right_ankle"),
)  # fmt: skip


# Sand, wood, slate, concrete, sage, brick, sky, chalk.
_MATERIALS = (
    (200, 182, 150), (156, 120, 88), (118, 130, 142), (168, 168, 164), (122, 140, 108), (176, 124, 104), (140, 166,
    196), (214, 210, 200),
)  # fmt: skip

# Joints that occluders are placed in front of.
_HIDDEN = (
    "pelvis", "left_knee", "right_knee", "left_elbow", "right_elbow", "left_wrist", "right_ankle", "left_ankle",
)  # fmt: skip


@lru_cache(maxsize=1)
def noise_bank() -> np.ndarray:
    """Six fields (6, 256, 256) float32 in [-1, 1] that repeat seamlessly: from clouds to grain."""
    rng = np.random.default_rng(20220)
    bank = []
    for sharpness in (2.2, 1.8, 1.4, 1.1, 0.8, 0.3):  # amplitude falls as frequency ** -sharpness
        frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256))
        frequency[0, 0] = np.inf
        spectrum = np.fft.rfft2(rng.standard_normal((256, 256))) * frequency**-sharpness
        field = np.fft.irfft2(spectrum)
        bank.append(np.clip(field / (2.5 * field.std()), -1, 1))
    return np.array(bank, np.float32)


def _colour(rng: np.random.Generator, vivid: float = 0.0) -> tuple[float, ...]:
    """The RGB colour of a wall, floor or thing: a material in some light; ``vivid`` adds a tint of so many levels."""
    material = np.array(_MATERIALS[int(rng.integers(len(_MATERIALS)))]) * rng.uniform(0.35, 1.05)
    return tuple(float(c) for c in np.clip(material + rng.uniform(-12 - vivid, 12 + vivid, 3), 10, 240))


def _tile(rng: np.random.Generator) -> np.ndarray:
    """A texture (256, 256, 3) uint8 that repeats: plaster, grass, bricks, planks, tiles, stripes or patches."""
    kind = str(rng.choice(["plaster", "plaster", "grass", "bricks", "planks", "tiles", "stripes", "patches"]))
    base = np.array(_colour(rng))
    if kind == "grass":
        base = np.array([75, 108, 55]) * rng.uniform(0.6, 1.4) + rng.uniform(-20, 20, 3)
    tile = np.full((256, 256, 3), base.clip(0, 255), np.uint8)
    other = tuple(float(c) for c in (base + rng.uniform(-50, 50) + rng.uniform(-15, 15, 3)).clip(10, 245))
    step = int(rng.choice([16, 32, 64]))
    if kind == "bricks":
        for i in range(256 // step):
            cv2.line(tile, (0, i * step), (255, i * step), other, 2)
            for x in range((i % 2) * step, 256, 2 * step):
                cv2.line(tile, (x, i * step), (x, (i + 1) * step), other, 2)
    elif kind == "planks":
        for x in range(0, 256, step):
            tile[:, x : x + step] = (base + rng.normal(0, 12)).clip(0, 255)
            tile[:, x : x + 2] = other
    elif kind == "tiles":
        for y in range(0, 256, step):
            for x in range(y % (2 * step), 256, 2 * step):
                tile[y : y + step, x : x + step] = other
    elif kind == "stripes":
        for x in range(0, 256, step):
            tile[:, x : x + step // 2] = other
    elif kind == "patches":
        for _ in range(14):
            cv2.circle(tile, rng.integers(0, 256, 2).tolist(), int(rng.integers(8, 50)), _colour(rng), -1, cv2.LINE_AA)
    bank = noise_bank()
    coarse, fine = bank[int(rng.integers(0, 3))], bank[int(rng.integers(3, 6))]
    amount = rng.uniform(4, 26), rng.uniform(3, 34 if kind == "grass" else 16)
    grain = cv2.addWeighted(coarse, amount[0], fine, amount[1], 0)
    return cv2.add(tile, cv2.merge([grain] * 3), dtype=cv2.CV_8U)


def background(rng: np.random.Generator, camera: Camera) -> np.ndarray:
    """Wall and floor (H, W, 3) uint8: the floor is the plane y = 0 in perspective, the wall is upright beyond it."""
    height, width = camera.height, camera.width
    x = ((np.arange(width) - camera.centre[0]) / camera.focal).astype(np.float32)
    y = ((np.arange(height) - camera.centre[1]) / camera.focal).astype(np.float32)
    angle, zoom = rng.normal(0, 0.12), rng.uniform(0.5, 1.6)
    c, s = np.cos(angle) * zoom, np.sin(angle) * zoom
    spin = np.array([[c, -s, rng.uniform(0, 256)], [s, c, rng.uniform(0, 256)]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    four = np.tile(_tile(rng), (2, 2, 1))
    wall = cv2.warpAffine(four, spin, (width, height), flags=flags, borderMode=cv2.BORDER_WRAP)
    _clutter(rng, wall)
    # The ray (X, Y, 1) meets the floor, y = 0, after t metres of depth if it goes down.
    right, down, ahead = camera.rotation.astype(np.float32)
    drop = -(x * right[1] + (y * down[1] + ahead[1])[:, None])
    t = np.float32(camera.position[1]) / np.maximum(drop, np.float32(1e-3))
    wall_distance = np.float32(rng.uniform(1.5, 6.0) + np.linalg.norm(camera.position))
    on_floor = np.clip((wall_distance - t) * 12, 0, 1)
    t = np.minimum(t, wall_distance) * np.float32(rng.uniform(40, 130))  # texels a metre
    grid_x = t * (x * right[0] + (y * down[0] + ahead[0])[:, None])
    grid_z = t * (x * right[2] + (y * down[2] + ahead[2])[:, None])
    for grid in (grid_x, grid_z):  # OpenCV is slow where it has to wrap by itself
        grid -= np.floor(grid * np.float32(1 / 256)) * 256
    floor = cv2.remap(_tile(rng), grid_x, grid_z, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return cv2.blendLinear(floor, wall, on_floor, 1 - on_floor)


def daylight(rng: np.random.Generator, camera: Camera, bodies: Sequence[Body], sun: np.ndarray) -> np.ndarray:
    """Brightness (H, W) float32 of the surroundings: an uneven light, and the shadows of the bodies' bones on y = 0.

    Args:
        rng: Source of randomness.
        camera: The camera.
        bodies: Who casts shadows.
        sun: (3,) direction towards the light in the world.
    """
    mask = np.zeros((camera.height // 2, camera.width // 2), np.uint8)
    slope = np.array([sun[0], -1.0, sun[2]]) / max(sun[1], 0.3)
    slope[1] = 1.0  # subtracting y * slope puts a point onto y = 0
    for body in bodies:
        bones = np.array([[body.joints[a], body.joints[b]] for a, b in _BONES])
        ends = camera.see(bones - bones[..., 1:2] * slope)
        pixels = np.clip(camera.project(np.maximum(ends, [-np.inf, -np.inf, 0.3])) / 2, -4096, 4096).astype(int)
        for (a, b), (start, end), depth in zip(_BONES, pixels.tolist(), ends[..., 2], strict=True):
            if (depth > 0.3).all():
                thick = (0.16 if "thorax" in (a, b) else 0.085) * camera.focal / (2 * depth.mean())
                cv2.line(mask, start, end, 255, max(round(thick), 1))
    soft = cv2.GaussianBlur(mask, (0, 0), 0.006 * camera.width + 0.3)
    shadow = cv2.resize(soft, (camera.width, camera.height)).astype(np.float32) * np.float32(-0.5 / 255) + 1
    across, along = rng.normal(0, 0.25, 2)
    light = 1 + across * np.linspace(-0.5, 0.5, camera.width) + along * np.linspace(-0.5, 0.5, camera.height)[:, None]
    return shadow * light.astype(np.float32)


def _clutter(rng: np.random.Generator, wall: np.ndarray) -> None:
    """Pictures, windows, streaks and blots on the wall, in place."""
    height, width = wall.shape[:2]
    for _ in range(int(rng.integers(0, 9))):
        colour = _colour(rng)
        kind = int(rng.integers(4))
        p = (rng.uniform(-0.1, 1.1, 2) * (width, height)).astype(int)
        extent = (rng.uniform(0.05, 0.35, 2) * (width, height)).astype(int)
        if kind == 0:
            cv2.rectangle(wall, p.tolist(), (p + extent).tolist(), colour, -1)
            cv2.rectangle(wall, p.tolist(), (p + extent).tolist(), _colour(rng), 3)
        elif kind == 1:
            corners = p + (rng.uniform(-0.5, 0.5, (int(rng.integers(3, 6)), 2)) * 2 * extent).astype(int)
            cv2.fillPoly(wall, [corners.astype(np.int32)], colour, cv2.LINE_AA)
        elif kind == 2:
            end = (rng.uniform(-0.1, 1.1, 2) * (width, height)).astype(int)
            cv2.line(wall, p.tolist(), end.tolist(), colour, int(rng.integers(2, 14)), cv2.LINE_AA)
        else:
            axes = np.maximum(extent // 2, 1).tolist()
            cv2.ellipse(wall, p.tolist(), axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)


# Things ---------------------------------------------------------------------------------------------------------------


def _any_rotation(rng: np.random.Generator) -> np.ndarray:
    q, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    return q * np.sign(np.linalg.det(q))


def _thing(rng: np.random.Generator, palette: Palette, ground: np.ndarray, size: float) -> list[Solid]:
    """A pole, crate, ball or bent tube (limb-like, often skin-coloured) that stands on the ground point (3,)."""
    kind = str(rng.choice(["pole", "crate", "ball", "tube"]))
    colour = palette.add(_colour(rng, vivid=45))
    if kind == "pole":
        radius = rng.uniform(0.02, 0.09)
        lean = turn("y", rng.uniform(0, 360)) @ turn("x", rng.normal(0, 5))
        return [Solid(ground, lean, rng.uniform(1.2, 3.2), (radius, radius * 0.9), paint=colour, owner=THING)]
    if kind == "crate":
        half = size * rng.uniform(0.5, 1.2, 3)
        centre = ground + np.array([0, half[1], 0])
        return [Solid(centre, turn("y", rng.uniform(0, 360)), 0, (1, 1), tuple(half), colour, THING, box=True)]
    if kind == "ball":
        radius = size * rng.uniform(0.4, 0.9)
        centre = ground + np.array([0, radius, 0])
        return [Solid(centre, _any_rotation(rng), 0, (radius, radius), (1, 1, 1), colour, THING, gloss=0.2)]
    if rng.random() < 0.5:
        colour = palette.add(tuple(float(c) for c in np.array([215, 165, 130]) * rng.uniform(0.5, 1.1)))
    solids, joint = [], ground + np.array([0, rng.uniform(0.1, 1.4), 0])
    radius = rng.uniform(0.035, 0.07)
    for _ in range(int(rng.integers(2, 4))):
        frame, length = _any_rotation(rng), rng.uniform(0.25, 0.5)
        solids.append(Solid(joint, frame, length, (radius, radius * 0.85), paint=colour, owner=THING))
        joint, radius = joint + length * frame[:, 1], radius * 0.85
    return solids


def _occluder(rng: np.random.Generator, palette: Palette, camera: Camera, body: Body) -> Solid:
    """A thing between the camera and some part of the body: a counter on the floor, a pole, a rail or a ball."""
    target = body.joints[_HIDDEN[int(rng.integers(len(_HIDDEN)))]] + rng.normal(0, 0.06, 3)
    nearer = rng.uniform(0.72, 0.9)
    place = camera.position + nearer * (target - camera.position)
    colour = palette.add(_colour(rng, vivid=45))
    kind = int(rng.integers(4))
    if kind == 0 and place[1] > 0.1:
        half = np.array([rng.uniform(0.12, 0.35), place[1] / 2, rng.uniform(0.05, 0.2)])
        centre = np.array([place[0], place[1] / 2, place[2]])
        return Solid(centre, turn("y", rng.normal(0, 28)), 0, (1, 1), tuple(half), colour, THING, box=True)
    if kind == 1:
        radius, height = rng.uniform(0.03, 0.09), rng.uniform(1.5, 3)
        bottom = np.array([place[0], 0, place[2]])
        return Solid(bottom, turn("x", rng.normal(0, 4)), height, (radius, radius), paint=colour, owner=THING)
    if kind == 2:
        radius = rng.uniform(0.02, 0.06)
        frame = turn("y", rng.normal(0, 17)) @ turn("z", 90 + rng.normal(0, 9))
        length = rng.uniform(1.0, 3.0)
        start = place - rng.uniform(0.3, 0.7) * length * frame[:, 1]
        return Solid(start, frame, length, (radius, radius), paint=colour, owner=THING, gloss=0.2)
    radius = rng.uniform(0.09, 0.2)
    squash = tuple(rng.uniform(0.5, 1.0, 3))
    return Solid(place, _any_rotation(rng), 0, (radius, radius), squash, colour, THING, gloss=0.1)


def furnish(rng: np.random.Generator, palette: Palette, camera: Camera, body: Body) -> list[Solid]:
    """Objects around a body: up to four behind it and, one time in four, one or two in front of it.

    Args:
        rng: Source of randomness.
        palette: Takes the colours.
        camera: Defines what is behind and in front.
        body: The main person, who stands near the world's origin.
    """
    ahead = camera.rotation[2] * (1, 0, 1)
    side = np.array([-ahead[2], 0, ahead[0]])
    solids = []
    for _ in range(int(rng.integers(0, 5))):
        ground = ahead * rng.uniform(0.6, 4.0) + side * rng.uniform(-2.0, 2.0)
        solids += _thing(rng, palette, ground, rng.uniform(0.1, 0.4))
    if rng.random() < 0.25:
        solids += [_occluder(rng, palette, camera, body) for _ in range(int(rng.integers(1, 3)))]
    return solids


def seat(rng: np.random.Generator, palette: Palette, body: Body) -> list[Solid]:
    """The crate or stool a sitting person sits on."""
    hips = body.joints["pelvis"]
    top = hips[1] - 0.062 * body.stature * body.girth
    if top < 0.08:
        return []
    half = (rng.uniform(0.17, 0.3), top / 2, rng.uniform(0.17, 0.25))
    facing = body.frames["pelvis"][1][:, 2]
    frame = turn("y", np.rad2deg(np.arctan2(facing[0], facing[2])))
    centre = np.array([hips[0], top / 2, hips[2]]) - 0.05 * frame[:, 2]
    colour = palette.add(_colour(rng, vivid=45))
    return [Solid(centre, frame, 0, (1, 1), half, colour, THING, box=True)]
