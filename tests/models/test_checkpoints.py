"""Weights in every layout, back out bit for bit, and what is refused with which words."""

import os
import subprocess
import sys
import types
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from hdmlib.experiments.record import peak_memory
from hdmlib.models.checkpoints import CheckpointError, _digest, export_hrnet, joints_of, load_weights, save_weights
from hdmlib.models.hrnet import HRNet, HRNetSpec
from hdmlib.models.registry import build_model

# The published networks' structure, names and all, in a thousandth of their size.
SMALL = HRNetSpec(width=4, stem=8, layer1=2, planes=4, modules=(1, 1, 2), blocks=1)


def network(seed, joints=3, spec=SMALL):
    """A network whose every tensor, running statistics and counters too, is drawn from the seed."""
    torch.manual_seed(seed)
    model = HRNet(spec, joints)
    state = {
        key: torch.randint(1, 9, value.shape) if value.dtype == torch.long else torch.rand(value.shape)
        for key, value in model.state_dict().items()
    }
    model.load_state_dict(state)
    return model


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


def mmpose(state, head):
    return {(head if key.startswith("final_layer.") else "backbone.") + key: value for key, value in state.items()}


LAYOUTS = {
    "official model_best": lambda state: state,
    "official checkpoint": lambda state: {
        "epoch": 210,
        "model": "pose_hrnet",
        "state_dict": {f"module.{key}": value for key, value in state.items()},
        "best_state_dict": state,
        "perf": np.float64(0.744),
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-5, "params": [0]}]},
    },
    "mmpose 0.x": lambda state: {"meta": {"epoch": 210}, "state_dict": mmpose(state, "keypoint_head.")},
    "mmpose 1.x": lambda state: {"meta": {}, "state_dict": mmpose(state, "head.")},
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_published_layout(layout, zipped, tmp_path):
    source, target = network(0), network(1)
    path = tmp_path / "weights.pth"
    torch.save(LAYOUTS[layout](source.state_dict()), path, _use_new_zipfile_serialization=zipped)
    load_weights(target, path)
    assert same(source, target)


def test_training_logs_beside_the_weights_are_passed_over(tmp_path, monkeypatch):
    """mmpose 1.x pickles mmengine's history buffers; they are neither needed nor allowed to run."""
    module = types.ModuleType("mmengine.logging.history_buffer")

    class HistoryBuffer:
        def __init__(self):
            self.values, self.count, self.method = np.arange(3.0), np.arange(3), self.mean

        def mean(self):
            return self.values.mean()

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    module.HistoryBuffer = HistoryBuffer
    for name in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    source, target = network(0), network(1)
    log = {"log_scalars": {"train/loss": HistoryBuffer()}, "runtime_info": {"iter": np.int64(3)}}
    path = tmp_path / "epoch_210.pth"
    torch.save(LAYOUTS["mmpose 1.x"](source.state_dict()) | {"message_hub": log}, path)
    for name in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.delitem(sys.modules, name)
    load_weights(target, path)
    assert same(source, target)


def imagenet(state):
    """An ImageNet classifier on the same backbone: all scales of the last module, a final_layer of another kind."""
    state = {key: value for key, value in state.items() if not key.startswith("final_layer.")}
    extra = (
        "stage4.2.fuse_layers.3.0.0.0.weight", "incre_modules.0.0.conv1.weight", "downsamp_modules.0.0.weight",
        "final_layer.0.weight", "final_layer.1.running_mean", "classifier.weight",
    )  # fmt: skip
    return state | {key: torch.zeros(3) for key in extra}


def test_a_backbone_needs_backbone_only(tmp_path):
    spec = HRNetSpec(width=4, stem=8, layer1=1, planes=4, modules=(1, 1, 3), blocks=1)
    source, target, before = network(0, spec=spec), network(1, spec=spec), network(1, spec=spec)
    path = tmp_path / "hrnet_w32-36af842e.pth"
    torch.save(imagenet(source.state_dict()), path)
    with pytest.raises(CheckpointError, match="no head for joints, only a backbone: give backbone_only=True"):
        load_weights(target, path)
    assert same(target, before)
    load_weights(target, path, backbone_only=True)
    assert torch.equal(target.final_layer.weight, before.final_layer.weight)
    expected = source.state_dict() | {k: v for k, v in before.state_dict().items() if k.startswith("final_layer.")}
    assert all(torch.equal(value, expected[key]) for key, value in target.state_dict().items())


