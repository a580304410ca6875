"""The command line as its user meets it."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from adiabatic_ray import __version__, cli
from adiabatic_ray.model.encoder import Encoder
from adiabatic_ray.trials.record import Candidate
from adiabatic_ray.trials.store import TrialStore
from tests import sweeps
from tests.records import record

Write = Callable[..., Path]
ROOT = Path(__file__).parents[1]


COMMANDS = [
    *("sweep", "validate", "schema", "embed", "train", "evaluate"),
    *("submit", "stop", "logs", "report", "ui", "leaderboard", "compare", "status", "confirm", "export", "completion"),
]


def test_help_names_every_command_and_imports_none_of_them() -> None:
    done = subprocess.run([sys.executable, "-m", "adiabatic_ray", "--help"], capture_output=True, text=True, check=True)
    assert re.findall(r"^    (\w+)", done.stdout, re.M) == COMMANDS
    assert "exit codes: 0 done; 1 an error" in done.stdout
    program = "import sys, adiabatic_ray.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "argparse" in loaded
    assert not {"torch", "ray", "numpy", "rich", "ruamel", "mlflow"} & set(loaded)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main([command, "--help"])
    assert exit_.value.code == 0
    usage, _, explained = capsys.readouterr().out.partition("\n\n")
    assert usage.startswith(f"usage: adiabatic-ray {command} ")
    assert re.match(r"[A-Z].*\.\n", explained, re.S)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out.strip() == f"adiabatic-ray {__version__}"


@pytest.mark.parametrize("arguments", [[], ["swep"], ["sweep"], ["evaluate", "--model", "x"], ["sweep", "a", "b"],
                                       ["confirm", "x", "--top", "no"], ["confirm", "x", "--seeds", "0"]])  # fmt: skip
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith("usage: ")


def test_a_users_mistake_is_a_message_and_no_stack(write_sweep: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_sweep({"train.margn": 0.1})
    assert cli.main(["validate", str(path)]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {path}: `train.margn` is not a key of `train` (did you mean `margin`?)")
    assert "Traceback" not in err


def test_a_place_that_cannot_be_written_is_a_message(
    write_sweep: Write, capsys: pytest.CaptureFixture[str], tmp_path: Path, pocket: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    arguments = ["evaluate", "--model", str(pocket / "encoder"), "--data", f"{write_sweep()}:selection.questions"]
    assert cli.main([*arguments, "--out", str(tmp_path / "file" / "out")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert (tmp_path / "file").read_text() == "mine"


def test_an_interrupt_is_status_130_and_no_stack() -> None:
    """While a command waits for a server that does not answer."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        command = [sys.executable, "-m", "adiabatic_ray", "logs", "small", "--address", address]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            asked, _ = silent.accept()
            with asked:
                process.send_signal(signal.SIGINT)
                _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, said
    assert "Traceback" not in said


