"""A human body: measures and a pose drawn at random in, segment frames and joints in metres out.

The body is a chain of rigid segments in a world whose y axis points up and whose ground is y = 0. Every segment carries
its own frame: x to the person's *left*, y up, z to the *front* when the person stands to attention. A person who faces
+z therefore has the left hand at positive x. Angles are in degrees and clinical: flexion moves a limb forward,
abduction away from the middle, positive rotation turns a thigh or an upper arm outward.

Clothes, cameras and pixels belong to other modules: ``clothes`` dresses the body, ``raycast`` draws it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

# Lengths as fractions of the stature: Drillis and Contini (1966), as printed in Winter, "Biomechanics and Motor Control
# of Human Movement", fig. 4.1. The trunk is split at the lumbar joint; the half widths are joint centres, not skin.
SEGMENTS: Mapping[str, float] = {
    "lumbar": 0.070,
    "chest": 0.218,
    "neck": 0.052,
    "head": 0.130,
    "shoulder": 0.112,
    "upper_arm": 0.186,
    "forearm": 0.146,
    "hand": 0.088,
    "hip": 0.054,
    "thigh": 0.245,
    "shank": 0.246,
    "ankle": 0.039,
    "foot": 0.152,
}

# The skull is an ellipsoid: centre and half axes (left, up, front) in head lengths from the top of the neck.
SKULL_CENTRE = np.array([0.0, 0.46, 0.07])
SKULL_AXES = np.array([0.36, 0.55, 0.46])
# Joints of the face in the same coordinates, on the left side and just under the skin: nose, eye, ear.
_FACE = {"nose": (0.0, 0.41, 0.585), "eye": (0.132, 0.53, 0.465), "ear": (0.36, 0.47, 0.05)}

# What healthy adults reach, degrees: (least, most). After the tables of the American Academy of Orthopaedic Surgeons.
RANGES: Mapping[str, tuple[float, float]] = {
    "lumbar_flexion": (-25, 60),
    "lumbar_side": (-25, 25),
    "lumbar_twist": (-35, 35),
    "neck_flexion": (-40, 40),
    "neck_side": (-30, 30),
    "neck_twist": (-60, 60),
    "shoulder_flexion": (-50, 175),
    "shoulder_abduction": (0, 170),
    "shoulder_rotation": (-70, 80),
    "elbow_flexion": (0, 145),
    "wrist_flexion": (-45, 45),
    "hip_flexion": (-20, 120),
    "hip_abduction": (-15, 45),
    "hip_rotation": (-30, 45),
    "knee_flexion": (0, 145),
    "ankle_flexion": (-35, 20),
}

_SIDES = (("left", 1.0), ("right", -1.0))


@dataclass(frozen=True)
class Body:
    """One posed person.

    Attributes:
        stature: Standing height, metres.
        girth: Thickness of trunk and limbs relative to the average build.
        frames: Segment name -> (origin (3,), rotation (3, 3)) in the world; the columns are the segment's x, y, z axes.
        joints: Joint name -> (3,) in the world, metres: all names of COCO-17 and MPII-16.
        lengths: Segment name -> metres.
    """

    stature: float
    girth: float
    frames: Mapping[str, tuple[np.ndarray, np.ndarray]]
    joints: Mapping[str, np.ndarray]
    lengths: Mapping[str, float]


def turn(axis: str, degrees: float) -> np.ndarray:
    """The right-handed rotation (3, 3) about the axis ``x``, ``y`` or ``z``."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    if axis == "x":
        return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    if axis == "y":
        return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


# Poses ----------------------------------------------------------------------------------------------------------------
# A family gives the range its angles are drawn from; what it does not name stays near zero. Arms and legs are drawn
# apart, left and right apart, so that a few families give many poses.

