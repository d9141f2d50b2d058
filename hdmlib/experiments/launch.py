"""One training in several processes of this machine, started from one: config in, a finished run on disk out.

It serves notebooks, where nobody types torchrun. The processes are started as new programs, because a process that has
used its GPU cannot be forked.
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
    """Train a run in ``config.processes`` processes by torchrun; Ctrl-C and SIGTERM are passed on to them.

    Args:
        config: The run, with its ``run_dir``.
        report: Called with each line they print.

    Raises:
        ChildProcessError: They failed; the message is their error line.
        KeyboardInterrupt: Finished steps are saved.
    """
    words = words_of(config.model_copy(update={"processes": None, "resume": True}))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={config.processes}"]
    command = [sys.executable, *launcher, "-m", "hdmlib", "train", *words]
    with tempfile.TemporaryFile("w+") as errors:
        # a session of their own: a terminal's Ctrl-C reaches them once, from here
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        ) as processes:
            assert processes.stdout is not None
            try:
                for line in processes.stdout:
                    report(line.rstrip())
            except KeyboardInterrupt:
                processes.send_signal(signal.SIGINT)
                raise
        if processes.returncode:
            errors.seek(0)
            lines = [line for line in errors.read().splitlines() if line.startswith("error: ")]
            reason = lines[0].removeprefix("error: ") if lines else f"exit status {processes.returncode}"
            raise ChildProcessError(f"training in {config.processes} processes failed: {reason}")
