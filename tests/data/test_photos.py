"""Photos of every kind that cameras and tools write, read as a person sees them, or refused before training."""

import io
import json
import unicodedata
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from hdmlib.data.coco import read_coco
from hdmlib.data.crops import Frame
from hdmlib.data.dataset import DataError
from hdmlib.data.intake import DataWarning
from hdmlib.data.loader import make_loader
from hdmlib.data.photos import PathEnds, PhotoFolder, PhotoHeader, inspect_photo, read_image

NOISE = cv2.resize(
    np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8), (64, 48), interpolation=cv2.INTER_CUBIC
)


def oriented(path: Path, code: int, size: tuple[int, int] = (64, 48)) -> None:
    exif = Image.Exif()
    exif[0x0112] = code
    Image.fromarray(NOISE).resize(size).save(path, exif=exif.tobytes(), quality=95)


def write(root: Path, size: tuple[int | str, int | str] | None, file: str = "1.jpg") -> Path:
    """Annotations of one photo with one person."""
    photo = {"id": 1, "file_name": file} | ({"width": size[0], "height": size[1]} if size else {})
    person = {"id": 7, "image_id": 1, "category_id": 1, "bbox": [4, 4, 30, 30], "area": 900, "iscrowd": 0}
    category = {"id": 1, "name": "person", "keypoints": ["nose"]}
    parts = {"images": [photo], "annotations": [person | {"keypoints": [10, 9, 2]}], "categories": [category]}
    (root / "train.json").write_text(json.dumps(parts))
    return root


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("code", range(1, 9))
def test_upright_is_what_pil_shows(tmp_path, code, suffix):
    path = tmp_path / f"a{suffix}"
    oriented(path, code)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), dtype=int)
        stored = np.asarray(image.convert("RGB"), dtype=int)
    assert np.abs(read_image(path, upright=True) - expected).max() <= 3  # two decoders
    assert np.abs(read_image(path) - stored).max() <= 3


def test_tiff_is_always_upright(tmp_path):
    oriented(tmp_path / "1.tif", 6)
    assert inspect_photo(tmp_path / "1.tif") == PhotoHeader(None, (48, 64), 1)
    for upright in (False, True):
        np.testing.assert_array_equal(read_image(tmp_path / "1.tif", upright=upright), np.rot90(NOISE, -1))


@pytest.mark.parametrize("code", [5, 6, 7, 8])
def test_a_photo_is_turned_where_its_annotated_size_requires_it(tmp_path, code):
    oriented(tmp_path / "1.jpg", code)
    with pytest.warns(DataWarning, match=r"1 photo turned upright by its EXIF orientation, .*\(first: annotation 7\)"):
        people = read_coco(write(tmp_path, (48, 64)), "train")
    assert people.upright == frozenset(people.images)
    crops = [next(iter(make_loader(people, Frame((32, 32)), cache=cache)))["image"] for cache in (False, True)]
    Image.fromarray(read_image(people.images[0], upright=True)).save(tmp_path / "1.jpg", quality=100, subsampling=0)
    upright = next(iter(make_loader(read_coco(tmp_path, "train"), Frame((32, 32)))))["image"]
    assert torch.equal(*crops)
    assert (crops[0].int() - upright.int()).abs().max() <= 8  # saved once more
    oriented(tmp_path / "1.jpg", code)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        people = read_coco(write(tmp_path, (64, 48)), "train")  # annotated as stored, which settles it
    assert people.upright == frozenset()


def test_a_size_in_text_settles_the_orientation(tmp_path):
    oriented(tmp_path / "1.jpg", 6)
    with pytest.warns(DataWarning, match="mended: 1 photo turned upright by its EXIF orientation"):
        people = read_coco(write(tmp_path, ("48", "64.0")), "train")
    assert people.upright == frozenset(people.images)


@pytest.mark.parametrize(("code", "size"), [(3, (64, 48)), (2, (64, 48)), (6, (48, 48)), (6, None)])
def test_an_orientation_that_the_size_does_not_settle_is_reported(tmp_path, code, size):
    oriented(tmp_path / "1.jpg", code, size or (64, 48))
    with pytest.warns(DataWarning, match="1 photo with an EXIF orientation that its annotated size does not settle"):
        people = read_coco(write(tmp_path, size), "train")
    assert (len(people), people.upright) == (1, frozenset())


def saved(mode: str, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(NOISE).convert(mode).save(file, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "tolerance"),
    [
        (saved("RGB", format="PNG"), 0),
        (saved("RGB", format="BMP"), 0),
        (saved("RGB", format="TIFF"), 0),
        (saved("RGB", format="WEBP", lossless=True), 0),
        (saved("RGBA", format="PNG"), 0),
        (saved("CMYK", format="TIFF"), 1),
        (saved("CMYK", format="JPEG", quality=100), 12),
        (cv2.imencode(".png", NOISE[..., ::-1].astype(np.uint16) * 257)[1].tobytes(), 0),  # 16 bits a channel
        (cv2.imencode(".tif", NOISE[..., ::-1].astype(np.uint16) * 257)[1].tobytes(), 0),
    ],
)
def test_the_same_picture_in_every_format(tmp_path, content, tolerance):
    path = tmp_path / "1.png"  # the content decides, not the name
    path.write_bytes(content)
    assert inspect_photo(path).problem is None
    assert np.abs(read_image(path).astype(int) - NOISE).max() <= tolerance


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA"])
def test_grey_palette_and_bilevel(tmp_path, mode):
    path = tmp_path / "1.png"
    path.write_bytes(saved(mode, format="PNG"))
    assert inspect_photo(path).problem is None
    expected = Image.fromarray(NOISE).convert(mode).convert("RGB")
    np.testing.assert_array_equal(read_image(path), expected)