_LEGS: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "stand": {"hip_flexion": (-6, 12), "hip_abduction": (0, 14), "hip_rotation": (0, 20), "knee_flexion": (0, 14)},
    "sit": {"hip_flexion": (72, 98), "hip_abduction": (0, 22), "hip_rotation": (-5, 15), "knee_flexion": (55, 105)},
    "squat": {"hip_flexion": (70, 112), "hip_abduction": (5, 30), "hip_rotation": (0, 25), "knee_flexion": (75, 135)},
    "wide": {"hip_flexion": (0, 30), "hip_abduction": (18, 40), "hip_rotation": (5, 25), "knee_flexion": (0, 35)},
}
_ARMS: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "hang": {"shoulder_flexion": (-20, 25), "shoulder_abduction": (7, 28), "elbow_flexion": (3, 45)},
    "akimbo": {
        "shoulder_flexion": (-25, -5),
        "shoulder_abduction": (35, 55),
        "shoulder_rotation": (-55, -35),
        "elbow_flexion": (75, 105),
    },
    "forward": {"shoulder_flexion": (25, 95), "shoulder_abduction": (2, 25), "elbow_flexion": (5, 95)},
    "side": {"shoulder_flexion": (-10, 25), "shoulder_abduction": (55, 105), "elbow_flexion": (0, 60)},
    "up": {"shoulder_flexion": (115, 172), "shoulder_abduction": (2, 35), "elbow_flexion": (0, 75)},
    "wave": {
        "shoulder_flexion": (-5, 25),
        "shoulder_abduction": (70, 110),
        "shoulder_rotation": (50, 80),
        "elbow_flexion": (60, 125),
    },
    "back": {"shoulder_flexion": (-50, -20), "shoulder_abduction": (8, 30), "elbow_flexion": (0, 70)},
}
_STANCES = {
    "stand": 0.30,
    "walk": 0.18,
    "run": 0.14,
    "sit": 0.12,
    "squat": 0.07,
    "wide": 0.09,
    "kick": 0.06,
    "lie": 0.03,
}
_ARM_WEIGHTS = {"hang": 0.28, "akimbo": 0.08, "forward": 0.22, "side": 0.14, "up": 0.14, "wave": 0.07, "back": 0.07}


def _pick(rng: np.random.Generator, weights: Mapping[str, float]) -> str:
    p = np.array(list(weights.values()))
    return list(weights)[int(rng.choice(len(p), p=p / p.sum()))]


def _gait(rng: np.random.Generator, stride: float) -> dict[str, float]:
    """Legs and arms of one instant of walking (stride ~ 28 degrees) or running (~ 50): arms swing against the legs."""
    phase = rng.uniform(0, 2 * np.pi)
    angles = {}
    for side, sign in _SIDES:
        swing = np.sin(phase) * sign
        lift = np.cos(phase) * sign  # > 0 while this leg travels forward, when the knee is bent most
        angles[f"{side}_hip_flexion"] = stride * swing + 0.2 * stride
        angles[f"{side}_knee_flexion"] = 8 + 1.7 * stride * max(lift, 0.0) + 0.25 * stride * max(-swing, 0.0)
        angles[f"{side}_ankle_flexion"] = -12 * max(-swing, 0.0)
        angles[f"{side}_shoulder_flexion"] = -0.9 * stride * swing
        angles[f"{side}_shoulder_abduction"] = rng.uniform(6, 18)
        angles[f"{side}_elbow_flexion"] = rng.uniform(10, 35) if stride < 40 else rng.uniform(70, 105)
    return angles


def sample_pose(rng: np.random.Generator) -> tuple[str, dict[str, float]]:
    """Draw a stance and the joint angles that go with it.

    Args:
        rng: Source of randomness.

    Returns:
        The stance (``stand``, ``walk``, ``run``, ``sit``, ``squat``, ``wide``, ``kick`` or ``lie``) and the angles in
        degrees, within ``RANGES``; besides the joints they hold ``lean`` and ``roll``, the tilt of the whole body
        forward and sideways.
    """
    stance = _pick(rng, _STANCES)
    angles = _limbs(rng, stance) | {
        "lumbar_flexion": rng.normal(4, 7),
        "lumbar_side": rng.normal(0, 6),
        "lumbar_twist": rng.normal(0, 9),
        "neck_flexion": rng.normal(4, 11),
        "neck_side": rng.normal(0, 7),
        "neck_twist": rng.normal(0, 20),
        "lean": rng.normal(2, 4),
        "roll": rng.normal(0, 3),
    }
    _lean(rng, stance, angles)
    for name in angles:
        joint = name.split("_", 1)[1] if name.startswith(("left_", "right_")) else name
        if joint in RANGES:
            angles[name] = float(np.clip(angles[name], *RANGES[joint]))
    return stance, angles


