"""Dressing a body: a posed ``Body`` in, coloured solids to be drawn out.

Skin, hair and clothes are drawn at random. Front and back differ the way they do on people (face and hair, neckline,
buttons, a breast pocket on the wearer's left, toes), so that the picture shows which side is left.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, field

import numpy as np

from hdmlib.synthetic.body import SKULL_AXES, SKULL_CENTRE, Body
from hdmlib.synthetic.raycast import Paint, Solid

_SKIN = (
    (246, 214, 192),
    (238, 196, 168),
    (224, 172, 138),
    (198, 140, 104),
    (166, 108, 74),
    (128, 80, 54),
    (92, 58, 42),
)
_HAIR = ((28, 24, 24), (52, 36, 28), (88, 58, 36), (140, 96, 54), (206, 168, 104), (120, 50, 30), (168, 168, 170))
_PATTERNS = ("plain",) * 8 + ("hoops", "stripes", "checks", "dots", "band", "blocks")


@dataclass
class Palette:
    """The colours of one scene, RGB 0-255; index 0 is kept for holes."""

    colours: list[tuple[float, ...]] = field(default_factory=lambda: [(0.0, 0.0, 0.0)])

    def add(self, rgb: tuple[float, ...]) -> int:
        """Index of a new colour."""
        self.colours.append(rgb)
        return len(self.colours) - 1


@dataclass(frozen=True)
class Cloth:
    """A pattern of two colours: palette indices, kind and period in metres."""

    kind: str
    first: int
    second: int
    period: float

    def __call__(self, point: np.ndarray, s: np.ndarray) -> np.ndarray:
        x, y, z = point
        u, v = x / self.period, y / self.period
        if self.kind == "hoops":
            second = v % 1 < 0.45
        elif self.kind == "stripes":
            second = u % 1 < 0.35
        elif self.kind == "checks":
            second = (u % 1 < 0.5) ^ (v % 1 < 0.5)
        elif self.kind == "dots":
            second = (u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.08
        elif self.kind == "band":
            second = np.abs(s - 0.55) < 0.13
        elif self.kind == "blocks":
            second = np.sin(9 * u) + np.sin(7.3 * v + 2) + np.sin(6 * z / self.period) > 0.4
        else:
            second = np.zeros(len(s), bool)
        return np.where(second, self.second, self.first).astype(np.uint8)

    @property
    def paint(self) -> int | Paint:
        """What a solid takes: the bare colour when there is no pattern to evaluate."""
        return self.first if self.kind == "plain" else self


@dataclass(frozen=True)
class Outfit:
    """What one person looks like; colours are palette indices."""

    skin: int
    lips: int
    white: int
    iris: int
    hair: int
    shirt: Cloth
    trim: int
    legwear: Cloth
    shoe: int
    sole: int
    belt: int
    sleeve: float  # how far down the whole arm the sleeve reaches, 0 to 2
    leg: float  # how far down the whole leg the cloth reaches, 0 to 2
    skirt: bool
    hairstyle: str
    front: str
    bag: int | None


def _rgb(rng: np.random.Generator, saturation=(0.15, 0.85), value=(0.2, 0.95)) -> tuple[float, float, float]:
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value))
    return 255.0 * red, 255.0 * green, 255.0 * blue


def _cloth(rng: np.random.Generator, palette: Palette, kinds=_PATTERNS, **colours) -> Cloth:
    kind = kinds[int(rng.integers(len(kinds)))]
    first = _rgb(rng, **colours)
    second = _rgb(rng, (0.0, 0.6), (0.75, 1.0)) if sum(first) < 380 else _rgb(rng, (0.2, 0.9), (0.08, 0.5))
    return Cloth(kind, palette.add(first), palette.add(second), rng.uniform(0.05, 0.13))


def sample_outfit(rng: np.random.Generator, palette: Palette) -> Outfit:
    """Draw skin, hair and clothes, and enter their colours into the palette."""
    skin = np.array(_SKIN[int(rng.integers(len(_SKIN)))]) * rng.uniform(0.94, 1.05)
    hair = np.array(_HAIR[int(rng.integers(len(_HAIR)))]) * rng.uniform(0.85, 1.15)
    shirt = _cloth(rng, palette)
    skirt = rng.random() < 0.17
    dress = skirt and rng.random() < 0.5
    plain = ("plain",) * 7 + ("stripes", "checks")
    legwear = shirt if dress else _cloth(rng, palette, plain, saturation=(0.05, 0.6), value=(0.12, 0.75))
    return Outfit(
        skin=palette.add(tuple(skin.clip(0, 255))),
        lips=palette.add(tuple((skin * (0.78, 0.5, 0.5)).clip(0, 255))),
        white=palette.add((240, 240, 236)),
        iris=palette.add(((40, 30, 25), (50, 70, 110), (60, 80, 50))[int(rng.integers(3))]),
        hair=palette.add(tuple(hair.clip(0, 255))),
        shirt=shirt,
        trim=palette.add(_rgb(rng, (0.0, 0.9), (0.1, 1.0))),
        legwear=legwear,
        shoe=palette.add(_rgb(rng, (0.0, 0.7), (0.08, 0.95))),
        sole=palette.add((236, 232, 224) if rng.random() < 0.6 else (40, 38, 36)),
        belt=palette.add((52, 38, 30)),
        sleeve=float(rng.choice([0.0, 0.45, 0.6, 1.9, 1.9, 1.2])),
        leg=float(rng.choice([0.35, 0.7, 0.85])) if skirt else float(rng.choice([0.35, 0.7, 1.92, 1.92, 1.92, 1.4])),
        skirt=skirt,
        hairstyle=str(rng.choice(["short", "short", "short", "long", "long", "bun", "cap", "bald"])),
        front=str(rng.choice(["logo", "logo", "buttons", "zip", "none"])),
        bag=palette.add(_rgb(rng)) if rng.random() < 0.1 else None,
    )


def _between(start: np.ndarray, end: np.ndarray, front: np.ndarray) -> tuple[np.ndarray, float]:
    """The frame (3, 3) with y from start to end and z as near to ``front`` as can be, and the distance."""
    axis = end - start
    length = float(np.linalg.norm(axis))
    y = axis / length
    x = np.cross(y, front)
    x /= np.linalg.norm(x)
    return np.stack([x, y, np.cross(x, y)], 1), length


def _from_y(paint: int | Paint, hem: float = 0.0) -> Paint:
    """The paint, with nothing below local y = hem: an open sleeve, trouser leg or skirt."""

    def open_end(point: np.ndarray, s: np.ndarray) -> np.ndarray:
        colour = paint(point, s) if callable(paint) else np.uint8(paint)
        return np.where(point[1] >= hem, colour, 0).astype(np.uint8)

    return open_end


def dress(body: Body, outfit: Outfit, owner: int) -> list[Solid]:
    """The solids of one clothed person in the world's frame (y up).

    Args:
        body: The posed body.
        outfit: Its looks.
        owner: Number the solids are to carry in the raster.
    """
    solids = [*_head(body, outfit), *_trunk(body, outfit)]
    for side, sign in (("left", 1.0), ("right", -1.0)):
        solids += _arm(body, outfit, side)
        solids += _leg(body, outfit, side, sign)
    for solid in solids:
        solid.owner = owner
    return solids


def _trunk(body: Body, outfit: Outfit) -> list[Solid]:
    h, g = body.stature, body.girth
    hips, pelvis = body.frames["pelvis"]
    lumbar, chest = body.frames["chest"]
    left, right = body.joints["left_shoulder"], body.joints["right_shoulder"]
    cloth, skin, trim, front = outfit.shirt, outfit.skin, outfit.trim, outfit.front
    low_neck = h * (0.172 if outfit.sleeve < 1 else 0.19)

    def shirt(point: np.ndarray, s: np.ndarray) -> np.ndarray:
        x, y, z = point
        colour = cloth(point, s)
        ahead = z > 0
        if front == "logo":
            colour[ahead & (x * x + (y - 0.125 * h) ** 2 < (0.042 * h) ** 2)] = trim
        elif front == "zip":
            colour[ahead & (np.abs(x) < 0.009 * h)] = trim
        elif front == "buttons":
            colour[ahead & (np.abs(x) < 0.006 * h) & (y % (0.03 * h) < 0.012 * h)] = trim
            pocket = ahead & (np.abs(x - 0.045 * h) < 0.02 * h) & (np.abs(y - 0.125 * h) < 0.02 * h)
            colour[pocket & (y > 0.138 * h)] = trim
        colour[ahead & (y - 0.9 * np.abs(x) > low_neck)] = skin
        return colour

    yoke, width = _between(right, left, chest[:, 2])
    yoke_r = 0.034 * h * g**0.5

    def shoulders(point: np.ndarray, s: np.ndarray) -> np.ndarray:
        colour = cloth(point[[1, 0, 2]], np.zeros_like(s))
        middle = np.abs(point[1] - width / 2)
        colour[(middle < 0.036 * h) & (np.where(point[2] > 0, -0.004, 0.014) * h - point[0] < 0)] = skin
        if outfit.sleeve == 0:
            colour[middle > 0.085 * h] = skin
        return colour

    waist, above = hips + 0.028 * h * pelvis[:, 1], lumbar + 0.06 * h * chest[:, 1]
    belly, belly_length = _between(waist, above, chest[:, 2])
    solids = [
        Solid(lumbar, chest, 0.155 * h, (0.058 * h * g, 0.065 * h * g**0.7), (1.42, 1, 1), shirt),
        Solid(waist, belly, belly_length, (0.063 * h * g, 0.060 * h * g), (1.38, 1, 1), cloth.paint),
        Solid(right, yoke, width, (yoke_r, yoke_r), paint=shoulders),
        _hips(body, outfit),
    ]
    if outfit.bag is not None:
        bag = lumbar + chest @ np.array([0, 0.1 * h, -0.105 * h * g])
        solids.append(Solid(bag, chest, 0, (0.1 * h, 0.1 * h), (0.85, 1.05, 0.5), outfit.bag))
    return solids


def _hips(body: Body, outfit: Outfit) -> Solid:
    h, g = body.stature, body.girth
    hips, pelvis = body.frames["pelvis"]
    cloth, belt, trim = outfit.legwear, outfit.belt, outfit.trim

    def trousers(point: np.ndarray, s: np.ndarray) -> np.ndarray:
        colour = cloth(point, s)
        colour[np.abs(point[1] - 0.036 * h) < 0.009 * h] = belt
        colour[(point[2] > 0) & (np.abs(point[0]) < 0.012 * h) & (np.abs(point[1] - 0.036 * h) < 0.009 * h)] = trim
        return colour

    centre = hips + 0.008 * h * pelvis[:, 1]
    paint = cloth.paint if cloth is outfit.shirt else trousers
    return Solid(centre, pelvis, 0, (0.066 * h * g, 0.066 * h * g), (1.48, 1.02, 1.04), paint)


def _arm(body: Body, outfit: Outfit, side: str) -> list[Solid]:
    h, thick = body.stature, body.girth**0.6 * body.stature
    arm, forearm = body.frames[f"{side}_upper_arm"][1], body.frames[f"{side}_forearm"][1]
    wrist, hand = body.frames[f"{side}_hand"]
    shoulder, elbow = body.joints[f"{side}_shoulder"], body.joints[f"{side}_elbow"]
    cloth, skin = outfit.shirt.paint, outfit.skin
    upper, lower = body.lengths["upper_arm"], body.lengths["forearm"]
    long = outfit.sleeve > 1
    loose = 1.12 if long else 1.0
    solids = [
        Solid(elbow, arm, upper, (0.0235 * thick * loose, 0.033 * thick), paint=cloth if long else skin),
        Solid(wrist, forearm, lower, (0.0155 * thick, 0.0245 * thick), paint=skin),
    ]
    if 0 < outfit.sleeve < 1:
        hem = shoulder - outfit.sleeve * upper * arm[:, 1]
        length = outfit.sleeve * upper
        solids.append(Solid(hem, arm, length, (0.035 * thick, 0.037 * thick), paint=_from_y(cloth)))
    if long:
        length = (outfit.sleeve - 1) * lower
        hem = elbow - length * forearm[:, 1]
        solids.append(Solid(hem, forearm, length, (0.0235 * thick, 0.0275 * thick), paint=_from_y(cloth)))
    palm = wrist - 0.056 * h * hand[:, 1]
    solids.append(Solid(palm, hand, 0.05 * h, (0.017 * h, 0.0165 * h), (0.62, 1, 1.2), skin))
    thumb, length = _between(wrist - 0.018 * h * hand[:, 1], wrist + hand @ np.array([0, -0.052, 0.03]) * h, hand[:, 0])
    solids.append(Solid(wrist - 0.018 * h * hand[:, 1], thumb, length, (0.009 * h, 0.0065 * h), paint=skin))
    return solids


def _leg(body: Body, outfit: Outfit, side: str, sign: float) -> list[Solid]:
    h, thick = body.stature, body.girth**0.8 * body.stature
    thigh, shank = body.frames[f"{side}_thigh"][1], body.frames[f"{side}_shank"][1]
    ankle, foot = body.frames[f"{side}_foot"]
    hip, knee = body.joints[f"{side}_hip"], body.joints[f"{side}_knee"]
    cloth, skin = outfit.legwear.paint, outfit.skin
    upper, lower = body.lengths["thigh"], body.lengths["shank"]
    long = outfit.leg > 1
    solids = [
        Solid(knee, thigh, upper, (0.0365 * thick, 0.055 * thick), paint=cloth if long else skin),
        Solid(ankle, shank, lower, (0.0205 * thick, 0.0355 * thick), paint=skin),
    ]
    calf = knee - 0.3 * lower * shank[:, 1] - 0.010 * thick * shank[:, 2]
    if not long:
        hem = hip - outfit.leg * upper * thigh[:, 1]
        flare = 1.55 if outfit.skirt else 1.0
        radii = ((0.048 + 0.007 * (1 - outfit.leg)) * thick * flare, 0.058 * thick)
        solids.append(Solid(hem, thigh, outfit.leg * upper, radii, paint=_from_y(cloth)))
        solids.append(Solid(calf, shank, 0, (0.034 * thick,) * 2, (1, 2.2, 1), skin))
    else:
        length = (outfit.leg - 1) * lower
        hem = knee - length * shank[:, 1]
        solids.append(Solid(hem, shank, length, (0.031 * thick, 0.039 * thick), paint=_from_y(cloth)))
    heel = ankle + foot @ np.array([0, -0.016 * h, -0.14 * body.lengths["foot"]])
    toe = ankle + foot @ np.array([sign * 0.006 * h, -0.022 * h, 0.6 * body.lengths["foot"]])
    frame, length = _between(heel, toe, foot[:, 1])
    shoe, sole = outfit.shoe, outfit.sole

    def paint(point: np.ndarray, s: np.ndarray) -> np.ndarray:
        return np.where(point[2] < -0.012 * h, sole, shoe).astype(np.uint8)

    solids.append(Solid(heel, frame, length, (0.0245 * h, 0.0185 * h), (1.1, 1, 1), paint))
    return solids


def _head(body: Body, outfit: Outfit) -> list[Solid]:
    """Skull, nose, ears, hair; lengths are in heads (neck to crown), coordinates from the skull's joint."""
    origin, frame = body.frames["head"]
    size = body.lengths["head"]
    skin, h = outfit.skin, body.stature

    def at(x: float, y: float, z: float) -> np.ndarray:
        return origin + frame @ (size * np.array([x, y, z]))

    def blob(position, axes, paint, gloss=0.0) -> Solid:
        return Solid(at(*position), frame, 0, (size, size), axes, paint, gloss=gloss)

    def face(point: np.ndarray, s: np.ndarray) -> np.ndarray:
        x, y, z = point / size + SKULL_CENTRE[:, None]
        across = np.abs(x)
        colour = np.full(len(x), skin, np.uint8)
        ahead = z > 0.2
        colour[ahead & (np.abs(y - 0.64) < 0.022) & (np.abs(across - 0.14) < 0.085)] = outfit.hair
        eye = ((across - 0.135) / 0.075) ** 2 + ((y - 0.53) / 0.047) ** 2
        colour[ahead & (eye < 1)] = outfit.white
        colour[ahead & ((across - 0.135) ** 2 + (y - 0.53) ** 2 < 0.042**2)] = outfit.iris
        colour[ahead & ((x / 0.125) ** 2 + ((y - 0.19 - 0.5 * x * x) / 0.034) ** 2 < 1)] = outfit.lips
        return colour

    neck, neck_frame = body.frames["neck"]
    solids = [
        Solid(neck - 0.01 * h * neck_frame[:, 1], neck_frame, 0.055 * h, (0.033 * h, 0.029 * h), paint=skin),
        blob(SKULL_CENTRE, tuple(SKULL_AXES), face, 0.1),
        blob((0, 0.42, 0.53), (0.055, 0.1, 0.085), skin, 0.15),
        blob((0.365, 0.46, 0.04), (0.045, 0.115, 0.075), skin),
        blob((-0.365, 0.46, 0.04), (0.045, 0.115, 0.075), skin),
    ]
    return solids + _hair(outfit, at, blob, frame, size)


