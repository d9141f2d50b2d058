"""Where the published datasets come from: files, commands that fetch and unpack them, licences. For messages alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Archive:
    """A file that the publisher offers.

    Attributes:
        url: Its address.
        size: Its size, for people.
        unpack: Shell commands that unpack it in the dataset's folder.
        md5: Its checksum as widely used scripts list it; ``None`` where none is known.
    """

    url: str
    size: str
    unpack: tuple[str, ...]
    md5: str | None = None

    @property
    def commands(self) -> tuple[str, ...]:
        """Fetch, check, unpack. ``wget -c`` resumes what was interrupted."""
        name = self.url.rpartition("/")[2]
        check = () if self.md5 is None else (f'echo "{self.md5}  {name}" | md5sum -c',)
        return f"wget -c {self.url}  # {self.size}", *check, *self.unpack


@dataclass(frozen=True)
class Origin:
    """A published dataset.

    Attributes:
        name: Its name.
        site: The site that publishes it.
        archives: What to fetch.
        licence: Under which terms, and where they are stated.
        annotations: The annotation file of a split as published, below the dataset's folder.
        photos: The folder of its photos.
    """

    name: str
    site: str
    archives: tuple[Archive, ...]
    licence: str
    annotations: str
    photos: str

    def instructions(self, folder: str) -> str:
        """How to get the dataset into ``folder``, as lines of text."""
        lines = [f"mkdir -p '{folder}' && cd '{folder}'"]
        lines += [command for archive in self.archives for command in archive.commands]
        listed = "".join(f"\n    {line}" for line in lines)
        return f"{self.name} is published at {self.site}. Fetch it, or resume, with{listed}\nLicence: {self.licence}."


_COCO = "http://images.cocodataset.org"

ORIGINS = {
    "coco": Origin(
        name="COCO 2017",
        site="cocodataset.org",
        archives=(
            Archive(
                f"{_COCO}/annotations/annotations_trainval2017.zip",
                "241 MB",
                ("unzip -qn annotations_trainval2017.zip",),
                "f4bbac642086de4f52a3fdda2de5fa2c",
            ),
            Archive(
                f"{_COCO}/zips/val2017.zip",
                "1 GB, 5,000 photos",
                ("unzip -qn val2017.zip",),
                "442b8da7639aecaf257c1dceb8ba8c80",
            ),
            Archive(
                f"{_COCO}/zips/train2017.zip",
                "18 GB, 118,287 photos",
                ("unzip -qn train2017.zip",),
                "cced6f7f71b7629ddf16f17bbcfab6b2",
            ),
        ),
        licence="annotations CC BY 4.0; each photo under the Flickr licence that the annotations name "
        "(cocodataset.org, terms of use)",
        annotations="annotations/person_keypoints_{split}2017.json",
        photos="{split}2017/",
    ),
    "mpii": Origin(
        name="MPII Human Pose",
        site="human-pose.mpi-inf.mpg.de (the split of the validation people: the HRNet project, here from mmpose)",
        archives=(
            Archive(
                "https://download.openmmlab.com/mmpose/datasets/mpii_annotations.tar",
                "the split and the head sizes",
                (
                    "mkdir -p annot mmpose && tar -xf mpii_annotations.tar -C mmpose",
                    "find mmpose -name mpii_train.json -exec mv {} annot/train.json ';'",
                    "find mmpose -name mpii_val.json -exec mv {} annot/valid.json ';'",
                    "find mmpose -name mpii_gt_val.mat -exec mv {} annot/gt_valid.mat ';'",
                ),
            ),
            Archive(
                "https://datasets.d2.mpi-inf.mpg.de/andriluka14cvpr/mpii_human_pose_v1.tar.gz",
                "12.9 GB, about 25,000 photos; no checksum is published",
                ("tar -xzf mpii_human_pose_v1.tar.gz",),
            ),
        ),
        licence="research use only, no commercial use (human-pose.mpi-inf.mpg.de)",
        annotations="annot/{split}.json",
        photos="images/",
    ),
}