def _limbs(rng: np.random.Generator, stance: str) -> dict[str, float]:
    """Arms and legs of a stance."""
    angles: dict[str, float] = {}
    moving = stance in ("walk", "run")
    if moving:
        angles |= _gait(rng, rng.uniform(18, 32) if stance == "walk" else rng.uniform(40, 60))
    for side, _ in _SIDES:
        if not moving:
            legs = _LEGS.get(stance, _LEGS["stand"])
            angles |= {f"{side}_{name}": rng.uniform(*ends) for name, ends in legs.items()}
        if not moving or rng.random() < 0.25:
            arms = _ARMS[_pick(rng, _ARM_WEIGHTS)]
            angles |= {f"{side}_{name}": rng.uniform(*ends) for name, ends in arms.items()}
        angles[f"{side}_wrist_flexion"] = rng.normal(0, 15)
        angles.setdefault(f"{side}_shoulder_rotation", rng.normal(0, 18))
        angles.setdefault(f"{side}_hip_rotation", rng.normal(5, 8))
        angles.setdefault(f"{side}_hip_abduction", rng.uniform(0, 8))
        angles.setdefault(f"{side}_ankle_flexion", rng.normal(0, 5))
    if stance == "kick":
        side = _SIDES[int(rng.integers(2))][0]
        angles[f"{side}_hip_flexion"] = rng.uniform(45, 105)
        angles[f"{side}_knee_flexion"] = rng.uniform(0, 110)
        angles[f"{side}_hip_abduction"] = rng.uniform(0, 35)
    return angles


def _lean(rng: np.random.Generator, stance: str, angles: dict[str, float]) -> None:
    """Tilt the whole body as its stance asks, the legs staying under it; in place."""
    if stance == "run":
        angles["lean"] += rng.uniform(4, 12)
    elif stance == "squat":
        angles["lean"] += rng.uniform(5, 25)
        for side, _ in _SIDES:  # the shanks lean forward
            angles[f"{side}_knee_flexion"] = angles[f"{side}_hip_flexion"] + rng.uniform(10, 35)
            angles[f"{side}_hip_flexion"] += angles["lean"]
    elif stance in ("stand", "wide") and rng.random() < 0.25:  # bend down
        angles["lean"] += rng.uniform(15, 50)
        angles["lumbar_flexion"] += rng.uniform(10, 40)
        for side, _ in _SIDES:
            angles[f"{side}_hip_flexion"] += angles["lean"]
    elif stance == "lie":
        angles["lean"] = rng.choice([-90.0, 90.0]) + rng.normal(0, 5)
        angles["roll"] = rng.normal(0, 8)
        angles[f"{_SIDES[int(rng.integers(2))][0]}_hip_flexion"] = rng.uniform(0, 60)


# Kinematics -----------------------------------------------------------------------------------------------------------


def sample_lengths(rng: np.random.Generator) -> tuple[float, float, dict[str, float]]:
    """Draw stature (metres), girth (1 is the average build) and segment lengths (metres, 4 % around their shares)."""
    stature = float(np.clip(rng.normal(1.70, 0.10), 1.45, 1.98))
    girth = float(np.clip(rng.normal(1.0, 0.13), 0.78, 1.35))
    return stature, girth, {name: share * stature * rng.uniform(0.96, 1.04) for name, share in SEGMENTS.items()}


