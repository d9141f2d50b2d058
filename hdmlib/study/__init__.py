"""The study behind notebooks 03, 04, 05 and 07: which runs it is made of, and what their records say."""

from hdmlib.study.results import records_of
from hdmlib.study.stages import SEEDS, STAGES, Trial

__all__ = ["SEEDS", "STAGES", "Trial", "records_of"]
