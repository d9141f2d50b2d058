"""Where records lie: found by name, published once, and what is damaged is skipped by name."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import hdmlib.experiments.record
from hdmlib.config import ConfigError, make_config
from hdmlib.experiments.listing import list_runs
from hdmlib.experiments.record import Record, load_record, parse_record, record_line, save_record
from hdmlib.experiments.runs import run
from hdmlib.experiments.store import REFERENCE_RECORDS, Store
from hdmlib.presets import PRESETS
from hdmlib.study import results
from hdmlib.study.stages import STAGES


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of the user's."""
    config = make_config("smoke", run_dir=tmp_path_factory.mktemp("runs"), device="cpu", epochs=3)
    return run(config, weights=True)


@pytest.fixture
def store(trained, tmp_path):
    """The user's runs, and reference records of the test's own."""
    return Store(trained.config.run_dir, tmp_path / "records")


def test_a_line_keeps_all_but_the_joints_of_the_middle_epochs(trained):
    [line] = record_line(trained.record).splitlines()
    again = parse_record(line)
    assert [bool(epoch.validation.per_joint) for epoch in again.epochs] == [True, False, False, True]
    for epoch, kept in zip(trained.record.epochs[1:3], again.epochs[1:3], strict=True):
        assert kept.validation == epoch.validation.model_copy(update={"per_joint": {}})
    assert again.model_copy(update={"epochs": []}) == trained.record.model_copy(update={"epochs": []})
    assert (again.untrained, again.final) == (trained.record.untrained, trained.record.final)


def test_every_reference_record_is_named_by_its_own_identity_and_stands_once():
    names = []
    for path in REFERENCE_RECORDS.glob("*.jsonl"):
        lines = path.read_text().splitlines()
        found = [parse_record(line) for line in lines]
        assert [record.name for record in found] == sorted(record.name for record in found)
        for record, line in zip(found, lines, strict=True):
            assert record_line(record) == line
            fields = {name: value for name, value in record.identity.items() if name not in ("data", "recipe")}
            assert make_config("laptop", **fields).run_name(record.identity["data"]) == record.name
        names += [record.name for record in found]
    assert len(names) == len(set(names)) > 0


def test_only_records_networks_and_predictions_lie_among_the_reference_records():
    for path in REFERENCE_RECORDS.iterdir():
        if path.suffix == ".jsonl" or path.name == ".lock":
            continue
        name = path.name.removesuffix(".model.safetensors").removesuffix(".predictions.npz")
        assert name != path.name
        assert Store(Path("none")).published(name) is not None


def test_a_published_run_is_found_with_what_was_kept(trained, store):
    with store.publishing():
        store.publish("smoke", store.own(trained.record.name), keep=["predictions"])
    elsewhere = Store(store.runs / "nobody", store.reference)
    found = elsewhere.find(trained.config)
    assert found.record.final == trained.record.final
    assert found.folder is None
    assert found.artefacts["predictions"].read_bytes() == (trained.folder / "predictions.npz").read_bytes()
    assert elsewhere.find(trained.config, "model") is None
    assert store.find(trained.config, "model").folder == trained.folder  # the user's own


def test_a_record_of_two_stages_stands_in_the_file_of_the_first(trained, store):
    for stage in ("first", "second"):
        with store.publishing():
            store.publish(stage, store.own(trained.record.name))
    assert [path.name for path in store.reference.glob("*.jsonl")] == ["first.jsonl"]


PUBLISH = """
import sys
from pathlib import Path
from hdmlib.experiments.store import Store, StoredRun
store = Store(Path(sys.argv[1]), Path(sys.argv[2]))
run = store.own(sys.argv[3])
for number in range(int(sys.argv[4]), int(sys.argv[4]) + 8):
    record = run.record.model_copy(update={"name": f"run-{number:02d}"})
    with store.publishing():
        store.publish("stage", StoredRun(record, None, {}))
"""


def test_runs_that_differ_in_a_parameter_that_only_one_names_show_it(tmp_path):
    for options in ({}, {"epsilon": 0.1}):
        run(make_config("smoke", epochs=1, train_people=16, val_people=8, loss_options=options, run_dir=tmp_path))
    table = list_runs(Store(tmp_path))
    assert sorted(map(str, table["loss_options.epsilon"])) == ["", "0.1"]


def test_two_processes_that_publish_at_once_lose_nothing(trained, store):
    words = [sys.executable, "-c", PUBLISH, str(store.runs), str(store.reference), trained.record.name]
    both = [subprocess.Popen([*words, first]) for first in ("0", "8")]
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    assert list(store.stages()["stage"]) == [f"run-{number:02d}" for number in range(16)]


def test_a_damaged_line_is_skipped_by_name_and_never_overwritten(trained, store):
    with store.publishing():
        store.publish("smoke", store.own(trained.record.name))
    path = store.reference / "smoke.jsonl"
    path.write_text('{"name": "half\n' + path.read_text())
    with pytest.warns(UserWarning, match=r"skipped: .*smoke\.jsonl, line 1, is not a run's record"):
        assert list(store.stages()["smoke"]) == [trained.record.name]
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"smoke\.jsonl has a damaged line"), store.publishing():
        store.publish("smoke", store.own(trained.record.name))
    assert path.read_bytes() == before