def test_the_state_of_a_sweep_for_scripts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    store = TrialStore.create(tmp_path / "s", sweeps.MINIMAL)
    half = Candidate(0.5, {"gain": 4.0, "constraint": -0.25}, "")
    for one in (record(1, 9.0, 0.5, scaled=(half,)), record(2, 3.0), record(3, state="running")):
        store.put(one)
    assert cli.main(["status", str(tmp_path / "s"), "--json"]) == 0
    state = json.loads(capsys.readouterr().out)
    assert (state["sweep"], state["running"], state["trials"]) == ("s", False, {"complete": 2, "running": 1})
    assert (state["best"]["trial"], state["best"]["scale"], state["best"]["gain"]) == (1, 0.5, 4.0)
    assert [one["trial"] for one in state["unfinished"]] == [3]
    assert cli.main(["status", str(tmp_path / "s"), "--csv"]) == 0
    (row,) = pd.read_csv(io.StringIO(capsys.readouterr().out)).to_dict("records")
    assert (row["trials.complete"], row["best.trial"], row["best.configuration.learning_rate"]) == (2, 1, 1e-6)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_and_options() -> None:
    program = """
        eval "$(adiabatic-ray completion bash)"
        complete() { COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; COMP_WORDS=($*); COMP_CWORD=$(($# - 1)); COMP_TYPE=9
            _python_argcomplete adiabatic-ray; echo "${COMPREPLY[@]}"; }
        complete adiabatic-ray st; complete adiabatic-ray leaderboard --w
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, env=os.environ | {"PATH": path})
    assert [line.split() for line in done.stdout.splitlines()] == [["stop", "status"], ["--wide"]], done.stderr
    for shell in ("zsh", "fish"):
        shown = subprocess.run([sys.executable, "-m", "adiabatic_ray", "completion", shell], capture_output=True)
        assert b"adiabatic-ray" in shown.stdout


def test_the_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema"]) == 0
    assert {"search", "constraint", "budget"} <= json.loads(capsys.readouterr().out)["properties"].keys()


def test_validate_prints_the_plan_and_starts_nothing(
    write_sweep: Write, capsys: pytest.CaptureFixture[str], tmp_path: Path, encoder: Encoder
) -> None:
    path = write_sweep({"search.space.freeze": ["none", "embeddings+layer.*.output.dense.weight"]})
    assert cli.main(["validate", str(path)]) == 0
    out = capsys.readouterr().out
    assert "sweep small: 4 trials, chosen by Optuna (gp)" in out
    assert "resources: 1 at a time, each on 1 CPU" in out
    assert "learning_rate: 1e-06 to 0.01, on a log scale" in out
    assert (
        "layer.*.output.dense.weight freezes 3 tensors, 110,592 parameters: encoder.layer.0.output.dense.weight" in out
    )
    total = f"{sum(weight.numel() for weight in encoder.parameters.values()):,}"
    assert f"mask none: trains {total} of {total} parameters" in out
    assert "selection xnli: 20 premises, 140 query texts" in out
    assert re.search(r"time on this machine: about \d+ s a trial, \d+ s in all", out)
    assert f"{path} is valid" in out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"search.space.freeze": ["layer.7"]},
            r"error: freeze: the pattern `layer.7` of 'layer.7' matches no parameter",
        ),
        ({"model.name": "/nowhere"}, r"error: model.name: /nowhere is not a folder"),
        ({"train.data.path": "/nowhere.jsonl"}, r"error: train: /nowhere.jsonl does not exist"),
        (
            {"search.objective": {"data": "xnli", "metric": "map"}},
            r"error: search.objective: `xnli` is an XNLI set, which has no `map`. Leave the metric out",
        ),
    ],
)
def test_validate_finds_what_would_fail(
    write_sweep: Write, capsys: pytest.CaptureFixture[str], change: dict[str, object], message: str
) -> None:
    assert cli.main(["validate", str(write_sweep(change))]) == 1
    assert re.search(message, capsys.readouterr().err)


def test_validate_accepts_a_sweep_for_the_hub_and_a_gpu_from_afar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cli.main(["validate", str(ROOT / "sweeps" / "e5_msmarco.yaml")]) == 0
    out = capsys.readouterr().out
    assert "sweep e5_msmarco: 100 trials, chosen by Optuna (gp)" in out
    assert "model intfloat/multilingual-e5-small: on the hub, which cannot be reached from here" in out
    assert "data on the hub, read when the sweep starts: sentence-transformers/msmarco-bm25, facebook/xnli" in out


def test_a_sweep_on_an_object_store_needs_a_server_for_mlflow(
    write_sweep: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = str(write_sweep({"storage": "s3://bucket/runs"}))
    message = "mlflow.uri: s3://bucket/runs can hold no database for MLflow"
    assert cli.main(["sweep", path]) == 1
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert cli.main(["validate", path]) == 0
    assert f"tracking: not from this machine, {message}" in capsys.readouterr().out
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert cli.main(["validate", path]) == 0
    assert "can hold no database" not in capsys.readouterr().out


def test_embed_fills_the_cache_once(write_sweep: Write, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write_sweep({"evaluate.confirmation": None})
    assert cli.main(["embed", str(path)]) == 0
    out = capsys.readouterr().out
    assert "embedded 400 passages of train" in out
    tables = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs" / "cache").glob("*/embeddings.npy")}
    assert len(tables) == 5
    assert cli.main(["embed", str(path)]) == 0
    assert "embedded" not in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in tables} == tables


def test_train_then_evaluate_against_the_base(
    write_sweep: Write, capsys: pytest.CaptureFixture[str], tmp_path: Path, pocket: Path
) -> None:
    path = write_sweep({"train.learning_rate": 1e-3, "train.steps": 30})
    assert cli.main(["train", str(path), "--out", str(tmp_path / "tuned")]) == 0
    last = capsys.readouterr().out.splitlines()[-2]
    gain = float(re.search(r"step 30/30: loss .*, gain ([-+.\d]+)%", last)[1])  # type: ignore[index]
    assert gain != 0
    arguments = ["evaluate", "--model", str(tmp_path / "tuned"), "--out", str(tmp_path / "e")]
    arguments += ["--data", f"{path}:selection", "--against", str(pocket / "encoder")]
    assert cli.main(arguments) == 0
    table = pd.read_csv(tmp_path / "e" / "discordance.csv")
    questions = table[table["dataset"] == "questions"].iloc[0]
    assert questions["improvement"] == pytest.approx(gain, abs=0.01)  # the same numbers as in training
    assert len(table) == 1 + 2 * 7 * 7
    assert "improvement %" in capsys.readouterr().out


@pytest.mark.slow
def test_evaluate_several_encoders(write_sweep: Write, tmp_path: Path, pocket: Path) -> None:
    """Each has its own folder and the numbers that it has alone, with and without a base."""
    base = pocket / "encoder"
    path = write_sweep({"train.learning_rate": 1e-3})
    assert cli.main(["train", str(path), "--out", str(tmp_path / "tuned")]) == 0
    data = ["--data", f"{path}:selection"]
    for against in ([], ["--against", str(base)]):
        alone = tmp_path / f"alone{len(against)}"
        together = tmp_path / f"together{len(against)}"
        assert cli.main(["evaluate", "--model", str(tmp_path / "tuned"), "--out", str(alone), *data, *against]) == 0
        models = [str(tmp_path / "tuned"), str(base)]
        assert cli.main(["evaluate", "--model", *models, "--out", str(together), *data, *against]) == 0
        expected = (alone / "discordance.csv").read_text()
        assert (together / "tuned" / "discordance.csv").read_text() == expected
        assert (together / "encoder" / "discordance.csv").read_text() != expected
        for name in ("tuned", "encoder"):
            assert (together / name / "pnd_xnli.png").stat().st_size > 10_000
            assert "<svg" in (together / name / "pnd_xnli.svg").read_text()
    untouched = pd.read_csv(together / "encoder" / "discordance.csv")
    assert (untouched["num_broken"] == 0).all()


def test_evaluate_one_encoder_on_a_file(tmp_path: Path, pocket: Path) -> None:
    data = pocket / "titles" / "selection.jsonl"
    arguments = ["evaluate", "--model", str(pocket / "encoder"), "--data", str(data), "--out", str(tmp_path / "e")]
    assert cli.main(arguments) == 0
    table = pd.read_csv(tmp_path / "e" / "discordance.csv")
    assert list(table.columns) == [
        "dataset", "comparison", "query_language", "text_language", "num_triplets", "num_discordant", "pnd",
    ]  # fmt: skip
    assert table.loc[0, "num_triplets"] == 1000
    assert table.loc[0, "pnd"] == pytest.approx(table.loc[0, "num_discordant"] / 10)


def test_evaluate_says_which_sections_there_are(write_sweep: Write, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["evaluate", "--model", "x", "--out", "y", "--data"]
    assert cli.main([*common, f"{write_sweep()}:selektion"]) == 1
    assert "`selektion` is not a section; expected `selection` or `confirmation`" in capsys.readouterr().err
    assert cli.main([*common, f"{write_sweep()}"]) == 1
    said = capsys.readouterr().err
    assert "a section of the sweep file is missing; " in said
    assert "expected `selection` or `confirmation` after the file and a colon" in said
    assert cli.main([*common, f"{write_sweep()}:selection.xnl"]) == 1
    assert "`evaluate.selection` has no `xnl`; it has questions, xnli" in capsys.readouterr().err
