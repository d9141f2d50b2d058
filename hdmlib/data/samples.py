"""Published files that some tests compare with and that the repository does not contain: addresses and checksums.

They lie on GitHub, each at a pinned commit. The photos are COCO's (Flickr licences, named in the annotations) and
MPII's (research use only); the predictions belong to the authors of the repositories.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from hdmlib.data.dataset import DataError

HOST = "https://raw.githubusercontent.com"
_MMPOSE = "open-mmlab/mmpose/759b39c13fea6ba094afc1fa932f51dc1b11cbf9/tests/data"
_HOURGLASS = "anibali/eval-mpii-pose/938ef9a57fde14fdd1754fa668ec13ec4c00adab/preds/reference"

# Local name: (address below the host, SHA-256).
SAMPLES: dict[str, tuple[str, str]] = {
    "coco_oks_oracle/c_dt_example_coco_preds.json": (
        "jin-s13/xtcocoapi/d74033ff1635e9002133b2380862bc2b728584d2/annotations/example_coco_preds.json",
        "e34311eecac34fb4fd45e8056f3cedba7f44481d0d7fa8eade058f14fca6227c",
    ),
    "mpii_val_pckh_oracle/detections_our_format.mat": (
        "bearpaw/pytorch-pose/edc7aece651649927764435ce0c1f03cffa2edaf/evaluation/data/detections_our_format.mat",
        "1ab6874f858046c74acdd1b9dacb8746a2ddddc331952487a9774e3ee0c2b075",
    ),
    "mpii_val_pckh_oracle/preds_bearpaw_hg_s2_b1.mat": (
        f"{_HOURGLASS}/bearpaw-hg_s2_b1.mat",
        "e55d253422cbcc9655395519f0ceb8c21f45f829c77b600fc4de708b4116e61e",
    ),
    "mpii_val_pckh_oracle/preds_bearpaw_hg_s8_b1.mat": (
        f"{_HOURGLASS}/bearpaw-hg_s8_b1.mat",
        "5cd3ff9e5a3461d253ebf417daf4bcab8ae6a7f8522d3b04488bc8ab1ec42cc7",
    ),
    "mpii_val_pckh_oracle/preds_newell_valid-ours.h5": (
        "princeton-vl/pose-hg-demo/2e2e5c480c1871f01f331df80b5f631e5ca0b329/preds/valid-ours.h5",
        "c513b90d6e1e76fe895cf557c23dc5b264b83621fa30ee64678f3f8c0178a679",
    ),
} | {
    f"mmpose_fixture/{name}": (f"{_MMPOSE}/{name}", digest)
    for name, digest in {
        "coco/000000000785.jpg": "83981537a7baeafbeb9c8cb67b3484dc26433f574b3685d021fa537e277e4726",
        "coco/000000040083.jpg": "89b9c3771c9428e0e25134cde9bc0a962318a477d267ef47f8e1872526207da7",
        "coco/000000196141.jpg": "8e66c7dd60fe81fb0eae99314eb5e6c191e53f739760fa36ae7ba56f10115814",
        "coco/000000197388.jpg": "dec0fbb931cb609bf481e56b89cd2fbbab79839f22832c3bbe69a8fae2769cdd",
        "coco/test_coco.json": "6dbaa1cc67f0bbe7a761abbaeb7e639c91aacbfc7e34dba146352303a528628f",
        "coco/test_coco_det_AP_H_56.json": "b90eb5046d6add031ee4cd669fccb56e52a6cada42e968443e1e21e9970efa78",
        "mpii/004645041.jpg": "7d3509c198d92dc74591913eecea2f17a652220f63c7a554a429474e3cfe6e48",
        "mpii/005808361.jpg": "00dd4d26f7b88c9d7684a27b23c5534741093242a0b6e290834fb3516ecc8631",
        "mpii/051423444.jpg": "b95c26c95d0268bd40901b59e649f1bdd1efa89fcdbdd96acf67fdfb2fef6bf3",
        "mpii/052475643.jpg": "9a9c93e763625a90d54037f4804792e213a5747ecb367ca1bed25d4c9dd5d979",
        "mpii/060754485.jpg": "5ecb73441f15f0d5dacaad80c6986f28b4e5089e4ab3278d2da63b7fdcaec315",
        "mpii/test_mpii.json": "ed7ca7abc1c2e4cdd4023f021bb169a0584d892489208c24b2b09da25f033800",
    }.items()
}


def fetch_samples(
    to: Path,
    *,
    samples: Mapping[str, tuple[str, str]] = SAMPLES,
    host: str = HOST,
    progress: Callable[..., Iterable[Any]] | None = None,
) -> int:
    """Fetch the files into a folder and check them; those that are there and intact are kept.

    Args:
        to: The folder; it is made if need be.
        samples: Local name: address below the host, and SHA-256.
        host: Where the addresses start.
        progress: Wraps the loop over the files: ``progress(iterable, total=, desc=)``.

    Returns:
        Number of files in the folder.

    Raises:
        DataError: A file cannot be fetched or written, or is not the published one; what was fetched before stays, and
            nothing half-written does.
        ImportError: pooch is not installed.
    """
    import pooch

    pooch.get_logger().setLevel("ERROR")  # it announces every file
    fetcher = pooch.create(
        path=to,
        base_url=host,
        registry={name: f"sha256:{digest}" for name, (_, digest) in samples.items()},
        urls={name: f"{host}/{address}" for name, (address, _) in samples.items()},
    )
    for name in progress(samples, total=len(samples), desc="files") if progress else samples:
        try:
            fetcher.fetch(name)
        except Exception as error:  # network, proxy, folder, checksum: requests and pooch raise many kinds
            raise DataError(
                f"samples: cannot fetch {fetcher.get_url(name)} ({_reason(error)}); repeat the command, or "
                f"save the file yourself as {to / name}"
            ) from None
    return len(samples)


def _reason(error: Exception) -> str:
    """In a few words why a file cannot be fetched."""
    if "Max retries exceeded" in str(error):  # as urllib3 puts it
        return "no connection"
    if isinstance(error, ValueError) and "hash" in str(error):
        return "it is not the published file"
    return (str(error) or type(error).__name__).splitlines()[0]