def _hair(outfit: Outfit, at, blob, frame: np.ndarray, size: float) -> list[Solid]:
    style, colour = outfit.hairstyle, outfit.hair
    if style == "bald":
        return []
    middle = np.array([0.0, 0.53, 0.01])
    crown = outfit.trim if style == "cap" else colour
    nape = {"long": -0.15, "bun": 0.2}.get(style, 0.12)

    def hair(point: np.ndarray, s: np.ndarray) -> np.ndarray:
        _, y, z = point / size + middle[:, None]
        top = y > 0.74 + 0.1 * z
        paint = np.where(top, crown, colour)
        return np.where(top | ((z < -0.03) & (y > nape)), paint, 0).astype(np.uint8)

    solids = [blob(middle, (0.4, 0.535, 0.475), hair, 0.12)]
    if style == "cap":
        solids.append(blob((0, 0.77, 0.5), (0.27, 0.035, 0.27), crown))
    if style == "bun":
        solids.append(blob((0, 0.78, -0.47), (0.19, 0.19, 0.19), colour, 0.12))
    if style == "long":
        tips = at(0, -0.42, -0.26)
        mane, length = _between(tips, at(0, 0.5, -0.16), frame[:, 2])
        solids.append(Solid(tips, mane, length, (0.22 * size, 0.3 * size), (1.3, 1, 0.75), colour, gloss=0.12))
    return solids
