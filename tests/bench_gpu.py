"""What the losses and a training cost on a GPU, and whether the GPU kernel is right. One command, no network:

    python tests/bench_gpu.py                        # at most ten minutes; figures/results/bench_gpu.json, or --to FILE
    python tests/bench_gpu.py --device cpu --small   # every line that a CPU can run; the numbers mean nothing

It needs a checkout, torch, numpy and, for the kernel, Triton; what else a part needs is named where it is missing. The
record is written after each part, so that what was measured outlives the time limit. Targets: the loss takes at most 3
times as long as reading and writing its maps once, and at most 1 % of a W32 step; no step waits for the device; W32 in
bf16, compiled, is at least 1.3 times as fast as a bare loop whose targets are made on the host.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from itertools import product
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType

from hdmlib.extras import accelerator
from hdmlib.heatmaps import demanders, gaussian_map
from hdmlib.losses import build_loss
from hdmlib.losses.matching import Matching, _matching, _solve
from hdmlib.presets import PRESETS
from hdmlib.reader import normalise
from hdmlib.transport import Cost, Problem

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_RECORD = ROOT / "figures" / "results" / "bench_gpu.json"
# Largest difference from float64: of a value in cells, of a gradient in shares of the map's largest.
LARGEST_ERROR = 1e-4
TARGETS = {"loss over copy": 3.0, "share of a W32 step": 0.01, "speed over the bare loop": 1.3}
# Seconds kept for writing the record at the end.
RESERVE = 10
Row = dict[str, Any]


class OutOfTime(BaseException):
    """The time limit is reached; no handler of ordinary errors may keep it."""


class Skipped(Exception):
    """A part cannot run here; the message is the reason."""


@dataclass
class Bench:
    """The machine, the time that is left, and what was measured so far."""

    device: torch.device
    small: bool
    end: float
    rows: dict[str, list[Row]] = field(default_factory=dict)
    crops_needed: float | None = None  # a second, by the fastest W32 step
    part_runs: bool = False  # else the time limit interrupts nothing

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def pick(self, full: Any, small: Any) -> Any:
        return small if self.small else full

    def milliseconds(self, step: Callable[[], object]) -> float:
        """Median time of a step, by the device's own clock where it has one."""
        rounds, warm_up = self.pick((20, 5), (1, 1))
        for _ in range(warm_up):
            step()
        times = []
        for _ in range(rounds):
            if self.on_gpu:
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                step()
                end.record()
                end.synchronize()
                times.append(start.elapsed_time(end))
            else:
                begun = time.perf_counter()
                step()
                times.append(1e3 * (time.perf_counter() - begun))
        return statistics.median(times)

    def busy_milliseconds(self, step: Callable[[], object], rounds: int = 5) -> float:
        """Time per step in which the device computes, without the gaps between its kernels."""
        activity = torch.profiler.ProfilerActivity
        step()
        with torch.profiler.profile(activities=[activity.CUDA if self.on_gpu else activity.CPU]) as profile:
            for _ in range(rounds):
                step()
            if self.on_gpu:
                torch.cuda.synchronize()
        if self.on_gpu:
            kernels = [event for event in profile.key_averages() if event.device_type != DeviceType.CPU]
            total = sum(event.self_device_time_total for event in kernels)
        else:
            total = sum(event.self_cpu_time_total for event in profile.key_averages())
        return total / rounds / 1e3


# ---------------------------------------------------------------------------------------------------- maps and networks


