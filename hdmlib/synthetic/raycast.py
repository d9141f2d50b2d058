"""A small ray caster: solids in the world and a camera in; depth, brightness, paint and owner of every sample out.

Three solids are enough for people and furniture: an ellipsoid, a *round cone* (the hull of two spheres; with an
elliptic cross-section it is a limb or a trunk) and a box. Each is intersected exactly, in perspective, on its own
window of the picture, and enters a z-buffer; so occlusion, foreshortening and joints that melt into each other come for
free.

The camera looks along +z with x right and y down; a pixel (u, v) is the ray (X, Y, 1), X = (u - cx) / f, Y = (v - cy) /
f, and the depth of a hit is its z in metres. The raster holds ``SAMPLES`` samples a pixel in each direction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

SAMPLES = 2

# Maps local points in metres (3, M) and the position along the axis (M,), 0 at the origin and 1 at the far end, to
# indices into the palette (M,); index 0 leaves a hole.
Paint = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera in a world whose y axis points up.

    Attributes:
        focal: Focal length, pixels.
        centre: (2,) principal point, pixels; pixel centres lie at integers.
        width: Width of the picture, pixels.
        height: Height of the picture, pixels.
        rotation: (3, 3) world to camera; the rows are right, down and ahead.
        position: (3,) in the world, metres.
    """

    focal: float
    centre: np.ndarray
    width: int
    height: int
    rotation: np.ndarray
    position: np.ndarray

    def see(self, points: np.ndarray) -> np.ndarray:
        """World points (..., 3) in the camera's frame, metres; the last coordinate is the depth."""
        return (points - self.position) @ self.rotation.T

    def project(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 3) in the camera's frame to pixels (..., 2)."""
        return points[..., :2] / points[..., 2:] * self.focal + self.centre


@dataclass(slots=True)
class Solid:
    """A solid in the world.

    Attributes:
        origin: (3,) centre of the near sphere, of the ellipsoid or of the box, metres.
        rotation: (3, 3), the columns are the local x, y, z axes; a round cone runs along local +y.
        length: Distance of the two spheres' centres, metres, more than their radii differ; 0 makes an ellipsoid.
        radii: Radii of the sphere at the origin and at the far end, metres.
        scale: (3,) stretch of the solid along the local axes; the y stretch of a round cone is 1.
        paint: An index into the palette or a function of the local point.
        owner: What the solid belongs to, 1 to 255.
        box: Whether this is a box, with half sides ``radii[0] * scale``.
        gloss: Strength of the highlight.
    """

    origin: np.ndarray
    rotation: np.ndarray
    length: float
    radii: tuple[float, float]
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    paint: int | Paint = 1
    owner: int = 1
    box: bool = False
    gloss: float = 0.0


