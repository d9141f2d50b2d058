"""One training in several processes of this machine, started from one: for a notebook, where nobody types torchrun.

They are started as new programs, not forked: a notebook that has touched its GPU could not fork.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable

from hdmlib.config import Config


def words_of(config: Config) -> list[str]:
    """The ``NAME=VALUE`` words that make this config on the command line."""
    words = []
    for name, value in config.model_dump(mode="json", exclude_none=True).items():
        words.append(f"{name}={value if isinstance(value, str) else json.dumps(value)}")
    return words


def train_in_processes(config: Config, report: Callable[[str], None]) -> None:
    """Train a run in ``config.processes`` processes by torchrun; Ctrl-C goes on to them.

    Args:
        config: The run, with its ``run_dir``.
        report: Called with each line that they print.

    Raises:
        ChildProcessError: They failed; the message is theirs.
        KeyboardInterrupt: Finished epochs are saved.
    """
    words = words_of(config.model_copy(update={"processes": None, "resume": True}))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={config.processes}"]
    command = [sys.executable, *launcher, "-m", "hdmlib", "train", *words]
    with tempfile.TemporaryFile("w+") as complaints:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, text=True) as processes:
            try:
                for line in processes.stdout:
                    report(line.rstrip())
            except KeyboardInterrupt:
                processes.send_signal(signal.SIGINT)
                raise
        if processes.returncode:
            complaints.seek(0)
            told = [line for line in complaints.read().splitlines() if line.startswith("error: ")]
            reason = told[0].removeprefix("error: ") if told else f"exit status {processes.returncode}"
            raise ChildProcessError(f"training in {config.processes} processes failed: {reason}")
