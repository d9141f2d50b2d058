"""How good predicted joints are: PCK (with MPII's PCKh), error in pixels, and COCO's OKS-AP."""

from hdmlib.metrics.oks import OKS_METRICS, oks, oks_ap, oks_nms, rescore
from hdmlib.metrics.pck import PCKH_THRESHOLDS, LocalisationError, PCKReport, localisation_error, pck, pck_report

__all__ = [
    "OKS_METRICS",
    "PCKH_THRESHOLDS",
    "LocalisationError",
    "PCKReport",
    "localisation_error",
    "oks",
    "oks_ap",
    "oks_nms",
    "pck",
    "pck_report",
    "rescore",
]