class Raster:
    """The z-buffer and what is seen through it, ``SAMPLES`` x ``SAMPLES`` samples a pixel.

    Attributes:
        depth: (H, W) float32 metres, infinite where nothing was drawn.
        shade: (H, W) float32 brightness, about 0.3 to 1.3.
        paint: (H, W) uint8 palette indices, 0 where nothing was drawn.
        owner: (H, W) uint8 ``Solid.owner``, 0 where nothing was drawn.
    """

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        shape = (camera.height * SAMPLES, camera.width * SAMPLES)
        self.depth = np.full(shape, np.inf, np.float32)
        self.shade = np.zeros(shape, np.float32)
        self.paint = np.zeros(shape, np.uint8)
        self.owner = np.zeros(shape, np.uint8)

    def at(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Depth (N,) and owner (N,) of the samples nearest to pixels (N, 2) inside the picture."""
        column, row = np.rint((np.asarray(pixels) + 0.5) * SAMPLES - 0.5).astype(int).T
        row, column = row.clip(0, self.depth.shape[0] - 1), column.clip(0, self.depth.shape[1] - 1)
        return self.depth[row, column], self.owner[row, column]


def draw(raster: Raster, solids: Sequence[Solid], light: np.ndarray, ambient: float = 0.45) -> None:
    """Cast every solid into the raster.

    Args:
        raster: Changed in place.
        solids: In any order.
        light: (3,) direction towards the light in the world; its length is the light's strength.
        ambient: Brightness of a surface that the light grazes.
    """
    camera = raster.camera
    # Near solids first: what they hide need not be shaded.
    solids = sorted(solids, key=lambda solid: camera.rotation[2] @ solid.origin)
    with np.errstate(divide="ignore", invalid="ignore"):  # rays along a mantle or a face
        for solid, window, rays in _prepare(camera, solids):
            _cast(raster, solid, window, rays, light, ambient)


# Geometry -------------------------------------------------------------------------------------------------------------
# In local coordinates, stretched so that the round cone has circular sections, a ray is o + t D with D = B q linear in
# q = (xi, eta, 1), the ray's coordinates relative to the middle of the solid. Every discriminant is then a quadratic
# form q^T H q, whose coefficients are found in float64, free of cancellation, and evaluated on the window in float32.
#
# The round cone is the envelope of the spheres whose centre and radius run linearly along the axis, s in [0, 1]. For an
# axis of length L, radii a and a - r, and with w = B^T o, b = the second row of B, m = L o_y, d = L^2 - r^2,
#
#   k = d w + (r a - m) L b,    c = d o.o - m^2 + 2 m r a - L^2 a^2,    g = d D.D - (L D_y)^2,
#
# its mantle is met where h = k^2 - c g >= 0, at t = (-k - sqrt h) / g, on the sphere at s = (m - r a + t L D_y) / d; if
# that s lies outside [0, 1] an end sphere is met, or nothing.


class _Rays(NamedTuple):
    """The rays of one window in a solid's local coordinates: a ray is ``offset + t D``.

    Attributes:
        xi: (w,) columns, relative to the middle of the solid.
        eta: (h,) rows.
        forms: (11, 6) polynomials in (1, xi, eta, xi^2, xi eta, eta^2): D (3); the mantle's k, g and discriminant; the
            linear terms of the near and the far end's sphere, D.D, their discriminants.
        offset: (3,) the camera, o above.
        d: As above.
        lift: r a - m.
    """

    xi: np.ndarray
    eta: np.ndarray
    forms: np.ndarray
    offset: np.ndarray
    d: float
    lift: float


def _prepare(camera: Camera, solids: Sequence[Solid]) -> Iterator[tuple[Solid, tuple[slice, slice], _Rays]]:
    """The solids that may be seen, each with its window of the raster and the rays there."""
    origin = camera.see(np.array([s.origin for s in solids]))
    rotation = camera.rotation @ np.array([s.rotation for s in solids])
    scale = np.array([s.scale for s in solids])
    radii = np.array([s.radii for s in solids])
    length = np.array([s.length for s in solids])
    grow = np.where([s.box for s in solids], np.sqrt(3.0), 1.0)[:, None]  # the ellipsoid around a box
    far = origin + length[:, None] * rotation[:, :, 1]
    low, high, front = _bounds(rotation, scale, np.stack([origin, far], 1), radii * grow)
    middle = (low + high) / 2  # normalised image coordinates
    inverse = np.swapaxes(rotation, 1, 2) / scale[:, :, None]  # camera to local
    offset = -np.einsum("nij,nj->ni", inverse, origin)
    to_ray = np.tile(np.eye(3), (len(solids), 1, 1))
    to_ray[:, :2, 2] = middle
    forms, d, lift = _forms(inverse @ to_ray, offset, length, radii)
    step = 1 / (camera.focal * SAMPLES)
    centre = (camera.centre + 0.5) * SAMPLES - 0.5  # the principal point, in samples
    shape = np.array([camera.width, camera.height]) * SAMPLES
    first = np.clip(np.floor(low / step + centre), 0, shape).astype(int)
    last = np.clip(np.ceil(high / step + centre) + 1, 0, shape).astype(int)
    for i in (front & (first < last).all(1)).nonzero()[0].tolist():
        (x0, y0), (x1, y1) = first[i].tolist(), last[i].tolist()
        xi = ((np.arange(x0, x1) - centre[0]) * step - middle[i, 0]).astype(np.float32)
        eta = ((np.arange(y0, y1) - centre[1]) * step - middle[i, 1]).astype(np.float32)
        rays = _Rays(xi, eta, forms[i], offset[i].astype(np.float32), float(d[i]), float(lift[i]))
        yield solids[i], (slice(y0, y1), slice(x0, x1)), rays


def _forms(
    basis: np.ndarray, offset: np.ndarray, length: np.ndarray, radii: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The coefficients above for N solids: ``_Rays.forms`` (N, 11, 6), d (N,) and r a - m (N,)."""

    def outer(u: np.ndarray) -> np.ndarray:
        return u[:, :, None] * u[:, None, :]

    def times(scalars: np.ndarray, arrays: np.ndarray) -> np.ndarray:
        return scalars.reshape(-1, *[1] * (arrays.ndim - 1)) * arrays

    near, taper = radii[:, 0], radii[:, 0] - radii[:, 1]
    row = basis[:, 1]
    w = np.einsum("nji,nj->ni", basis, offset)
    gram = np.swapaxes(basis, 1, 2) @ basis  # D.D
    square = (offset**2).sum(1)
    m = length * offset[:, 1]
    d = length**2 - taper**2
    lift = taper * near - m
    k = times(d, w) + times(lift * length, row)
    c = d * square - m**2 + 2 * m * taper * near - (length * near) ** 2
    g = times(d, gram) - times(length**2, outer(row))
    mantle = outer(k) - times(c, g)
    # The end spheres: (w.q)^2 - (o.o - radius^2) D.D, with o seen from each centre.
    w_far = w - times(length, row)
    near_end = outer(w) - times(square - near**2, gram)
    far_end = outer(w_far) - times(square - 2 * m + length**2 - radii[:, 1] ** 2, gram)
    # As polynomials in (1, xi, eta, xi^2, xi eta, eta^2).
    forms = np.zeros((len(basis), 11, 6), np.float32)
    linear = np.concatenate([basis, k[:, None], w[:, None], w_far[:, None]], 1)
    forms[:, [0, 1, 2, 3, 6, 7], :3] = linear[:, :, [2, 0, 1]]
    quadratic = np.stack([g, mantle, gram, near_end, far_end], 1)
    rows, columns = np.array([2, 0, 1, 0, 0, 1]), np.array([2, 2, 2, 0, 1, 1])
    forms[:, [4, 5, 8, 9, 10]] = quadratic[:, :, rows, columns] * np.where(rows == columns, 1, 2)
    return forms, d, lift


def _bounds(rotation, scale, centres, radii) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bounds (N, 2), (N, 2) of pairs of ellipsoids in normalised image coordinates, and whether the camera faces them.

    The outline of an ellipsoid x = c + M y, |y| = 1, is the dual conic C = c c^T - M M^T; its extent along an image
    axis solves C_zz u^2 - 2 C_xz u + C_xx = 0.
    """
    axes = rotation * scale[:, None, :]
    spread = axes @ np.swapaxes(axes, 1, 2)  # (N, 3, 3)
    conic = centres[..., :, None] * centres[..., None, :] - radii[..., None, None] ** 2 * spread[:, None]
    zz = conic[..., 2, 2]
    front = ((zz > 1e-6) & (centres[..., 2] > 0)).all(1)
    zz = np.where(zz > 1e-6, zz, 1.0)
    mid = conic[..., :2, 2] / zz[..., None]
    diagonal = np.stack([conic[..., 0, 0], conic[..., 1, 1]], -1)
    half = np.sqrt(np.maximum(mid**2 - diagonal / zz[..., None], 0))
    return (mid - half).min(1), (mid + half).max(1), front


def _cast(raster: Raster, solid: Solid, window: tuple[slice, slice], rays: _Rays, light, ambient: float) -> None:
    """Intersect one solid with the rays of its window, and shade what lies in front of everything drawn so far."""
    flat, ray, t, s = _trace(solid, rays)
    rows = flat // len(rays.xi)
    place = (rows + window[0].start) * raster.depth.shape[1] + (flat - rows * len(rays.xi) + window[1].start)
    depth = raster.depth.ravel()  # a view
    keep = (t < depth.take(place)).nonzero()[0]
    t, s, place, point = t.take(keep), s.take(keep), place.take(keep), ray.take(keep, axis=1)
    point *= t
    point += rays.offset[:, None]
    paint = solid.paint
    if callable(paint):
        paint = paint(point * np.array(solid.scale, np.float32)[:, None], s)
        if not paint.all():  # holes
            keep = paint.nonzero()[0]
            t, s, place, point, paint = t[keep], s[keep], place[keep], point[:, keep], paint[keep]
    depth[place] = t
    raster.paint.ravel()[place] = paint
    raster.owner.ravel()[place] = solid.owner
    raster.shade.ravel()[place] = _shade(solid, point, s, light, ambient)


def _trace(solid: Solid, rays: _Rays) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where M rays of the window may enter the solid: flat index, D (3, M), depth and position along the axis (M,)."""
    # The outline: of the whole double cone (which holds the round cone), of the ellipsoid, or just the window of a box.
    one, x, y, xx, xy, yy = rays.forms[5 if solid.length else 9]
    outline = (xy * rays.eta)[:, None] * rays.xi
    outline += (xx * rays.xi + x) * rays.xi
    outline += ((yy * rays.eta + y) * rays.eta + one)[:, None]
    flat = np.arange(outline.size) if solid.box else (outline.ravel() > 0).nonzero()[0]
    # From here on only the rays that may hit, as flat lists.
    rows = flat // len(rays.xi)
    powers = np.empty((6, len(flat)), np.float32)
    powers[0] = 1
    rays.xi.take(flat - rows * len(rays.xi), out=powers[1])
    rays.eta.take(rows, out=powers[2])
    np.multiply(powers[1], powers[1:3], out=powers[3:5])
    np.multiply(powers[2], powers[2], out=powers[5])
    fields = rays.forms[:6] @ powers
    ray = fields[:3]
    if solid.length:
        return flat, ray, *_hit_cone(fields, powers, rays.forms[6:], solid.length, rays.d, rays.lift)
    if solid.box:
        t = _hit_box(ray, rays.offset, solid.radii[0])
    else:
        linear, square, discriminant = rays.forms[[6, 8, 9]] @ powers
        t = (linear + np.sqrt(np.maximum(discriminant, 0))) / -square
    return flat, ray, t, np.zeros(len(flat), np.float32)


def _hit_cone(
    fields: np.ndarray, powers: np.ndarray, caps: np.ndarray, length: float, d: float, lift: float
) -> tuple[np.ndarray, np.ndarray]:
    """Depth and position along the axis where rays enter a round cone; depth is infinite where they miss."""
    t = (fields[3] + np.sqrt(np.maximum(fields[5], 0))) / -fields[4]
    s = (t * fields[1] * length - lift) * (1 / d)
    beyond = (~((s > 0) & (s < 1))).nonzero()[0]
    if len(beyond):
        near_k, far_k, square, near, far = caps @ powers[:, beyond]
        t_near = np.where(near > 0, (near_k + np.sqrt(np.maximum(near, 0))) / -square, np.float32(np.inf))
        t_far = np.where(far > 0, (far_k + np.sqrt(np.maximum(far, 0))) / -square, np.float32(np.inf))
        t[beyond] = np.minimum(t_near, t_far)
        s[beyond] = t_far < t_near
    return t, s


def _hit_box(ray: np.ndarray, offset: np.ndarray, half: float) -> np.ndarray:
    """Depth where rays enter the cube |x|, |y|, |z| <= half, infinite where they miss (slab method)."""
    a = (half - offset[:, None]) / ray
    b = (-half - offset[:, None]) / ray
    enter, leave = np.minimum(a, b).max(0), np.maximum(a, b).min(0)
    return np.where((enter < leave) & (enter > 0), enter, np.float32(np.inf))


def _shade(solid: Solid, point: np.ndarray, s: np.ndarray, light: np.ndarray, ambient: float) -> np.ndarray:
    """Brightness at points (3, M) of the surface, which are overwritten.

    A wrapped cosine, so that the side turned away from the light keeps its form, and a highlight.
    """
    local = (solid.rotation.T @ light).astype(np.float32)
    if solid.box:
        cosine = local @ ((np.abs(point) >= np.abs(point).max(0)) * np.sign(point))
    else:
        point[1] -= s * np.float32(solid.length)  # from the centre of the sphere that touches here
        if solid.scale == (1.0, 1.0, 1.0):
            a, b = solid.radii
            cosine = local @ point / (np.float32(a) + s * np.float32(b - a))
        else:
            point /= np.array(solid.scale, np.float32)[:, None]
            cosine = local @ point / np.sqrt(np.einsum("ij,ij->j", point, point))
    shade = np.maximum(cosine + np.float32(0.35), 0) * np.float32(0.75) + np.float32(ambient)
    if solid.gloss:
        shade += np.float32(solid.gloss) * np.maximum(cosine, 0) ** 12
    return shade