def hrnet() -> ModuleType:
    """``hdmlib/models/hrnet.py`` by its file: the package around it reads weights, too, and needs safetensors."""
    spec = spec_from_file_location("bench_hrnet", ROOT / "hdmlib" / "models" / "hrnet.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["bench_hrnet"] = module
    spec.loader.exec_module(module)
    return module


def network(bench: Bench, name: str, joints: int) -> nn.Module:
    torch.manual_seed(0)
    module = hrnet()
    model = module.HRNet(module.MODELS[name], joints)
    return model.to(bench.device, memory_format=torch.channels_last).train()


def random_joints(people: int, joints: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """(people, joints, 2) anywhere on an H x W map."""
    corner = torch.tensor([size[1] - 1.0, size[0] - 1.0])
    return torch.rand(people, joints, 2, generator=generator) * corner


def bumps(joints: Tensor, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Heatmaps as of a network half-way through its training: a bump near each joint, and noise."""
    peaks = joints + 3 * torch.randn(joints.shape, generator=generator)
    return 8 * gaussian_map(peaks, size, 3.0) + torch.randn(*joints.shape[:2], *size, generator=generator)


def dots(people: int, joints: int, size: tuple[int, int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures (people, 3, 4 H, 4 W) uint8 with a dot of its own colour at each joint (people, joints, 2), on noise."""
    places = random_joints(people, joints, size, generator)
    colours = torch.rand(joints, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    drawn = gaussian_map(4 * places + 1.5, (4 * size[0], 4 * size[1]), 6.0)
    pictures = 128 + 120 * torch.einsum("bkhw,kc->bchw", drawn, colours)
    pictures += 20 * torch.randn(pictures.shape, generator=generator)
    return pictures.clamp(0, 255).to(torch.uint8), places


def trained_maps(bench: Bench, steps: int, people: int) -> tuple[Tensor, Tensor]:
    """Heatmaps (G, H, W) of a network that has learnt, with the matching loss, to find dots, and the joints (G, 2)."""
    size, generator = bench.pick((48, 48), (8, 8)), torch.Generator().manual_seed(1)
    model, loss = network(bench, "hrnet_nano", 8), build_loss("matching")
    optimiser = torch.optim.AdamW(model.parameters(), lr=6e-3)
    for _ in range(steps):
        pictures, joints = dots(people, 8, size, generator)
        loss(model(normalise(pictures.to(bench.device))), joints.to(bench.device)).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    pictures, joints = dots(people, 8, size, generator)
    with torch.no_grad():
        maps = model(normalise(pictures.to(bench.device))).float()
    return maps.flatten(0, 1).contiguous(), joints.flatten(0, 1).to(bench.device)


# ---------------------------------------------------------------------------------------------------------- correctness


def correctness(bench: Bench) -> Iterator[Row]:
    """The kernel, and beyond its size the torch path, against the solver in float64 on the CPU."""
    generator = torch.Generator().manual_seed(0)

    def maps_of(size: tuple[int, int], count: int) -> tuple[Tensor, Tensor]:
        joints = random_joints(count, 1, size, generator)
        return bumps(joints, size, generator)[:, 0].to(bench.device), joints[:, 0].to(bench.device)

    sizes = bench.pick(
        [(3, 21), (16, 12), (64, 48), (64, 64), (96, 72), (72, 96), (128, 96), (128, 128)], [(3, 21), (8, 6), (129, 64)]
    )
    for size in sizes:
        yield compare(bench, f"{size[0]} x {size[1]}", Matching(), *maps_of(size, bench.pick(34, 3)))
    yield compare(bench, "maps of a trained network", Matching(), *trained_maps(bench, *bench.pick((300, 32), (2, 2))))
    maps = maps_of(bench.pick((24, 18), (6, 4)), bench.pick(64, 2))
    for suppliers, regulariser in product(("softmax", "relu", "relu_plain"), ("entropy", "kl")):
        matching = Matching(Problem(regulariser=regulariser), suppliers)
        yield compare(bench, f"{suppliers}, {regulariser}", matching, *maps)
    costs = [(Cost("saturating", 1e3), 1.0), (Cost("euclidean"), 0.25), (Cost("sqeuclidean"), 4.0)]
    for cost, epsilon in costs:
        label = f"{cost.kind}, tau {cost.tau:g}, epsilon {epsilon:g}"
        yield compare(bench, label, Matching(Problem(epsilon, cost=cost)), *maps)
    yield compare(bench, "likelihood 0.2", Matching(likelihood=0.2), *maps)


def compare(bench: Bench, label: str, matching: Matching, maps: Tensor, joints: Tensor) -> Row:
    """Largest error of values and gradients over the maps (G, H, W), and how many maps did not settle."""
    points, shares = demanders(joints, (maps.shape[1], maps.shape[2]))
    options = (
        matching.suppliers, matching.problem.epsilon, matching.problem.regulariser, matching.problem.cost.kind,
        matching.problem.cost.tau, matching.mass_floor, matching.likelihood,
    )  # fmt: skip
    kernel = accelerator("hdmlib.losses.gpu_kernel")
    interpreted = not bench.on_gpu and kernel is not None and maps[0].numel() <= kernel.LARGEST_MAP
    if kernel is not None and (interpreted or kernel.is_supported(maps, 4, matching)):
        path = "interpreter" if interpreted else "kernel"
        value, gradient, error = kernel.run_kernel(maps, points, shares, matching)
        unsettled = int((~(error <= kernel.TOLERANCE)).sum())
    else:
        path, unsettled = "torch", None
        value, gradient = _matching(maps, points, shares, *options)
    exact = [values.double().cpu() for values in (maps, points, shares)]
    true_value, true_gradient = _solve(exact[0], exact[1], exact[2], matching)
    scale = true_gradient.flatten(1).abs().amax(1)[:, None, None].clamp(min=1e-2)
    of_value = (value.double().cpu() - true_value).abs().max().item()
    of_gradient = ((gradient.double().cpu() - true_gradient) / scale).abs().max().item()
    fine = of_value <= LARGEST_ERROR and of_gradient <= LARGEST_ERROR and not unsettled
    return {"what": label, "path": path, "value error": of_value, "gradient error": of_gradient,
            "unsettled": unsettled, "met": fine}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------- times


def loss_times(bench: Bench) -> Iterator[Row]:
    """Forward and backward of a loss that makes its own targets, beside a copy of the maps."""
    generator, people = torch.Generator().manual_seed(0), bench.pick(32, 2)
    for size, joints in product(bench.pick([(64, 48), (72, 96)], [(8, 6)]), bench.pick([17, 133], [3])):
        places = random_joints(people, joints, size, generator)
        maps = bumps(places, size, generator).to(bench.device).requires_grad_()
        places, weights = places.to(bench.device), torch.ones(people, joints, device=bench.device)
        copy, plain = torch.empty_like(maps), maps.detach()
        copied = bench.busy_milliseconds(lambda copy=copy, plain=plain: copy.copy_(plain))
        for name in ("matching", "gaussian_mse", "cross_entropy"):
            step = forward_and_backward(build_loss(name), maps, places, weights)
            busy = bench.busy_milliseconds(step)
            row: Row = {"what": f"{size[0]} x {size[1]}, {people} people of {joints} joints", "loss": name}
            row |= {"ms": bench.milliseconds(step), "busy ms": busy, "copy ms": copied, "over copy": busy / copied}
            yield row | ({"met": busy <= TARGETS["loss over copy"] * copied} if name == "matching" else {})


def forward_and_backward(loss: nn.Module, maps: Tensor, joints: Tensor, weights: Tensor) -> Callable[[], None]:
    """A call that computes a loss and its gradient."""

    def step() -> None:
        maps.grad = None
        loss(maps, joints, weights).backward()

    return step


def registers(bench: Bench) -> Iterator[Row]:
    """Registers a thread of each compiled kernel, and what is spilt of them."""
    kernel = accelerator("hdmlib.losses.gpu_kernel")
    caches = getattr(getattr(kernel, "_kernel", None), "device_caches", None)
    if not bench.on_gpu or not caches:
        raise Skipped("needs the compiled kernel of a GPU")
    for compiled in (each for cache in caches.values() for each in cache[0].values()):
        named = {compiled.src.fn.arg_names[place[0]]: value for place, value in compiled.src.constants.items()}
        what = ", ".join(f"{name} {named.get(name)}" for name in ("CELLS", "SUPPLIERS", "COST", "ENTROPY", "STAGES"))
        yield {"what": what, "registers": compiled.n_regs, "spilt": compiled.n_spills}


@dataclass
class Training:
    """A step of a training on random crops, as the trainer takes it."""

    bench: Bench
    model: nn.Module
    size: tuple[int, int]  # height and width of a crop
    people: int
    bf16: bool = False

    def __post_init__(self) -> None:
        generator, self.map_size = torch.Generator().manual_seed(0), (self.size[0] // 4, self.size[1] // 4)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        crops = torch.randint(256, (self.people, 3, *self.size), dtype=torch.uint8, generator=generator)
        self.host_joints = random_joints(self.people, 17, self.map_size, generator)
        self.crops, self.joints = crops.to(self.bench.device), self.host_joints.to(self.bench.device)
        self.weights = torch.ones(self.people, 17, device=self.bench.device)

    def step(self, loss: nn.Module | None) -> None:
        """One step with a loss; with ``None`` the bare loop's: squared error from targets that the host makes."""
        with torch.autocast(self.bench.device.type, torch.bfloat16, enabled=self.bf16):
            heatmaps = self.model(normalise(self.crops))
        if loss is None:
            targets = gaussian_map(self.host_joints, self.map_size, 2.0).to(self.bench.device)
            value = nn.functional.mse_loss(heatmaps.float(), targets)
        else:
            value = loss(heatmaps, self.joints, self.weights)
        value.backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)


def step_times(bench: Bench) -> Iterator[Row]:
    """A training step with each loss beside the bare loop; what share of it the loss is, and the peak of memory."""
    settings = bench.pick([("hrnet_w32", (256, 192), 32), ("hrnet_w48", (384, 288), 24)], [("hrnet_nano", (64, 64), 2)])
    bare: dict[tuple[str, bool], float] = {}  # the bare loop is never compiled
    for (name, size, people), (bf16, compiled) in product(settings, [(False, False), (True, False), (True, True)]):
        if compiled and not bench.on_gpu:
            continue  # CI has compiled losses in tests of their own
        if compiled and bench.left < 150:
            raise OutOfTime
        if bench.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        training = Training(bench, network(bench, name, 17), size, people, bf16)
        if compiled:
            training.model.compile()
        for label in ("gaussian_mse", "matching") if compiled else ("bare loop", "gaussian_mse", "matching"):
            loss = None if label == "bare loop" else build_loss(label)
            spent = bench.milliseconds(lambda training=training, loss=loss: training.step(loss))
            row: Row = {
                "what": f"{name}, {size[0]} x {size[1]}, {people} people, {'bf16' if bf16 else 'float32'}"
                + (", compiled" if compiled else ""), "loss": label, "ms": spent, "crops/s": 1e3 * people / spent,
                "GiB": torch.cuda.max_memory_allocated() / 2**30 if bench.on_gpu else None,
            }  # fmt: skip
            if loss is None:
                bare[name, bf16] = spent
            elif label == "matching":
                row |= loss_share(bench, training, loss, spent)
                row["over the bare loop"] = bare[name, bf16] / spent
                if name == settings[0][0]:
                    row["met"] = row["share"] <= TARGETS["share of a W32 step"]
                    if compiled:
                        row["met"] &= row["over the bare loop"] >= TARGETS["speed over the bare loop"]
                    bench.crops_needed = max(bench.crops_needed or 0, row["crops/s"])
            yield row
        del training  # before the next one's memory is measured


def loss_share(bench: Bench, training: Training, loss: nn.Module, spent: float) -> Row:
    """The share of a step of so many milliseconds in which the device computes the loss."""
    generator = torch.Generator().manual_seed(0)
    maps = bumps(training.host_joints, training.map_size, generator).to(bench.device).requires_grad_()
    alone = forward_and_backward(loss, maps, training.joints, training.weights)
    return {"share": bench.busy_milliseconds(alone) / spent}


def waits(bench: Bench) -> Iterator[Row]:
    """Eight steps in a row in which torch raises an error wherever the host would wait for the device."""
    name, size, people = bench.pick(("hrnet_w32", (256, 192), 8), ("hrnet_nano", (64, 64), 2))
    training = Training(bench, network(bench, name, 17), size, people, bf16=bench.on_gpu)
    for label in bench.pick(("matching", "gaussian_mse", "dot_mse", "cross_entropy", "soft_argmax"), ("matching",)):
        loss, found = build_loss(label), "none"
        for _ in range(3):
            training.step(loss)
        if bench.on_gpu:
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(bench.pick(8, 1)):
                training.step(loss)
        except RuntimeError as error:
            found = str(error).splitlines()[0]
        finally:
            if bench.on_gpu:
                torch.cuda.set_sync_debug_mode("default")
        yield {"what": f"{name}, {label}", "waits": found, "met": found == "none"}


def crops(bench: Bench) -> Iterator[Row]:
    """Crops a second of the whole pipeline, beside what the fastest W32 step takes."""
    from hdmlib.data.augmentation import Augmentation
    from hdmlib.data.coco import read_coco
    from hdmlib.data.crops import Frame
    from hdmlib.data.loader import make_loader
    from hdmlib.synthetic.dataset import embedded_dataset

    varied = Augmentation(scale=0.35, rotation=45, mirror_probability=0.5)
    with tempfile.TemporaryDirectory() as folder:
        count, side = bench.pick((400, 256), (4, 64))
        people = read_coco(embedded_dataset(folder, format="coco", train=count, val=1, size=side), "train")
        for workers in bench.pick((8, 16), (0, 1)):
            loader = make_loader(
                people, Frame(bench.pick((192, 256), (64, 64))), augmentation=varied, batch_size=bench.pick(32, 2),
                workers=workers,
            )  # fmt: skip
            loader.set_epoch(0)
            seen, batches = 0, iter(loader)
            next(batches)  # the workers have started
            begun = time.perf_counter()
            while time.perf_counter() - begun < bench.pick(8, 0.1):
                for batch in batches:
                    seen += len(batch["index"])
                batches = iter(loader)
            rate = seen / (time.perf_counter() - begun)
            row: Row = {"what": f"{workers} workers of {os.cpu_count()} cores", "crops/s": rate}
            if bench.crops_needed:
                row |= {"a step needs": bench.crops_needed, "met": rate >= bench.crops_needed}
            yield row
            del batches, loader


# ------------------------------------------------------------------------------------------------------------- gpu_demo


def gpu_demo(bench: Bench) -> Iterator[Row]:
    """The preset with the Gaussian and with matching: as many epochs, and people, as the time that is left allows."""
    from hdmlib.config import make_config
    from hdmlib.data.sources import open_data
    from hdmlib.experiments.training import fit

    if not bench.small and bench.left < 90:
        raise OutOfTime
    preset = bench.pick("gpu_demo", "smoke")
    values: Row = {"device": str(bench.device), "run_dir": None, "precision": "bf16" if bench.on_gpu else "float32"}
    if bench.small:
        values |= {"train_people": 8, "val_people": 4, "epochs": 1, "batch_size": 4}
    else:  # drawing is half as fast as training on many cores; two losses share the rest
        rate = 0.7 * (bench.crops_needed or 1000)
        seen = rate * (bench.left - 60) / 2
        people = int(min(PRESETS[preset]["train_people"], max(1000, seen / 6)))
        values |= {"train_people": people, "epochs": int(min(10, max(1, seen / people)))}
    data = open_data(make_config(preset, **values))
    for loss in ("gaussian_mse", "matching"):
        config = make_config(preset, **values, loss=loss)
        begun, lines = time.monotonic(), []
        with tempfile.TemporaryDirectory() as folder:
            try:
                fit(config, data, Path(folder), report=lines.append)
            finally:  # what is finished when the time is over counts
                if lines:
                    seconds = time.monotonic() - begun
                    last = lines[-1]
                    yield {
                        "what": f"{preset}, {len(data.train)} people, epoch {last.epoch} of {config.epochs}",
                        "loss": loss, "lr": config.lr, "seconds": seconds,
                        **{key: last.validation.metrics[key] for key in list(last.validation.metrics)[:3]},
                    }  # fmt: skip


PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "correctness": correctness, "loss": loss_times, "registers": registers, "waits": waits, "step": step_times,
    "crops": crops, "gpu_demo": gpu_demo,
}  # fmt: skip


def machine(device: torch.device) -> Row:
    """Hardware and versions."""
    kernel = accelerator("hdmlib.losses.gpu_kernel")
    found: Row = {"python": platform.python_version(), "torch": torch.__version__, "cores": os.cpu_count()}
    found["triton"] = None if kernel is None else kernel.triton.__version__
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {"device": properties.name, "GiB": properties.total_memory / 2**30, "cuda": torch.version.cuda}
    return found | ({} if device.type == "cuda" else {"device": platform.machine()})


def run_parts(bench: Bench, only: Sequence[str], path: Path) -> Row:
    """The parts in turn; the record is written after each, and what could not run is named."""
    record: Row = {"machine": machine(bench.device), "small": bench.small, "targets": TARGETS, "parts": bench.rows,
                   "skipped": {}}  # fmt: skip
    for name in only:
        rows = bench.rows.setdefault(name, [])
        try:
            bench.part_runs = True
            if bench.left <= 0:
                raise OutOfTime
            for row in PARTS[name](bench):
                rows.append(row)
                print(f"{name:12} {table_line(row)}", flush=True)
        except OutOfTime:
            record["skipped"][name] = "the time was over"
        except ModuleNotFoundError as error:
            record["skipped"][name] = f"needs {error.name}: pip install '.[train]'"
        except Skipped as reason:
            record["skipped"][name] = str(reason)
        except Exception as error:  # the other parts are worth their time
            record["skipped"][name] = f"failed: {type(error).__name__}: {error}"
        finally:
            bench.part_runs = False
        if name in record["skipped"]:
            print(f"{name:12} {'in part ' if rows else ''}skipped: {record['skipped'][name]}", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")
    return record


def table_line(row: Row) -> str:
    """``what`` and every other value, numbers to three digits."""
    shown = [f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
             if key not in ("what", "met") and value is not None]  # fmt: skip
    verdict = {True: "  met", False: "  NOT MET", None: ""}[row.get("met")]
    return f"{row['what']:56} {'  '.join(shown)}{verdict}"


def main() -> int:
    """Run the bench; the exit status is 1 if a part failed or a result is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu")
    parser.add_argument("--small", action="store_true", help="tiny sizes: whether every line runs, not how fast")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run")
    parser.add_argument("--minutes", type=float, default=9.5, help="when to stop")
    parser.add_argument("--to", type=Path, default=DEFAULT_RECORD, help="where the record is written")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cpu":
        os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported, with the first map
        warnings.filterwarnings(
            "ignore", module="triton"
        )  # NaN in the padding of maps; a GPU computes with it silently
    if device.type == "cuda":
        if not torch.cuda.is_available():
            parser.error("no GPU here; --device cpu --small tries every line that a CPU can run")
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
    bench = Bench(device, options.small, time.monotonic() + 60 * options.minutes - RESERVE)

    def stop(number: int, frame: FrameType | None) -> None:
        if bench.part_runs:
            raise OutOfTime

    if hasattr(signal, "setitimer") and bench.left > 0:
        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, bench.left)
    record = run_parts(bench, options.only, options.to)
    print(f"\n{options.to}")
    wrong = [row["what"] for row in bench.rows.get("correctness", []) if not row["met"]]
    failed = [reason for reason in record["skipped"].values() if reason.startswith("failed")]
    print(*(f"WRONG: {what}" for what in wrong), *failed, sep="\n")
    return int(bool(wrong or failed))


if __name__ == "__main__":
    sys.exit(main())
