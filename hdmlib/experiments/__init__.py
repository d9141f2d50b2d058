"""From a config to a record: training, and what a run leaves behind."""

from hdmlib.experiments.record import Record
from hdmlib.experiments.runs import Run, model_of, predictions_of, record_of, run
from hdmlib.experiments.store import REFERENCE_RECORDS, find_record
from hdmlib.experiments.training import TrainingDiverged

__all__ = [
    "REFERENCE_RECORDS",
    "Record",
    "Run",
    "TrainingDiverged",
    "find_record",
    "model_of",
    "predictions_of",
    "record_of",
    "run",
]