def test_backbone_of_a_network_with_other_joints(tmp_path):
    source, target, before = network(0, joints=16), network(1, joints=3), network(1, joints=3)
    export_hrnet(source, tmp_path / "mpii.pth")
    load_weights(target, tmp_path / "mpii.pth", backbone_only=True)
    assert torch.equal(target.conv1.weight, source.conv1.weight)
    assert torch.equal(target.final_layer.weight, before.final_layer.weight)


def test_backbone_only_is_still_strict(tmp_path):
    state = network(0).state_dict()
    del state["layer1.1.conv2.weight"]
    torch.save(state | {"stage5.0.weight": torch.zeros(1)}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError) as error:
        load_weights(network(1), tmp_path / "odd.pth", backbone_only=True)
    assert "missing in the file: 1 (layer1 1)\n    layer1.1.conv2.weight" in str(error.value)
    assert "unknown to the model: 1 (stage5 1)\n    stage5.0.weight" in str(error.value)


def test_files_without_batch_counters(tmp_path):
    source, target = network(0), network(1)
    old = {key: value for key, value in source.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")
    counter = target.bn1.num_batches_tracked.clone()
    load_weights(target, tmp_path / "old.pth")
    assert torch.equal(target.stage4[1].branches[3][0].bn2.running_var, source.stage4[1].branches[3][0].bn2.running_var)
    assert torch.equal(target.bn1.num_batches_tracked, counter)


@pytest.mark.parametrize("write", [save_weights, export_hrnet])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_round_trip_bit_for_bit(write, memory_format, tmp_path):
    source, target = network(0).to(memory_format=memory_format), network(1)
    path = tmp_path / "new" / "weights.safetensors"
    write(source, path := path if write is save_weights else path.with_suffix(".pth"))
    load_weights(target, path)
    assert same(source, target)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_export_is_what_the_official_code_reads(tmp_path):
    source = network(0)
    export_hrnet(source, tmp_path / "model_best.pth")
    state = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert list(state) == list(source.state_dict())
    assert all(torch.equal(state[key], value) for key, value in source.state_dict().items())


FULL = """
import resource, sys
from hdmlib.models import build_model
from hdmlib.models.checkpoints import export_hrnet, save_weights
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    globals()[sys.argv[1]](build_model("hrnet_nano", 3), sys.argv[2])
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
@pytest.mark.parametrize(("write", "name"), [("save_weights", "w.safetensors"), ("export_hrnet", "w.pth")])
def test_a_disk_that_fills_up_is_one_line_and_leaves_the_old_file(write, name, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"earlier")
    done = subprocess.run([sys.executable, "-c", FULL, write, path], capture_output=True, text=True, check=True)
    assert done.stdout == f"could not finish {path}: File too large; an earlier file there is untouched\n"
    assert path.read_bytes() == b"earlier"
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_weights_are_saved_as_safetensors_only(tmp_path):
    with pytest.raises(ValueError, match=r"saved as \.safetensors; export_hrnet writes PyTorch files"):
        save_weights(network(0), tmp_path / "weights.pth")


def test_another_number_of_joints_in_plain_words(tmp_path):
    target, before = network(1, joints=16), network(1, joints=16)
    save_weights(network(0, joints=17), tmp_path / "coco.safetensors")
    with pytest.raises(CheckpointError) as error:
        load_weights(target, tmp_path / "coco.safetensors")
    message = str(error.value)
    assert "coco.safetensors" in message
    assert (
        "it predicts 17 joints, the model 16: is it of another dataset? Build the model with num_joints=17" in message
    )
    assert "final_layer.weight: 17x4x1x1 in the file, 16x4x1x1 here" in message
    assert same(target, before)


def test_another_width_in_plain_words_and_few_lines(tmp_path):
    export_hrnet(network(0), tmp_path / "w4.pth")
    with pytest.raises(CheckpointError) as error:
        load_weights(build_model("hrnet_nano", 3), tmp_path / "w4.pth")
    message = str(error.value)
    assert "it is an HRNet of width 4, the model has 16" in message
    assert "unknown to the model" in message
    assert "stage4" in message
    assert len(message.splitlines()) < 24


HOSTILE = """
import os, sys, torch
class Hostile:
    def __reduce__(self):
        return os.mkdir, (sys.argv[2],)
torch.save({"state_dict": {"conv1.weight": Hostile()}}, sys.argv[1])
"""


def test_a_file_that_would_run_code_is_refused(tmp_path):
    path, trace = tmp_path / "hostile.pth", tmp_path / "ran"
    subprocess.run([sys.executable, "-c", HOSTILE, path, trace], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    target, before = network(1), network(1)
    with pytest.raises(CheckpointError, match=r"hostile\.pth: refused, because it holds more than tensors"):
        load_weights(target, path)
    assert not trace.exists()
    assert same(target, before)
    torch.load(path, weights_only=False)  # the file is live: a reader that trusts it runs its code
    assert trace.exists()


class Stranger:
    pass


def test_unknown_objects_are_refused_by_name(tmp_path):
    torch.save({"state_dict": network(0).state_dict(), "extra": Stranger()}, tmp_path / "stranger.pth")
    with pytest.raises(CheckpointError, match=r"holds more than tensors \(.*Stranger\)"):
        load_weights(network(1), tmp_path / "stranger.pth")


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pth", "cut_legacy.pth", "page.pth", "empty.pth"])
def test_damaged_files(name, tmp_path):
    path = tmp_path / name
    if name == "page.pth":
        path.write_text("<!DOCTYPE html><html>Quota exceeded</html>")
    elif name == "empty.pth":
        path.touch()
    else:
        if path.suffix == ".safetensors":
            save_weights(network(0), path)
        else:
            torch.save(network(0).state_dict(), path, _use_new_zipfile_serialization="legacy" not in name)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=rf"{name}: no readable checkpoint \(\d+ bytes\)"):
        load_weights(network(1), path)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], torch.zeros(2), {"state_dict": {"a": "text"}}])
def test_files_without_weights(content, tmp_path):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="no weights in it"):
        load_weights(network(1), tmp_path / "other.pth")


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module.", "model.", "net.", "module._orig_mod.", "model.module.", "pose_net."]
)
@pytest.mark.parametrize("wrapper", [None, "model", "model_state_dict", "state_dict", "params", "ema"])
def test_wrappers_and_common_prefixes_are_taken_off(prefix, wrapper, tmp_path):
    source, target = network(0), network(1)
    state = {prefix + key: value for key, value in source.state_dict().items()}
    torch.save(state if wrapper is None else {"epoch": 3, wrapper: state}, tmp_path / "w.pth")
    load_weights(target, tmp_path / "w.pth")
    assert all(torch.equal(value, target.state_dict()[key]) for key, value in source.state_dict().items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"ema": {"state_dict": state, "decay": 0.9}},
        lambda state: {"model": {"name": "hrnet"}, "ema": state},  # a description under a wrapper's name
        lambda state: {"module": state},  # DeepSpeed
    ],
)
def test_wrappers_within_and_beside_wrappers(wrap, tmp_path):
    source, target = network(0), network(1)
    torch.save(wrap(source.state_dict()), tmp_path / "w.pth")
    load_weights(target, tmp_path / "w.pth")
    assert torch.equal(target.conv1.weight, source.conv1.weight)


def test_averaged_weights(tmp_path):
    source, target = network(0), network(1)
    torch.save({"ema": AveragedModel(source).state_dict()}, tmp_path / "w.pth")
    load_weights(target, tmp_path / "w.pth")
    assert same(source, target)


def test_a_network_with_a_prefix_of_its_own_within_a_wrapper(tmp_path):
    source, target = nn.ModuleDict({"net": nn.Conv2d(1, 1, 1)}), nn.ModuleDict({"net": nn.Conv2d(1, 1, 1)})
    torch.save({f"module.{key}": value for key, value in source.state_dict().items()}, tmp_path / "w.pth")
    load_weights(target, tmp_path / "w.pth")
    assert same(source, target)


def test_a_file_that_contains_itself(tmp_path):
    content = {"epoch": 1}
    content["model"] = content
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"no weights in it.*found 'epoch' \(int\), 'model'"):
        load_weights(network(1), tmp_path / "w.pth")


def test_a_network_among_others_is_named(tmp_path):
    state = network(0).state_dict()
    torch.save({f"{part}.{key}": value for part in ("student", "teacher") for key, value in state.items()},
               tmp_path / "w.pth")  # fmt: skip
    with pytest.raises(CheckpointError, match=r"all of the model's tensors under 'student\.' and 'teacher\.'"):
        load_weights(network(1), tmp_path / "w.pth")


def test_whole_numbers_are_no_weights(tmp_path):
    target, before = network(1), network(1)
    torch.save({key: (100 * value).to(torch.int8) for key, value in target.state_dict().items()}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"whole numbers in the file(.|\n)*conv1.weight: int8"):
        load_weights(target, tmp_path / "w.pth")
    assert same(target, before)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"weights_of_mine": {"a": torch.ones(1)}, "epoch": 1},
            r"found 'weights_of_mine' \(named tensors: 1\), 'epoch' \(int\)",
        ),
        ({0: torch.ones(1)}, r"found 0 \(Tensor\)"),
        (
            {"state_dict": {"a": torch.ones(1), "version": 3}},
            r"found 'state_dict' \('version' \(int\), named tensors: 1\)",
        ),
        ({"a": torch.eye(3).to_sparse_csr()}, "tensor 'a' is sparse"),
        ({"a": torch.ones(3, dtype=torch.complex64)}, "tensor 'a' is complex"),
        ({"a": torch.tensor([1e300], dtype=torch.float64)}, "tensor 'a' holds NaN or infinity"),
        ({"a": torch.ones(3).to_sparse()}, "tensor 'a' is sparse"),
        ({"a": torch.empty(3, device="meta")}, "tensor 'a' is sparse, quantised or without values"),
        ({"a.weight": torch.tensor([1.0, float("nan")])}, "tensor 'a.weight' holds NaN or infinity"),
    ],
)
def test_what_is_wrong_with_the_tensors_is_named(content, message, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=message):
        load_weights(network(1), tmp_path / "w.pth")


def test_a_flipped_bit_is_found_or_without_effect(tmp_path):
    """A bit of the header may be without effect: one in the names of the metadata, or in the padding."""
    written, path = network(seed=1), tmp_path / "a.safetensors"
    save_weights(written, path)
    whole, draws = path.read_bytes(), np.random.default_rng(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    places = [*draws.integers(header, size=100), *draws.integers(header, len(whole), size=100)]
    for place in places:
        data = bytearray(whole)
        data[place] ^= 1 << draws.integers(8)
        path.write_bytes(data)
        read = network(seed=2)
        with suppress(CheckpointError):
            load_weights(read, path)
            assert place < header
            assert same(read, written)


def test_the_checksum_does_not_depend_on_the_order_of_names_and_others_read_the_file(tmp_path):
    written, path = network(seed=1), tmp_path / "a.safetensors"
    save_weights(written, path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    weights = load_file(path)
    assert weights.keys() == written.state_dict().keys()
    save_file(dict(reversed(weights.items())), path, metadata)
    read = network(seed=2)
    load_weights(read, path)
    assert same(read, written)
    save_file(weights | {"conv1.weight": weights["conv1.weight"] + 1}, path, metadata)
    with pytest.raises(CheckpointError, match="checksum"):
        load_weights(read, path)
    save_file(weights, path)  # as earlier versions wrote it
    load_weights(read, path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.pth: no such weights file"):
        load_weights(network(1), tmp_path / "absent.pth")


def test_a_zip_bomb_is_refused_by_its_sizes(tmp_path):
    plain, bomb, size = tmp_path / "plain.pth", tmp_path / "bomb.pth", 2**28
    torch.save({"weight": torch.zeros(4)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.namelist():
            with source.open(entry) as small, target.open(entry, "w") as large:
                large.write(small.read())
                if entry.endswith("data/0"):
                    for _ in range(size // 2**20):
                        large.write(bytes(2**20))
    assert bomb.stat().st_size < 2**20
    before = peak_memory(torch.device("cpu")) or 0.0
    with pytest.raises(CheckpointError, match=r"bomb\.pth: refused, its \d+ bytes unpack to \d+"):
        load_weights(torch.nn.Linear(2, 2), bomb)
    assert (peak_memory(torch.device("cpu")) or 0.0) - before < size / 4 / 2**30


def test_the_same_weights_are_the_same_file_in_every_process(tmp_path):
    """A run is named by the content of the weights that it starts from."""
    code = (
        "import sys, torch; from hdmlib.models.checkpoints import save_weights; torch.manual_seed(0);"
        "save_weights(torch.nn.Linear(2, 3), sys.argv[1], ['left_eye', 'nose'])"
    )
    files = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for file in files:
        subprocess.run([sys.executable, "-c", code, file], check=True)
    assert len({file.read_bytes() for file in files}) == 1
    assert joints_of(files[0]) == ("left_eye", "nose")


def test_a_file_of_an_earlier_version_keeps_its_checksum_and_names_no_joints(tmp_path):
    path, written = tmp_path / "old.safetensors", network(0)
    state = {key: value.contiguous() for key, value in written.state_dict().items()}
    save_file(state, path, {"sha256": _digest(state)})
    load_weights(network(1), path)
    assert joints_of(path) == ()
    save_file(state, path, {"sha256": "0"})
    with pytest.raises(CheckpointError, match="do not have the checksum"):
        load_weights(network(1), path)
