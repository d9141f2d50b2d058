"""The named recipes: numbers, with their sources. Nothing is checked here; ``config.py`` does that.

The published presets follow HRNet (``leoxiaobin/deep-high-resolution-net.pytorch`` at 6f69e46). Its configurations,
``experiments/{coco,mpii}/hrnet/w{32,48}_{size}_adam_lr1e-3.yaml``, give

=========================== ============================================= ======================
                            COCO                                          MPII
=========================== ============================================= ======================
IMAGE_SIZE (w x h), SIGMA   192 x 256, 2; 288 x 384, 3                    256 x 256, 2
PROB_HALF_BODY              0.3, with more than 8 labelled joints         0
SCALE_FACTOR f              0.35                                          0.25
ROT_FACTOR f                45 degrees                                    30 degrees
BATCH_SIZE_PER_GPU x GPUS   32 x 4; W48 at 288 x 384: 24 x 4              32 x 4
LR, END_EPOCH, LR_STEP      1e-3, 210, (170, 200), tenfold                the same
=========================== ============================================= ======================

and its code what no file configures:

- ``JointsDataset.__getitem__``: half body, then a scale of clip(1 + f N, 1 - f, 1 + f), then with p 0.6 a rotation of
  clip(f N, -2 f, 2 f), then with p 0.5 a flip. ``half_body_transform`` draws the upper half if randn() < 0.5, so with
  p 0.69, and grows its box 1.5 times.
- ``JointsDataset.generate_target``: a Gaussian of peak 1 at int(x / 4 + 0.5), cut off at 3 sigma.
- ``utils.get_optimizer``: Adam without the files' weight decay of 1e-4, which is passed to SGD alone.
- ``train.py``: no warm-up, no seed, no mixed precision. Its scheduler steps at the start of an epoch, so that torch 1.1
  and later decrease the rate at 169 and 199 (``drop_one_epoch_early``).
- ``core/function.py``: a flip test, the mirrored map shifted by one cell; decoding by a quarter of a cell.
"""

from __future__ import annotations

from typing import Any

# Peak learning rate by loss for training from scratch, used where a preset gives none: the best of nine trials each on
# the tuning people of the study (notebook 07).
LEARNING_RATES: dict[str, float] = {
    "matching": 6e-3, "gaussian_mse": 4e-3, "dot_mse": 1.6e-2, "cross_entropy": 1.2e-2, "soft_argmax": 1.2e-2,
}  # fmt: skip

_HRNET = {
    "coordinates": "hrnet", "rotation_probability": 0.6, "flip_probability": 0.5,
    "optimiser": "adam", "lr": 1e-3, "warm_start_lr": 1e-3, "epochs": 210, "schedule": "step", "milestones": (170, 200),
    "weight_decay": 1e-4, "apply_weight_decay": False, "warmup_epochs": 0.0, "precision": "float32", "flip_test": True,
}  # fmt: skip
_COCO = {
    **_HRNET, "dataset": "coco", "scale_factor": 0.35, "rotation": 45.0,
    "half_body_probability": 0.3, "half_body_randn": True,
}  # fmt: skip
_MPII = {
    **_HRNET, "dataset": "mpii", "val_split": "valid", "scale_factor": 0.25, "rotation": 30.0,
    "half_body_probability": 0.0,
}  # fmt: skip


def _gaussian(sigma: float) -> dict[str, Any]:
    """Options of the Gaussian baseline, whose sigma depends on the input size."""
    return {"loss_options": {"gaussian_mse": {"sigma": sigma, "rounded": True}}}


_SMALL = {"input_width": 192, "input_height": 256, **_gaussian(2.0)}
_LARGE = {"input_width": 288, "input_height": 384, **_gaussian(3.0)}
# ImageNet weights to start from, as the published runs do: HRNet's own, as timm publishes them on the Hugging Face hub.
IMAGENET = {"hrnet_w32": "hub:timm/hrnet_w32.ms_in1k", "hrnet_w48": "hub:timm/hrnet_w48.ms_in1k"}
_W32 = {"model": "hrnet_w32", "pretrained": IMAGENET["hrnet_w32"]}
_W48 = {"model": "hrnet_w48", "pretrained": IMAGENET["hrnet_w48"]}
_SQUARE = {"input_width": 256, "input_height": 256, **_gaussian(2.0)}

PRESETS: dict[str, dict[str, Any]] = {
    # Three and a half minutes on two cores, including the time to draw the people. So short a training needs little
    # augmentation and small batches.
    "laptop": {
        "train_people": 1500, "val_people": 250, "input_width": 96, "input_height": 96, "scale_factor": 0.15,
        "rotation": 15.0, "epochs": 8, "batch_size": 16, "threads": 1,
    },
    # The study behind notebooks 03, 04, 05 and 07: as `laptop`, with more people and epochs. The first 250 validation
    # people are for tuning, the next 500 are reported on.
    "study": {
        "train_people": 2000, "val_people": 500, "val_offset": 250, "input_width": 96, "input_height": 96,
        "scale_factor": 0.15, "rotation": 15.0, "epochs": 15, "batch_size": 16, "threads": 1, "workers": 0,
        "cache_photos": True,
    },
    # Runs every line of the code in seconds. Its numbers mean nothing, but its small rate makes them nearly the same on
    # every machine.
    "smoke": {
        "train_people": 64, "val_people": 32, "input_width": 64, "input_height": 64, "image_size": 128, "epochs": 2,
        "batch_size": 16, "lr": 1e-3, "threads": 1, "workers": 0,
    },
    # One large GPU: five minutes per loss at 1,000 people a second, a rate that has not been measured.
    "gpu_demo": {
        "model": "hrnet_w32", "train_people": 20000, "val_people": 1000, "input_width": 256, "input_height": 256,
        "epochs": 10, "batch_size": 128, "precision": "bf16",
        # a quarter of the small network's rates, which gives the Gaussian HRNet's 1e-3
        "lr": {loss: rate / 4 for loss, rate in LEARNING_RATES.items()}, "warm_start_lr": 1e-3,
    },
    # HRNet's recipes, named as their files: height x width.
    "coco_w32_256x192": {**_COCO, **_SMALL, **_W32, "batch_size": 128},
    "coco_w32_384x288": {**_COCO, **_LARGE, **_W32, "batch_size": 128},
    "coco_w48_256x192": {**_COCO, **_SMALL, **_W48, "batch_size": 128},
    "coco_w48_384x288": {**_COCO, **_LARGE, **_W48, "batch_size": 96},
    "mpii_w32_256x256": {**_MPII, **_SQUARE, **_W32, "batch_size": 128},
    "mpii_w48_256x256": {**_MPII, **_SQUARE, **_W48, "batch_size": 128},
}  # fmt: skip

# Those that need a whole published dataset and are compared with published rows.
PUBLISHED_PRESETS = frozenset(name for name, values in PRESETS.items() if "dataset" in values)
