"""One training in several processes of this machine, started from one: config in, a finished run on disk out.

It serves notebooks, where nobody types torchrun. The processes are started as new programs, because a process that has
used its GPU cannot be forked.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable

from hdmlib.config import Config
from hdmlib.errors import interrupted_by_sigterm

# Of the processes' stderr, in the message about a failure that they do not explain themselves.
LAST_LINES = 30


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
        report: Called with each line they print, and with their warnings at the end.

    Raises:
        ChildProcessError: They failed; the message is their error line, else the end of what they wrote to stderr.
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
                with interrupted_by_sigterm():  # a notebook's kernel would end without a word to them
                    for line in processes.stdout:
                        report(line.rstrip())
            except KeyboardInterrupt:
                processes.send_signal(signal.SIGINT)
                for line in processes.stdout:  # until they have saved their step, and the run may be started again
                    report(line.rstrip())
                processes.wait()
                raise
        errors.seek(0)
        written = errors.read()
    if processes.returncode:
        told = re.search(r"^error: (.+)$", written, re.MULTILINE)
        last = "\n".join([f"exit status {processes.returncode}", *written.splitlines()[-LAST_LINES:]])
        raise ChildProcessError(f"training in {config.processes} processes failed: {told[1] if told else last}")
    for warning in warnings_in(written):
        report(warning)


def warnings_in(written: str) -> list[str]:
    """The warnings among what several processes wrote to stderr, each once: ``warning: ...``."""
    found = re.findall(r"^(?:\S.*:\d+: \w+Warning|warning): (.+)$", written, re.MULTILINE)
    return [f"warning: {text}" for text in dict.fromkeys(found)]
