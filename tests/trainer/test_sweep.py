from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from trainer.commands.main import app
from trainer.commands.ray_runs import Share, numbers_of, plan, seeds_of, sweep
from trainer.config import RunConfig
from trainer.data.datasets import Data
from trainer.grow import grow
from trainer.journal.journal import run_directory
from trainer.journal.records import Record
from trainer.recipes.overrides import Overrides
from trainer.recipes.runs import RUNS
from zoo.checkpoint.descriptor import Lineage
from zoo.checkpoint.file import load
from zoo.errors import RunError
from zoo.store.directory import Directory

Command = Callable[..., subprocess.CompletedProcess[str]]


def names(run: str, **options: Any) -> list[tuple[str, int]]:
    configs = plan(lambda overrides: overrides.of(RUNS[run]()), Overrides(), (0, 3), **options)
    return [(config.name, config.seed) for config in configs]


def refused(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["sweep", *map(str, arguments)])
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    return result.stderr


# --- the plan -------------------------------------------------------------------------------------------


def test_runs_without_a_threshold_are_those_of_zoo_train() -> None:
    assert names("paper") == [("paper", 0), ("paper", 3)]
    [config] = plan(lambda overrides: overrides.of(RUNS["digits"]()), Overrides(epochs=7), (4,))
    assert config == replace(RUNS["digits"](), epochs=7, seed=4)


def test_each_threshold_has_a_name_of_its_own() -> None:
    assert names("paper", taus=(1.0, 1.5)) == [
        ("paper-tau1", 0),
        ("paper-tau1", 3),
        ("paper-tau1.5", 0),
        ("paper-tau1.5", 3),
    ]
    assert names("grow", thresholds=(0.0,)) == [("grow-threshold0", 0), ("grow-threshold0", 3)]
    close = names("digits", thresholds=(0.1, 0.1000001, 1e-7))
    assert len(set(close)) == 6


def test_names_are_ones_that_a_checkpoint_can_carry() -> None:
    with pytest.raises(RunError, match=r"a run cannot be named 'paper-tau1e\+16'"):
        names("paper", taus=(1e16,))


def test_a_threshold_that_the_rule_does_not_have() -> None:
    with pytest.raises(RunError, match="run digits has no ratio rule, so no --tau"):
        names("digits", taus=(1.0,))


@pytest.mark.parametrize(
    ("text", "seeds"), [("0-2", (0, 1, 2)), ("7", (7,)), ("5, 0-1,1", (5, 0, 1)), ("10-10", (10,))]
)
def test_seeds(text: str, seeds: tuple[int, ...]) -> None:
    assert seeds_of(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "-1", "3-1", "0-", "1.5", "0,,1"])
def test_no_seeds(text: str) -> None:
    with pytest.raises(RunError, match="--seeds should be like 0-4 or 0,2,5-7, is "):
        seeds_of(text)


def test_numbers() -> None:
    assert numbers_of("--taus", "1,1.5, 2,1") == (1.0, 1.5, 2.0)
    assert numbers_of("--taus", None) == ()


@pytest.mark.parametrize("text", ["", "x", "1,-2", "nan", "inf", "1;2"])
def test_no_numbers(text: str) -> None:
    with pytest.raises(RunError, match=r"--taus should be numbers from 0 on, like 1,1\.5,2; is "):
        numbers_of("--taus", text)


# --- what is refused before anything starts -------------------------------------------------------------


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    options = ("--data", "digits", "--zoo", tmp_path / "zoo")
    assert "no run is named 'fast'; there are: digits" in refused("fast", *options)
    assert "--seeds should be like" in refused("digits", *options, "--seeds", "many")
    assert "run paper has no gain rule, so no --threshold" in refused("paper", *options, "--thresholds", "1")
    missing = refused("digits", "--data", tmp_path / "nowhere", "--zoo", tmp_path / "zoo")
    assert "no such directory or archive" in missing
    assert missing.count("\n") == 1
    assert not (tmp_path / "zoo").exists()