def test_grey_of_16_bits_is_not_white(tmp_path):
    grey = NOISE[..., 0]
    cv2.imwrite(str(tmp_path / "1.png"), grey.astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_image(tmp_path / "1.png"), np.dstack([grey] * 3))


def test_a_transparent_grey_of_16_bits_is_white_and_the_others_are_not(tmp_path):
    grey = NOISE[..., 0].astype(np.uint16) * 257 + 1
    grey[:, :8] = 1000
    Image.fromarray(grey).save(tmp_path / "1.png", transparency=1000)
    expected = grey >> 8
    expected[:, :8] = 255
    assert inspect_photo(tmp_path / "1.png").problem is None
    np.testing.assert_array_equal(read_image(tmp_path / "1.png"), np.dstack([expected] * 3))


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette"])
def test_what_is_transparent_is_white_and_not_the_colour_below(tmp_path, kind):
    image = Image.new("RGBA", (16, 16), (200, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 8, 16))
    image = image.quantize(8) if kind == "palette" else image.convert(kind)
    image.save(tmp_path / "1.png")
    assert inspect_photo(tmp_path / "1.png").problem is None
    photo = read_image(tmp_path / "1.png")
    assert (photo[4, 4].tolist(), photo[4, 12].tolist()) == ([0, 0, 0], [255, 255, 255])


POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\n(MARK) (w) file closefile\nshowpage\n%%EOF\n"
)


def foreign(format: str) -> bytes:
    return saved("RGB", format=format)


@pytest.mark.parametrize(
    "content", [POSTSCRIPT, *(foreign(name) for name in ("TGA", "PCX", "SGI", "ICO", "PPM", "GIF"))]
)
def test_formats_that_the_project_does_not_read_are_refused_at_reading(tmp_path, content, monkeypatch):
    """Also those that PIL would open: no external program is started, and training does not stop half-way."""
    started = []
    monkeypatch.setattr("subprocess.Popen", lambda *args, **kwargs: started.append(args))
    path = tmp_path / "1.jpg"
    path.write_bytes(content)
    assert inspect_photo(path).problem == "photo unreadable or truncated"
    with pytest.raises(DataError, match=r"cannot decode the photo .*1\.jpg"):
        read_image(path, upright=True)
    with pytest.raises(DataError, match="1 photo unreadable or truncated"):
        read_coco(write(tmp_path, (64, 48)), "train")
    assert not started


def test_what_only_one_decoder_reads_is_refused_at_reading(tmp_path):
    Image.fromarray(NOISE[..., 0].astype(np.float32)).save(tmp_path / "1.tif")  # PIL reads it, OpenCV does not
    assert inspect_photo(tmp_path / "1.tif").problem == "photo unreadable or truncated"


def test_paths_are_found_by_most_of_their_last_parts():
    """Against a comparison with every path."""
    rng = np.random.default_rng(0)
    paths = [("root", *rng.choice(["a", "b", "c"], rng.integers(1, 5))) for _ in range(200)]
    ends = PathEnds((path, number) for number, path in enumerate(paths))

    def shared(path: tuple[str, ...], wanted: tuple[str, ...]) -> int:
        return next(
            (n for n, (p, w) in enumerate(zip(path[::-1], wanted[::-1], strict=False)) if p != w),
            min(len(path), len(wanted)),
        )

    for _ in range(100):
        wanted = tuple(rng.choice(["a", "b", "c", "d"], rng.integers(1, 6)).tolist())
        lengths = [shared(path, wanted) for path in paths]
        expected = {n: {i for i, length in enumerate(lengths) if length == n} for n in sorted(set(lengths) - {0})[::-1]}
        found = list(ends.sharing(wanted))
        assert {count: set(values) for count, values in found} == expected
        assert [count for count, _ in found] == list(expected)


@pytest.mark.parametrize("written", [r"D:\project\video{}\{}.jpg", r"video{}\{}.jpg", "/home/me/video{}/{}.jpg"])
def test_frames_of_many_videos_are_found_without_comparing_each_with_all(tmp_path, monkeypatch, written):
    frames = [(video, frame) for video in range(40) for frame in range(5)]
    for video, frame in frames:
        (tmp_path / f"video{video}").mkdir(exist_ok=True)
        (tmp_path / f"video{video}" / f"{frame}.jpg").touch()
    calls, normalize = [], unicodedata.normalize
    monkeypatch.setattr("unicodedata.normalize", lambda *given: calls.append(1) or normalize(*given))
    folder = PhotoFolder(tmp_path, tmp_path, tmp_path, "train")
    for video, frame in frames:
        assert folder.find(written.format(video, frame)) == tmp_path / f"video{video}" / f"{frame}.jpg"
    assert len(calls) < 50 * len(frames)


def test_a_size_that_the_annotations_lack_is_the_files(tmp_path):
    Image.fromarray(NOISE).save(tmp_path / "1.jpg")
    with pytest.warns(
        DataWarning, match=r"1 photo without width and height: those of the file \(first: annotation 7\)"
    ):
        people = read_coco(write(tmp_path, None), "train")
    np.testing.assert_array_equal(people.boxes, [[4, 4, 29, 29]])
