"""From a config to a record: training, validation, and the files of a run."""

from hdmlib.experiments.record import Record
from hdmlib.experiments.runs import Run, model_of, predictions_of, record_of, run
from hdmlib.experiments.steps import TrainingDiverged
from hdmlib.experiments.store import REFERENCE_RECORDS, Store

__all__ = [
    "REFERENCE_RECORDS",
    "Record",
    "Run",
    "Store",
    "TrainingDiverged",
    "model_of",
    "predictions_of",
    "record_of",
    "run",
]
