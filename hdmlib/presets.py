"""The named recipes: plain numbers with the places they come from. Nothing is checked here; ``config.py`` does that."""

from __future__ import annotations

from typing import Any

# --------------------------------------------------------------------------------------------------------------------
# Presets: whole recipes. A value that depends on the loss stands in LEARNING_RATES.

# HRNet's published recipes. The words in quotes are the rows, or the items of the list below them, of PROTOCOL.md,
# section 1, that the numbers stand in; tests/test_config.py compares every preset with that table.
_HRNET = {
    "coordinates": "hrnet", "rotation_probability": 0.6, "flip_probability": 0.5,  # "rotation, p 0.6"; "Order: ..."
    "optimiser": "adam", "lr": 1e-3, "epochs": 210, "schedule": "step", "milestones": (170, 200),  # "Adam 1e-3, ..."
    "weight_decay": 1e-4, "apply_weight_decay": False,  # "The yaml's weight decay 1e-4 is never passed to Adam"
    "warmup_epochs": 0.0, "precision": "float32",  # "No warm-up, no seed, no AMP"
    "flip_test": True,  # "Flip test"
}  # fmt: skip
_COCO = {
    **_HRNET, "dataset": "coco",
    "scale_factor": 0.35, "rotation": 45.0,  # "scale", f 0.35; "rotation", f 45 degrees
    "half_body_probability": 0.3, "half_body_randn": True,  # "half-body", p 0.3; "Order: ... randn() < 0.5"
}  # fmt: skip
_MPII = {
    **_HRNET, "dataset": "mpii", "val_split": "valid",  # "samples": train 22,246 and val 2,958 people
    "scale_factor": 0.25, "rotation": 30.0,  # "scale", f 0.25; "rotation", f 30 degrees
    "half_body_probability": 0.0,  # "half-body": off
}  # fmt: skip


def _gaussian(sigma: float) -> dict[str, Any]:
    """Options of the Gaussian baseline: "Target: mu = int(x/4 + 0.5); unnormalised Gaussian", sigma by input size."""
    return {"loss_options": {"gaussian_mse": {"sigma": sigma, "rounded": True}}}


# "input -> heatmap (w x h), sigma"
_SMALL = {"input_width": 192, "input_height": 256, **_gaussian(2.0)}
_LARGE = {"input_width": 288, "input_height": 384, **_gaussian(3.0)}
_SQUARE = {"input_width": 256, "input_height": 256, **_gaussian(2.0)}

PRESETS: dict[str, dict[str, Any]] = {
    # Two cores, two minutes, the drawing of the people included. So short a training is better off with little
    # augmentation and small batches.
    "laptop": {
        "train_people": 1500, "val_people": 250, "input_width": 96, "input_height": 96, "scale_factor": 0.15,
        "rotation": 15.0, "epochs": 8, "batch_size": 16, "threads": 1,
    },
    # The study behind notebooks 03, 04, 05 and 07: as `laptop`, with more people, for longer. The first 250 validation
    # people are for tuning, the 500 after them are reported on.
    "study": {
        "train_people": 2000, "val_people": 500, "val_offset": 250, "input_width": 96, "input_height": 96,
        "scale_factor": 0.15, "rotation": 15.0, "epochs": 15, "batch_size": 16, "threads": 1, "workers": 0,
        "cache_photos": True,
    },
    # Every line of the code in seconds; its numbers mean nothing, but its small rate makes them nearly the same on
    # every machine.
    "smoke": {
        "train_people": 64, "val_people": 32, "input_width": 64, "input_height": 64, "image_size": 128, "epochs": 2,
        "batch_size": 16, "lr": 1e-3, "threads": 1, "workers": 0,
    },
    # One large GPU: sized for five minutes a loss at 1,000 people a second, a rate that no GPU was at hand to confirm.
    "gpu_demo": {
        "model": "hrnet_w32", "train_people": 20000, "val_people": 1000, "input_width": 256, "input_height": 256,
        "epochs": 10, "batch_size": 128, "precision": "bf16",
    },
    # The published recipes, named by height x width as there; "batch (4 GPUs)": 32 x 4, and 24 x 4 for the largest.
    "coco_w32_256x192": {**_COCO, **_SMALL, "model": "hrnet_w32", "batch_size": 128},
    "coco_w32_384x288": {**_COCO, **_LARGE, "model": "hrnet_w32", "batch_size": 128},
    "coco_w48_256x192": {**_COCO, **_SMALL, "model": "hrnet_w48", "batch_size": 128},
    "coco_w48_384x288": {**_COCO, **_LARGE, "model": "hrnet_w48", "batch_size": 96},
    "mpii_w32_256x256": {**_MPII, **_SQUARE, "model": "hrnet_w32", "batch_size": 128},
    "mpii_w48_256x256": {**_MPII, **_SQUARE, "model": "hrnet_w48", "batch_size": 128},
}  # fmt: skip

# Those that ask for a whole published dataset and are compared with published rows.
PUBLISHED_PRESETS = frozenset(name for name, values in PRESETS.items() if "dataset" in values)

# Peak learning rate by loss for training from scratch, where a preset names none: the best of nine trials each on the
# tuning people of the study (notebook 07).
LEARNING_RATES: dict[str, float] = {
    "matching": 6e-3, "gaussian_mse": 4e-3, "dot_mse": 1.6e-2, "cross_entropy": 1.2e-2, "soft_argmax": 1.2e-2,
}  # fmt: skip
