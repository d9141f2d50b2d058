"""The study behind notebooks 03, 04, 05, 07 and 09: the runs it consists of, and the tables of their records."""

from hdmlib.study.results import records_of
from hdmlib.study.stages import SEEDS, STAGES, Trial

__all__ = ["SEEDS", "STAGES", "Trial", "records_of"]