def test_without_ray_the_way_to_install_it(tmp_path: Path) -> None:
    program = "import sys; sys.modules['ray'] = None; from trainer.__main__ import main; main()"
    words = ("sweep", "digits", "--data", "digits", "--zoo", tmp_path / "zoo", "--epochs", 1)
    result = subprocess.run([sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (1, "")
    assert "zoo-train: sweeps run on Ray: pip install 'checkpoint-zoo[ray]'" in result.stderr
    assert "Traceback" not in result.stderr


# --- on Ray ---------------------------------------------------------------------------------------------


def test_a_sweep_is_its_runs_and_survives_the_failing_one(tmp_path: Path, data: Data, tiny_run: RunConfig) -> None:
    """Checkpoint for checkpoint what the runs give by themselves; one that diverges is reported, the rest are made."""
    pytest.importorskip("ray")
    good = [replace(tiny_run, seed=seed, name=f"tiny-tau{seed}", cpu_threads=1) for seed in (0, 1)]
    bad = replace(tiny_run, name="bad", learning_rate=1e30, cpu_threads=1)
    outcomes = list(sweep([good[0], bad, good[1]], data, tmp_path / "zoo", Share(cpus=0.5)))
    by_config = {outcome.config: outcome for outcome in outcomes}
    assert len(outcomes) == len(by_config) == 3
    error = by_config[bad].error
    assert error is not None
    assert error.startswith("run bad diverged: the loss of epoch ")
    assert "\n" not in error
    records: list[Record] = []
    for config in good:
        alone = grow(config, data, tmp_path / "alone", torch.device("cpu"), resume=False, observe=records.append)
        assert by_config[config].error is None
        found = [lineage_of(tmp_path / "zoo", digest) for digest in by_config[config].digests]
        assert found == [lineage_of(tmp_path / "alone", digest) for digest in alone]
        assert len(found) == 3
        assert run_directory(tmp_path / "zoo", config, data.name).is_dir()


def lineage_of(zoo: Path, digest: str) -> Lineage:
    """All that two checkpoints of one run share; files differ in the time they were made."""
    return load(Directory(zoo).path(digest)).descriptor.lineage.model_copy(update={"parent": None})


def test_a_worker_that_dies_and_a_sweep_that_is_stopped(tmp_path: Path, images: Path, command: Command) -> None:
    pytest.importorskip("ray")
    zoo = tmp_path / "zoo"
    options = ("sweep", "digits", "--data", images, "--zoo", zoo, "--thresholds", 0, "--max-params", 4000)
    options += ("--license", "MIT")
    logs = [zoo / "runs" / f"bars-digits-threshold0-s{seed}" / "log.jsonl" for seed in (0, 1)]
    words = [Path(sys.executable).parent / "zoo-train", *options, "--seeds", 0, "--epochs", 2000]
    process = subprocess.Popen([*map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_epochs(logs[0], 3, process)
    [worker] = workers_of(process)
    os.kill(worker, signal.SIGKILL)
    wait_for_epochs(logs[0], num_epochs(logs[0]) + 2, process)
    assert workers_of(process) != [worker]
    stdout, stderr = interrupted(process)
    assert (process.returncode, stdout) == (130, "")
    assert "zoo-train: stopped; the same command goes on from the last whole epoch of each run\n" in stderr
    assert "Traceback" not in stderr

    epochs = num_epochs(logs[0]) + 2
    done = command("zoo-train", *options, "--seeds", "0,1", "--epochs", epochs)
    assert done.returncode == 0, done.stderr
    assert f"2 runs on bars with local; logs: {zoo}/runs/" in done.stderr
    assert re.search(r"\n  2/2  digits-threshold0 seed [01]: \d+ checkpoints\n", done.stderr)
    digests = done.stdout.split()
    assert set(digests) == {path.stem for path in zoo.rglob("*.safetensors")}
    descriptors = [load(Directory(zoo).path(digest)).descriptor for digest in digests]
    assert {descriptor.license for descriptor in descriptors} == {"MIT"}
    seeds = [descriptor.lineage.seed for descriptor in descriptors]
    assert seeds == sorted(seeds)
    assert set(seeds) == {0, 1}
    # What was done before stays done: no epoch is logged twice.
    assert [num_epochs(log) for log in logs] == [epochs, epochs]

    (logs[0].parent / "state.pt").write_bytes(b"no state")
    again = command("zoo-train", *options, "--seeds", "0,1", "--epochs", epochs)
    assert again.returncode == 1
    assert "zoo-train: 1 of 2 runs failed, the others are done\ndigits-threshold0 seed 0: " in again.stderr
    assert again.stdout.split() == [digest for digest, seed in zip(digests, seeds, strict=True) if seed == 1]


def interrupted(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What it had printed when Ctrl-C ended it; pressed again where Ray, restarting a worker, does not listen."""
    for _ in range(6):
        process.send_signal(signal.SIGINT)
        try:
            return process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            continue
    process.kill()
    raise AssertionError(f"Ctrl-C does not end it: {process.communicate()}")


def num_epochs(log: Path) -> int:
    return log.read_text().count('{"event": "epoch"') if log.exists() else 0


def wait_for_epochs(log: Path, number: int, process: subprocess.Popen[str]) -> None:
    while num_epochs(log) < number:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """Processes that train, below this one."""
    table = subprocess.run(["ps", "-axo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [row.split(maxsplit=2) for row in table.splitlines()]
    parents = {int(pid): int(parent) for pid, parent, *_ in rows}

    def is_below(pid: int) -> bool:
        return pid == process.pid or (pid in parents and is_below(parents[pid]))

    found = [int(pid) for pid, _, *words in rows if words and words[0].startswith("ray::_grow_one")]
    return [pid for pid in found if is_below(pid)]


def test_a_share_that_no_machine_has(tmp_path: Path, data: Data, tiny_run: RunConfig) -> None:
    pytest.importorskip("ray")
    runs = partial(sweep, [tiny_run], data, tmp_path / "zoo")
    with pytest.raises(RunError, match=r"a run is to have 1000 CPUs and 0 GPUs; the machines have \d+ and \d+"):
        list(runs(Share(cpus=1000.0, gpus=0.0)))
    with pytest.raises(RunError, match=r"no Ray cluster at '127\.0\.0\.1:1' \(`ray start --head` starts one"):
        list(runs(Share(), "127.0.0.1:1"))
