"""The study behind notebooks 03, 04, 05 and 07: the runs it consists of, and the tables of their records."""

from hdmlib.study.results import records_of
from hdmlib.study.stages import SEEDS, STAGES, Trial

__all__ = ["SEEDS", "STAGES", "Trial", "records_of"]
