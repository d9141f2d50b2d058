"""One torch thread, the same hypothesis examples in every run, folders of real samples, commands as processes."""

import itertools
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch is imported: on two cores, two threads in each of several test processes wait for one another.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# The longest first: else one process is left with a file of minutes while the others have ended.
_LONG_FILES = (
    "02_train.ipynb", "study/test_notebooks.py", "test_training.py", "test_distributed.py", "test_killed.py",
    "test_execution.py", "test_notebook.py", "07_formulation.ipynb", "05_qualitative.ipynb", "test_gpu_kernel.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        path = item.path.as_posix()
        return next((place for place, name in enumerate(_LONG_FILES) if path.endswith(f"/{name}")), len(_LONG_FILES))

    items.sort(key=place)


_BESIDE_THE_CHECKOUT = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def samples() -> Callable[[str], Path]:
    """Finds published files that the repository does not contain: ``samples("mpii_val_pckh_oracle")`` is their folder.

    They are looked for in ``HDMLIB_SAMPLES``, else in ``../shared/data`` beside the checkout. Without them the test
    is skipped.
    """
    root = Path(os.environ.get("HDMLIB_SAMPLES", _BESIDE_THE_CHECKOUT)).expanduser()

    def folder(name: str) -> Path:
        if not (root / name).is_dir():
            pytest.skip(
                f"{name} is not in {root}; `hdmlib data samples` fetches what is public, HDMLIB_SAMPLES names it"
            )
        return root / name

    return folder


class Command:
    """A command of hdmlib, or a script, in a process of its own whose output goes to files.

    Where the system can, the process is forked from one that has imported torch and the rest, which takes ten seconds.
    It is a process like any other: it has its own memory, files and signals, and can be killed.
    """

    _numbers = itertools.count()

    def __init__(self, folder: Path, words: tuple[str, ...], script: Path | None, environment: Mapping[str, str]):
        forks = "forkserver" in multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if forks else "spawn")
        context.set_forkserver_preload(["hdmlib.cli", "hdmlib.transport.cpu_loops", "torch._dynamo"])
        number = next(self._numbers)
        self.out, self.err = (folder / f"command {number} {name}" for name in ("out", "err"))
        start = f"run_path({str(script)!r}" if script else "run_module('hdmlib', alter_sys=True"
        code = (
            "import os, runpy, sys\n"
            f"os.environ.update({dict(environment)!r})\n"
            f"sys.argv = {['hdmlib', *words]!r}\n"
            f"for number, path in enumerate({[str(self.out), str(self.err)]!r}, start=1):\n"
            "    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), number)\n"
            f"runpy.{start}, run_name='__main__')\n"
        )
        self.process = context.Process(target=exec, args=(code, {}))
        self.process.start()

    def wait_for(self, words: str) -> None:
        """Until it has printed the words, or has ended."""
        while self.process.is_alive() and words not in self.printed:
            time.sleep(0.02)

    def send(self, signal: int) -> None:
        os.kill(self.process.pid, signal)

    def finish(self, seconds: float = 600) -> int:
        """Its exit status."""
        self.process.join(seconds)
        assert not self.process.is_alive(), self.printed + self.complained
        return self.process.exitcode

    @property
    def printed(self) -> str:
        return self.out.read_text() if self.out.exists() else ""

    @property
    def complained(self) -> str:
        return self.err.read_text() if self.err.exists() else ""


@pytest.fixture(scope="session")
def start_command(tmp_path_factory) -> Callable[..., Command]:
    """Starts a :class:`Command`: its words, a ``script`` in place of hdmlib, more of its environment by ``NAME=``."""

    def start(*words: str, script: Path | None = None, **environment: str) -> Command:
        return Command(tmp_path_factory.getbasetemp(), words, script, environment)

    return start


@pytest.fixture(scope="session")
def start_ranks(start_command) -> Callable[..., list[Command]]:
    """As ``start_command``, in several processes that find one another as those that torchrun starts."""

    def start(count: int, *words: str, script: Path | None = None) -> list[Command]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        place |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        ranks = ({"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count))
        return [start_command(*words, script=script, **place, **rank) for rank in ranks]

    return start