def test_a_torn_record_of_ones_own_is_skipped_by_name_and_made_again(tmp_path):
    config = make_config("smoke", run_dir=tmp_path, device="cpu", epochs=1)
    first = run(config, weights=True)
    path = first.folder / "record.json"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"record\.json is not a run's record"):
        load_record(path)
    with pytest.warns(UserWarning, match=r"skipped: .*record\.json"):
        again = run(config, weights=True)
    assert again.trained
    assert again.record.epochs == first.record.epochs


def test_a_flipped_bit_of_a_record_is_found_or_without_effect(trained, tmp_path):
    path, draws = tmp_path / "record.json", np.random.default_rng(0)
    save_record(trained.record, path)
    whole, expected = path.read_bytes(), load_record(path)
    digits = [place for place, byte in enumerate(whole) if chr(byte).isdigit()]
    for place in [*draws.choice(digits, 100), *draws.integers(len(whole), size=100)]:
        data = bytearray(whole)
        data[place] ^= 1 << draws.integers(3)  # of a digit these bits make another digit, mostly
        path.write_bytes(data)
        with suppress(ValueError):
            assert load_record(path) == expected
            assert json.loads(data) == json.loads(whole)


def test_a_record_without_a_checksum_loads(trained, tmp_path):
    path = tmp_path / "record.json"
    save_record(trained.record, path)
    content = json.loads(path.read_text())
    del content["sha256"]
    path.write_text(json.dumps(content))
    assert load_record(path) == parse_record(json.dumps(content))


@pytest.mark.parametrize("text", ["", "[]", "7", "[" * 100000, '{"name": ' + "1" * 10000 + "}"])
def test_what_is_no_record_is_named(text, tmp_path):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(ValueError, match=r"record\.json is not a run's record"):
        load_record(tmp_path / "record.json")


def test_a_file_that_changes_is_read_again(trained, store, tmp_path):
    record = trained.record.model_copy(update={"name": "x"})
    own = Store(tmp_path / "runs", store.reference)
    assert own.own("x") is None
    save_record(record, own.folder("x") / "record.json")
    assert own.own("x").record.seconds == pytest.approx(record.seconds, rel=1e-5)
    save_record(record.model_copy(update={"seconds": 123456.0}), own.folder("x") / "record.json")
    assert own.own("x").record.seconds == 123456


def test_the_records_of_a_stage_are_parsed_once(monkeypatch):
    parsed, real = [], Record.model_validate_json
    monkeypatch.setattr(Record, "model_validate_json", lambda text: parsed.append(text) or real(text))
    store = Store(Path("none"))
    trials = [trial for stage in ("formulation", "photos") for trial in STAGES[stage]()]
    assert all(store.find(trial.config) for trial in trials)
    assert all(store.find(trial.config) for trial in trials)
    lines = sum(len(path.read_text().splitlines()) for path in REFERENCE_RECORDS.glob("*.jsonl"))
    assert len(parsed) in (0, lines)  # 0 where an earlier test has read them


def test_data_of_ones_own_is_not_answered_without_reading_it(tmp_path):
    trial = next(STAGES["photos"]())
    store = Store(tmp_path)
    assert store.find(trial.config) is not None
    assert store.find(trial.config.model_copy(update={"data_root": tmp_path})) is None


def test_a_shared_folder_is_tried_by_several_at_once(tmp_path):
    with ThreadPoolExecutor(8) as pool:  # of one process id, as containers that share a disk often are
        list(pool.map(lambda _: Store(tmp_path / "runs").check_writable(), range(400)))
    assert not list((tmp_path / "runs").iterdir())


def test_cv2_may_come_from_another_package(monkeypatch):
    def known(name):
        if name.startswith("opencv"):
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(hdmlib.experiments.record, "version", known)
    found = hdmlib.experiments.record.machine(torch.device("cpu"))
    assert (found["opencv-python-headless"], found["torch"]) == ("unknown", "1.0")


def test_an_empty_folder_name_is_refused(monkeypatch):
    monkeypatch.setenv("HDMLIB_RUNS", "")
    with pytest.raises(ConfigError, match="HDMLIB_RUNS is set to nothing"):
        Store.of(make_config("smoke"))


# -------------------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize("stage", sorted(path.stem for path in REFERENCE_RECORDS.glob("*.jsonl")))
def test_the_table_of_a_stage_is_made_of_its_records(stage):
    text = results.stage_table(stage, Store(Path("none"))).to_csv(index=False, float_format="%.6g")
    assert (results.RESULTS / f"{stage}.csv").read_text() == text


def test_every_table_has_its_records_and_every_trial_its_row():
    stages = Store(Path("none")).stages()
    assert {path.stem for path in results.RESULTS.glob("*.csv")} == stages.keys()
    for stage in stages.keys() & STAGES.keys():
        rows = pd.read_csv(results.RESULTS / f"{stage}.csv")
        assert len(rows) >= len(list(STAGES[stage]())) > 0


def test_publishing_writes_record_and_table(trained, tmp_path, monkeypatch):
    reference = tmp_path / "records"
    monkeypatch.setattr(Store, "of", lambda config: Store(config.run_dir, reference))
    results.publish("mine", trained.config, results=tmp_path / "results")
    [row] = (tmp_path / "results" / "mine.csv").read_text().splitlines()[1:]
    assert row.startswith(f",matching,0,{PRESETS['smoke']['lr']:g},{trained.record.name},")
    assert json.loads((reference / "mine.jsonl").read_text())["name"] == trained.record.name