def pose_body(
    angles: Mapping[str, float], lengths: Mapping[str, float], *, stature: float, girth: float = 1.0, yaw: float = 0.0
) -> Body:
    """Forward kinematics: put the segments in place, the lowest point of the body on the ground at x = z = 0.

    Args:
        angles: Joint angles in degrees, as ``sample_pose`` gives; a missing one is 0.
        lengths: Segment lengths in metres, keys of ``SEGMENTS``.
        stature: Standing height, metres.
        girth: Relative thickness, for drawing the body.
        yaw: Turn of the whole body about the vertical, degrees; 0 faces +z.
    """

    def angle(name: str) -> float:
        return angles.get(name, 0.0)

    def step(origin: np.ndarray, rotation: np.ndarray, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> np.ndarray:
        return origin + rotation @ np.array([x, y, z])

    root = turn("y", yaw) @ turn("z", angle("roll")) @ turn("x", angle("lean"))
    hips = np.zeros(3)
    lumbar = step(hips, root, y=lengths["lumbar"])
    chest = root @ turn("y", angle("lumbar_twist")) @ turn("z", angle("lumbar_side"))
    chest = chest @ turn("x", angle("lumbar_flexion"))
    thorax = step(lumbar, chest, y=lengths["chest"])
    # Half of a turn of the head happens in the neck, half at the skull.
    bow = turn("z", angle("neck_side") / 2) @ turn("x", angle("neck_flexion") / 2)
    half_turn = turn("y", angle("neck_twist") / 2)
    neck = chest @ half_turn @ bow
    skull = step(thorax, neck, y=lengths["neck"], z=0.1 * lengths["neck"])
    head = neck @ half_turn @ bow
    frames = {
        "pelvis": (hips, root),
        "chest": (lumbar, chest),
        "neck": (thorax, neck),
        "head": (skull, head),
    }
    joints = {"pelvis": hips, "thorax": thorax, "upper_neck": skull}
    joints["head_top"] = step(skull, head, y=lengths["head"], z=0.06 * lengths["head"])
    joints["nose"] = step(skull, head, *(lengths["head"] * c for c in _FACE["nose"]))
    for side, sign in _SIDES:
        for part in ("eye", "ear"):
            x, y, z = (lengths["head"] * c for c in _FACE[part])
            joints[f"{side}_{part}"] = step(skull, head, sign * x, y, z)
        _hang_arm(frames, joints, side, sign, angle, lengths)
        _hang_leg(frames, joints, side, sign, angle, lengths)
    lift = np.array([0.0, _ground_clearance(frames, lengths, stature, girth), 0.0])
    return Body(
        stature=stature,
        girth=girth,
        frames={name: (origin - lift, rotation) for name, (origin, rotation) in frames.items()},
        joints={name: point - lift for name, point in joints.items()},
        lengths=dict(lengths),
    )


def _hang_arm(frames, joints, side, sign, angle, lengths) -> None:
    """Add upper arm, forearm and hand; limbs hang along -y of their frame."""
    chest_origin, chest = frames["chest"]
    lift = 0.02 * max(angle(f"{side}_shoulder_flexion"), angle(f"{side}_shoulder_abduction")) / 90  # the girdle rises
    shoulder = chest_origin + chest @ np.array([sign * lengths["shoulder"], lengths["chest"] * (0.97 + lift), 0.0])
    arm = chest @ turn("x", -angle(f"{side}_shoulder_flexion")) @ turn("z", sign * angle(f"{side}_shoulder_abduction"))
    arm = arm @ turn("y", sign * angle(f"{side}_shoulder_rotation"))
    elbow = shoulder - lengths["upper_arm"] * arm[:, 1]
    forearm = arm @ turn("x", -angle(f"{side}_elbow_flexion"))
    wrist = elbow - lengths["forearm"] * forearm[:, 1]
    hand = forearm @ turn("z", sign * angle(f"{side}_wrist_flexion"))
    frames |= {
        f"{side}_upper_arm": (shoulder, arm),
        f"{side}_forearm": (elbow, forearm),
        f"{side}_hand": (wrist, hand),
    }
    joints |= {f"{side}_shoulder": shoulder, f"{side}_elbow": elbow, f"{side}_wrist": wrist}


def _hang_leg(frames, joints, side, sign, angle, lengths) -> None:
    """Add thigh, shank and foot; the foot's z axis points to the toes."""
    pelvis_origin, pelvis = frames["pelvis"]
    hip = pelvis_origin + sign * lengths["hip"] * pelvis[:, 0]
    thigh = pelvis @ turn("x", -angle(f"{side}_hip_flexion")) @ turn("z", sign * angle(f"{side}_hip_abduction"))
    thigh = thigh @ turn("y", sign * angle(f"{side}_hip_rotation"))
    knee = hip - lengths["thigh"] * thigh[:, 1]
    shank = thigh @ turn("x", angle(f"{side}_knee_flexion"))
    ankle = knee - lengths["shank"] * shank[:, 1]
    foot = shank @ turn("x", -angle(f"{side}_ankle_flexion"))
    frames |= {f"{side}_thigh": (hip, thigh), f"{side}_shank": (knee, shank), f"{side}_foot": (ankle, foot)}
    joints |= {f"{side}_hip": hip, f"{side}_knee": knee, f"{side}_ankle": ankle}


def _ground_clearance(frames, lengths, stature: float, girth: float) -> float:
    """Height of the body's lowest point, metres: soles, toes, seat, back of the head, hands."""
    heights = [frames["pelvis"][0][1] - 0.06 * stature * girth, frames["head"][0][1] - 0.04 * stature]
    heights.append(frames["neck"][0][1] - 0.05 * stature * girth)
    for side, _ in _SIDES:
        ankle, foot = frames[f"{side}_foot"]
        for z in (-0.25, 0.75):
            heights.append((ankle + foot @ np.array([0.0, -lengths["ankle"], z * lengths["foot"]]))[1])
        heights.append(frames[f"{side}_shank"][0][1] - 0.035 * stature)
        heights.append(frames[f"{side}_hand"][0][1] - 0.02 * stature)
    return float(min(heights))
