"""Trackers, read by their own readers: they have everything of a run, and no duplicates."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from configs import changed
from PIL import Image
from programs import ON_THE_CPU, ROOT, run_python
from small_sweep import small
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, metadata
from wandb_files import logged, messages, pictures
from wandb_server import Server, serving

import aevb
from aevb import experiment, runs
from aevb.config import Values, default_config, with_values
from aevb.errors import UserError
from aevb.evaluation import elbo, manifold
from aevb.reports import run_figures
from aevb.runtime.run_lock import LOCK
from aevb.storage import checkpoint
from aevb.storage.trackers import TensorBoard, WeightsAndBiases
from aevb.sweeps import sweep
from aevb.sweeps.grid import make_plan
from aevb.training import journal

RECORDS = [
    {"examples": 100 * i, "train_bound": -5.0 - i, "test_bound": -6.0 - i} for i in (1, 2, 3, 4)
]
ALL = {"scalars": 0, "images": 0, "tensors": 0}  # no subsampling by TensorBoard's reader
ROWS, COLUMNS = 28, 20  # of a Frey face
PICTURES = {  # sizes of the pictures of two latents
    "reconstructions": (2 * ROWS, 12 * COLUMNS),
    "samples": (10 * ROWS, 10 * COLUMNS),
    "manifold": (20 * ROWS, 20 * COLUMNS),
}
BOTH = {"train__tensorboard": True, "train__wandb": "offline"}


def frey(**fields: object) -> Values:
    """Returns a config with three evaluations, which takes a second."""
    return changed(
        model__hidden=(8,), train__num_examples=400, train__first_eval=100,
        train__evals_per_decade=3, **fields,
    )  # fmt: skip


def shown(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance=ALL).Reload()


def scalars(folder: Path) -> list[dict[str, float]]:
    """Returns a tracker's records, in its own order."""
    found, records = shown(folder), {}
    for name in found.Tags()["scalars"]:
        for event in found.Scalars(name):
            record = records.setdefault(event.step, {"examples": event.step})
            assert name not in record, f"{name} is there twice at {event.step}"
            record[name] = event.value
    return list(records.values())


def images(folder: Path, name: str) -> dict[int, np.ndarray]:
    """Returns the pictures of that name by their counts of examples, [h, w] uint8."""
    found = {}
    for event in shown(folder).Images(name):
        assert event.step not in found
        colors = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)).convert("RGB"))
        assert np.all(colors == colors[..., :1])
        found[event.step] = colors[..., 0]
    return found


def as_float32(records: list[dict[str, float]]) -> list[dict[str, float]]:
    """Rounds records to float32, as in an event file."""
    return [
        {k: v if k == "examples" else float(np.float32(v)) for k, v in record.items()}
        for record in records
    ]


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def picture(record: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Returns a picture that identifies its record."""
    return {"samples": np.full((4, 6), int(record["examples"]) // 100, np.uint8)}


def tensorboard(folder: Path, known: int = 0) -> TensorBoard:
    """Opens the tracker of a run that resumes after `known` records."""
    return TensorBoard(folder, RECORDS[:known], examples=100 * known, config={})


def weights_and_biases(folder: Path, known: int = 0, mode: str = "offline") -> WeightsAndBiases:
    """Opens the tracker of a run that resumes after `known` records."""
    return WeightsAndBiases(folder, RECORDS[:known], mode=mode, config={})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a finished run with TensorBoard's files."""
    folder = tmp_path_factory.mktemp("trackers") / "run"
    runs.run(frey(train__tensorboard=True), folder)
    return folder


@pytest.fixture(scope="module")
def logged_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a finished run with the files of both trackers."""
    folder = tmp_path_factory.mktemp("both") / "run"
    runs.run(frey(**BOTH), folder)
    end_of_process()
    return folder


@pytest.fixture(autouse=True)
def end_of_weights_and_biases() -> Iterator[None]:
    """Stops their background process, which would otherwise also serve the next test."""
    yield
    end_of_process()


def end_of_process() -> None:
    """Stops what normally ends with the training process, so that another run can start."""
    import wandb

    wandb.teardown()


# TensorBoard


def test_tensorboard_has_the_log(run: Path):
    assert len(log(run)) == 3
    assert scalars(run / "tensorboard") == as_float32(log(run))


def test_tensorboard_has_pictures_of_each_evaluation(run: Path):
    assert set(shown(run / "tensorboard").Tags()["images"]) == set(PICTURES)
    for name, size in PICTURES.items():
        found = images(run / "tensorboard", name)
        assert list(found) == [record["examples"] for record in log(run)]
        assert {image.shape for image in found.values()} == {size}
        first, *_, last = found.values()
        assert np.any(first != last)


def levels(means: jax.Array | np.ndarray) -> np.ndarray:
    """Converts E[x|z] in [0, 1] to grey levels of 0 to 255."""
    return np.round(255 * np.clip(np.asarray(means, np.float64), 0, 1)).astype(np.int32)


@pytest.mark.slow
def test_the_last_pictures_are_those_of_the_trained_model(run: Path):
    """One level of difference is rounding: the run has one program, the test single operations."""
    trained = aevb.load_run(run)
    vae, params = trained.model.vae, trained.model.params
    keys = jax.random.split(jax.random.key(run_figures.DRAWING_SEED), 100)
    z = jax.vmap(lambda key: vae.sample(key, params)[0])(keys)
    samples = levels(jax.vmap(trained.model.decode)(z))
    found = images(run / "tensorboard", "samples")[400].astype(np.int32)
    for number, sample in enumerate(samples):
        row, column = divmod(number, 10)
        tile = found[row * ROWS :, column * COLUMNS :][:ROWS, :COLUMNS]
        np.testing.assert_allclose(tile, sample.reshape(ROWS, COLUMNS), atol=1)
    corner = jax.scipy.special.ndtri(jnp.array([0.025, 0.975]))  # the smallest z1, the largest z2
    manifold = images(run / "tensorboard", "manifold")[400].astype(np.int32)
    np.testing.assert_allclose(
        manifold[:ROWS, :COLUMNS],
        levels(trained.model.decode(corner)).reshape(ROWS, COLUMNS),
        atol=1,
    )


def test_tracker_reconstructions_are_below_their_originals(run: Path):
    found = images(run / "tensorboard", "reconstructions")[400]
    dataset = aevb.load_run(run).dataset
    originals = elbo.fixed_inputs(dataset.preprocess, np.array([0, 392]), dataset.test[[0, 392]])
    first, last = levels(originals).reshape(2, ROWS, COLUMNS)
    np.testing.assert_array_equal(found[:ROWS, :COLUMNS], first)
    np.testing.assert_array_equal(found[:ROWS, -COLUMNS:], last)
    assert np.any(found[ROWS:, :COLUMNS] != first)


def test_the_hyper_parameters_are_the_config(run: Path):
    """They are in the run's own folder, and are read by TensorBoard's own parsers."""
    content = shown(run / "tensorboard").PluginTagToContent(metadata.PLUGIN_NAME)
    start = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
    kinds = {"number_value": float, "bool_value": bool, "string_value": str}
    found = {}
    for name, value in start.hparams.items():
        kind = value.WhichOneof("kind")
        found[name] = kinds[kind](getattr(value, kind))
    config = frey(train__tensorboard=True)
    assert found == {k: str(v) if isinstance(v, tuple) else v for k, v in config.items()}
    session = metadata.parse_experiment_plugin_data(content[metadata.EXPERIMENT_TAG])
    metrics = {info.name.tag for info in session.metric_infos}
    assert metrics == {"train_bound", "valid_bound", "test_bound"}
    assert {"train_bound", "valid_bound"} <= set(shown(run / "tensorboard").Tags()["scalars"])
    assert {info.name for info in session.hparam_infos} == set(found)
    end = metadata.parse_session_end_info_plugin_data(content[metadata.SESSION_END_INFO_TAG])
    statuses: Any = api_pb2  # created at run time
    assert end.status == statuses.STATUS_SUCCESS


@pytest.mark.parametrize("known", [0, 2, 4])
def test_a_resumed_tensorboard_repeats_no_record_and_misses_none(known: int, tmp_path: Path):
    """The run stopped after a record that no checkpoint has; earlier pictures are unchanged."""
    tracker = tensorboard(tmp_path)
    for record in RECORDS[:3]:
        tracker.append(record, picture(record))
    tracker.close(is_done=False)
    tracker = tensorboard(tmp_path, known)
    for record in RECORDS[known:]:
        tracker.append(record, {"samples": picture(record)["samples"] + 100})
    tracker.close(is_done=True)
    assert scalars(tmp_path) == RECORDS
    found = images(tmp_path, "samples")
    drawn = {step: image[0, 0] for step, image in found.items()}
    old = {100 * i: i for i in (1, 2, 3) if i <= known}
    assert drawn == old | {100 * i: 100 + i for i in (1, 2, 3, 4) if i > known}


def test_event_files_are_read_in_order_if_the_clock_is_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Readers sort the files by name."""
    now = time.time()
    for number, record in enumerate(RECORDS):
        monkeypatch.setattr(time, "time", lambda back=100 * number: now - back)
        tracker = tensorboard(tmp_path, number)
        tracker.append(record)
        tracker.append({**record, "examples": 900})  # removed when the run is resumed
        tracker.close(is_done=False)
    tensorboard(tmp_path, 4).close(is_done=True)
    assert len(list(tmp_path.glob("*tfevents*"))) == 5
    assert scalars(tmp_path) == RECORDS


def test_tensorboard_enabled_during_a_run_has_the_earlier_records(tmp_path: Path):
    tracker = tensorboard(tmp_path / "new", 2)
    tracker.append(RECORDS[2])
    tracker.close(is_done=False)
    assert scalars(tmp_path / "new") == RECORDS[:3]
    tensorboard(tmp_path / "new", 4).close(is_done=True)  # it was off for a record
    assert scalars(tmp_path / "new") == RECORDS


@pytest.mark.parametrize("known", [1, 2])
@pytest.mark.parametrize("cut", [0, 1, 7, 30])
def test_events_that_a_kill_interrupted_are_written_again(cut: int, known: int, tmp_path: Path):
    """A kill can come before the file `last_record` notes that a record's events are complete."""
    tracker = tensorboard(tmp_path)
    tracker.append(RECORDS[0])
    note = (tmp_path / "last_record").read_text()
    tracker.append(RECORDS[1])
    tracker.close(is_done=False)
    (tmp_path / "last_record").write_text(note)
    (file,) = tmp_path.glob("*tfevents*")
    file.write_bytes(file.read_bytes()[: file.stat().st_size - cut])
    assert scalars(tmp_path)[:1] == RECORDS[:1]
    tracker = tensorboard(tmp_path, known)
    for record in RECORDS[known:]:
        tracker.append(record)
    tracker.close(is_done=True)
    assert scalars(tmp_path) == RECORDS


def test_tensorboard_records_are_written_to_disk_at_once(tmp_path: Path):
    """A checkpoint that is saved afterward relies on it."""
    tracker = tensorboard(tmp_path)
    tracker.append(RECORDS[0], picture(RECORDS[0]))
    assert scalars(tmp_path) == RECORDS[:1]
    assert list(images(tmp_path, "samples")) == [100]


class KilledError(Exception):
    """An exception that replaces SIGKILL."""


def killed(values: Values, folder: Path, *, after: int) -> None:
    """Starts a run, and kills it after evaluation number `after` is recorded but not saved."""
    save = checkpoint.save

    def save_or_die(*args: Any, records: list[Any], **kwargs: Any) -> None:
        if len(records) > after:
            raise KilledError
        save(*args, records=records, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", save_or_die)
        patch.setattr(journal, "SECONDS_BETWEEN_SAVES", 0.0)
        with pytest.raises(KilledError):
            runs.run(values, folder)
    end_of_process()


@pytest.mark.slow
def test_trackers_of_a_killed_and_resumed_run_have_every_record_once(run: Path, tmp_path: Path):
    folder = tmp_path / "run"
    killed(frey(**BOTH), folder, after=1)
    assert len(log(folder)) == 2
    runs.run(frey(**BOTH), folder)
    end_of_process()
    assert scalars(folder / "tensorboard") == as_float32(log(folder))
    assert [without_time(record) for record in logged(folder)] == list(map(without_time, log(run)))
    for name in PICTURES:
        expected = images(run / "tensorboard", name)
        found = images(folder / "tensorboard", name)
        assert list(found) == list(expected)
        for examples, image in found.items():
            np.testing.assert_array_equal(image, expected[examples])


@pytest.mark.slow
def test_a_run_without_trackers_makes_no_pictures_and_asks_for_no_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(run_figures, "pictures_of", None)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    runs.run(frey(), tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "checkpoints", "config.json", "data.json", "explorer.html", "figures", LOCK,
        "metrics.jsonl", "summary.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("library", "extra", "field", "value"),
    [("tensorboardX", "tensorboard", "tensorboard", True), ("wandb", "wandb", "wandb", "offline")],
)
def test_a_missing_tracker_library_is_named_and_leaves_no_file(
    library: str, extra: str, field: str, value: object, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setitem(sys.modules, library, None)
    values = frey(**{f"train__{field}": value})
    with pytest.raises(UserError, match=rf"pip install 'aevb\[{extra}\]'") as caught:
        runs.run(values, tmp_path / "run")
    assert f"config.train.{field} is" in str(caught.value)
    config = with_values(small(), {f"train.{field}": value})
    for launcher in ("", "local"):
        with pytest.raises(UserError, match=rf"aevb\[{extra}\]"):
            sweep.run(make_plan(config, {"seed": (0,)}), tmp_path / "sweep", launcher=launcher)
    assert not list(tmp_path.rglob("*.json"))


# Runs with pictures


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mcem", "full_vb"])
def test_tracker_pictures_are_of_the_evaluated_parameters(name: str):
    """Parameters with a distribution have their means; without an encoder, z is from the prior."""
    config = frey(algorithm__name=name, model__num_latents=3)
    built = experiment.build(config)
    state = built.algorithm.init(jax.random.key(0))
    pictures_of = run_figures.pictures_of(built)
    assert pictures_of is not None
    found = pictures_of(state.params)
    assert {n: image.shape for n, image in found.items()} == {
        n: size for n, size in PICTURES.items() if n != "manifold"
    }
    params = built.algorithm.vae_params(state.params)
    means = levels(run_figures.sample_means(built.vae, params))
    np.testing.assert_allclose(
        found["samples"][:ROWS, :COLUMNS].astype(int), means[0].reshape(ROWS, COLUMNS), atol=1
    )


@pytest.mark.slow
def test_tracker_pictures_are_compiled_once(monkeypatch: pytest.MonkeyPatch):
    built = experiment.build(frey())
    traced = []
    decode = manifold.decode_unit_square
    monkeypatch.setattr(
        manifold, "decode_unit_square", lambda *them: traced.append(1) or decode(*them)
    )
    pictures_of = run_figures.pictures_of(built)
    assert pictures_of is not None
    for seed in range(3):
        pictures_of(built.algorithm.init(jax.random.key(seed)).params)
    assert len(traced) == 1


@pytest.mark.slow
def test_data_other_than_images_have_only_numbers_in_the_trackers(tmp_path: Path):
    config = small()
    config.train.tensorboard = True
    (member,) = make_plan(config, {"seed": (0,)}).members()
    runs.run(member.values, tmp_path / "run")
    assert scalars(tmp_path / "run" / "tensorboard") == as_float32(log(tmp_path / "run"))
    assert shown(tmp_path / "run" / "tensorboard").Tags()["images"] == []


@pytest.mark.slow
def test_members_of_a_stack_have_their_own_tracker_records(tmp_path: Path):
    """The members differ in their numbers of latents; the small one is padded during training."""
    config = with_values(default_config(), frey(train__tensorboard=True))
    plan = make_plan(config, {"model.num_latents": (2, 3)})
    sweep.run(plan, tmp_path, "stack")
    last = {}
    for member in plan.members():
        folder = tmp_path / member.name / "tensorboard"
        assert scalars(folder) == as_float32(log(tmp_path / member.name))
        tags = shown(folder).Tags()["images"]
        assert ("manifold" in tags) == (member.values["model.num_latents"] == 2)
        trained = aevb.load_run(tmp_path / member.name)
        means = levels(run_figures.sample_means(trained.model.vae, trained.model.params))
        last[member.name] = images(folder, "samples")[400].astype(int)
        np.testing.assert_allclose(
            last[member.name][:ROWS, :COLUMNS], means[0].reshape(ROWS, COLUMNS), atol=1
        )
    assert len({image.tobytes() for image in last.values()}) == 2


# Weights & Biases


def without_time(record: Mapping[str, float]) -> dict[str, float]:
    return {k: v for k, v in record.items() if k != "seconds" and "recent" not in k}


@pytest.mark.slow
def test_weights_and_biases_have_the_log(logged_run: Path):
    assert logged(logged_run) == log(logged_run)


@pytest.mark.slow
def test_weights_and_biases_have_the_config(logged_run: Path):
    run = logged_run
    (begun,) = [it.run for it in messages(run) if it.HasField("run")]
    found = {item.key: json.loads(item.value_json) for item in begun.config.update}
    found.pop("_wandb")
    assert found == {**frey(**BOTH), "model.hidden": [8]}
    assert (begun.project, begun.display_name, begun.run_group) == ("aevb", "run", run.parent.name)


@pytest.mark.slow
def test_weights_and_biases_have_the_pictures(logged_run: Path):
    """The pictures are those of TensorBoard, at the same counts of examples."""
    run, found = logged_run, pictures(logged_run)
    assert set(found) == {(name, record["examples"]) for name in PICTURES for record in log(run)}
    for (name, examples), file in found.items():
        expected = images(run / "tensorboard", name)[examples]
        np.testing.assert_array_equal(np.asarray(Image.open(file)), expected)


@pytest.mark.slow
def test_weights_and_biases_collect_nothing_about_the_machine(logged_run: Path):
    """The files have no data on the machine, the packages, the code or the program's output."""
    run = logged_run
    kinds = {it.WhichOneof("record_type") for it in messages(run)}
    assert kinds == {
        "header", "run", "telemetry", "metric", "files", "summary", "history", "exit",
    }  # fmt: skip
    (begun,) = [it.run for it in messages(run) if it.HasField("run")]
    assert not begun.HasField("git")
    assert begun.host == ""


@pytest.mark.slow
@pytest.mark.parametrize("is_closed", [True, False])
def test_a_resumed_run_of_weights_and_biases_is_the_same_run(is_closed: bool, tmp_path: Path):
    """The run stopped after a record without a checkpoint; the tracker was off for another one."""
    tracker = weights_and_biases(tmp_path)
    for record in RECORDS[:2]:
        tracker.append(record, picture(record))
    if is_closed:
        tracker.close(is_done=False)
    end_of_process()
    tracker = weights_and_biases(tmp_path, 1)
    tracker.append(RECORDS[1], picture(RECORDS[1]))
    tracker.close(is_done=False)
    end_of_process()
    tracker = weights_and_biases(tmp_path, 3)
    tracker.append(RECORDS[3], picture(RECORDS[3]))
    tracker.close(is_done=True)
    end_of_process()
    assert logged(tmp_path) == RECORDS
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == (3 if is_closed else 2)
    found = pictures(tmp_path)
    assert {step for _, step in found} == {100, 200, 400}
    for record in (RECORDS[0], RECORDS[1], RECORDS[3]):
        image = Image.open(found["samples", record["examples"]])
        np.testing.assert_array_equal(np.asarray(image), picture(record)["samples"])


@pytest.mark.slow
def test_two_runs_of_weights_and_biases_in_one_process_are_kept_apart(tmp_path: Path):
    """Neither run prints anything, and neither changes the hooks or signals of the process."""
    hooks = sys.exit, sys.excepthook, [signal.getsignal(number) for number in signal.Signals]
    one, other = (weights_and_biases(tmp_path / name) for name in ("one", "other"))
    one.append(RECORDS[0])
    other.append(RECORDS[1])
    one.append(RECORDS[2])
    one.close(is_done=True)
    other.close(is_done=False)
    end_of_process()
    assert (logged(tmp_path / "one"), logged(tmp_path / "other")) == (
        [RECORDS[0], RECORDS[2]],
        [RECORDS[1]],
    )
    found = sys.exit, sys.excepthook, [signal.getsignal(number) for number in signal.Signals]
    assert found == hooks


def test_training_continues_if_a_tracker_fails(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    tracker = weights_and_biases(tmp_path)

    class Broken:
        def log(self, *_: object, **__: object) -> None:
            raise ConnectionError("it has gone\nand more")

    assert tracker._run is not None
    tracker._run.finish()
    tracker._run = Broken()
    for record in RECORDS:
        tracker.append(record)
    tracker.close(is_done=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert err == "Weights & Biases has failed (it has gone); training continues\n"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Yields a server of Weights & Biases, which this process and its children use."""
    with serving() as found:
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        yield found
        end_of_process()


def uploaded(server: Server) -> tuple[list[dict[str, float]], set[int]]:
    """Returns the records of a server's only run, and the steps with pictures."""
    (history,) = server.histories.values()
    names = RECORDS[0].keys()
    records = [{name: line[name] for name in names} for line in history]
    return records, {it["_step"] for it in history if it["samples"]["path"] in server.uploads}


@pytest.mark.slow
@pytest.mark.parametrize("is_closed", [True, False])
def test_a_server_has_each_record_of_a_resumed_run_once(
    is_closed: bool, server: Server, tmp_path: Path
):
    tracker = weights_and_biases(tmp_path, mode="online")
    for record in RECORDS[:2]:
        tracker.append(record, picture(record))
    if is_closed:
        tracker.close(is_done=False)
    end_of_process()
    tracker = weights_and_biases(tmp_path, 1, mode="online")
    for record in RECORDS[1:]:
        tracker.append(record, picture(record))
    tracker.close(is_done=True)
    assert uploaded(server) == (RECORDS, {100, 200, 300, 400})


@pytest.mark.slow
@pytest.mark.parametrize("is_uploaded_twice", [True, False])
def test_a_server_has_each_record_of_an_offline_run_once(
    is_uploaded_twice: bool, server: Server, tmp_path: Path
):
    """The run is stopped, killed and finished; it can be uploaded in between."""

    def upload() -> None:
        """Runs `wandb sync` where it may leave a log."""
        command = [sys.executable, "-m", "wandb", "sync", str(tmp_path / "wandb")]
        subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)

    tracker = weights_and_biases(tmp_path)
    tracker.append(RECORDS[0], picture(RECORDS[0]))
    tracker.close(is_done=False)
    end_of_process()
    if is_uploaded_twice:
        upload()
    tracker = weights_and_biases(tmp_path, 1)
    for record in RECORDS[1:3]:
        tracker.append(record, picture(record))
    end_of_process()
    tracker = weights_and_biases(tmp_path, 3)
    tracker.append(RECORDS[3], picture(RECORDS[3]))
    tracker.close(is_done=True)
    end_of_process()
    upload()
    assert uploaded(server) == (RECORDS, {100, 200, 300, 400})


@pytest.mark.slow
def test_an_offline_run_that_goes_online_is_uploaded_once(server: Server, tmp_path: Path):
    tracker = weights_and_biases(tmp_path)
    for record in RECORDS[:2]:
        tracker.append(record, picture(record))
    tracker.close(is_done=False)
    end_of_process()
    tracker = weights_and_biases(tmp_path, 2, mode="online")
    for record in RECORDS[2:]:
        tracker.append(record, picture(record))
    tracker.close(is_done=True)
    assert uploaded(server) == (RECORDS, {100, 200, 300, 400})
    assert not list(tmp_path.glob("wandb/offline-run-*"))


ONLINE = [
    "experiments/run.py", "--config=experiments/frey_faces.py", "--config.model.hidden=(8,)",
    "--config.train.num_examples=400", "--config.train.wandb=online",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("key", ["", "0" * 40])
def test_an_unreachable_tracking_server_is_reported_in_one_line(key: str, tmp_path: Path):
    """Either nobody is logged in, or there is no server: the address is a closed port."""
    nowhere = {"WANDB_BASE_URL": "http://127.0.0.1:9", "HOME": str(tmp_path), "WANDB_API_KEY": key}
    done = run_python(*ONLINE, f"--workdir={tmp_path}/run", env=nowhere)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "wandb:" not in done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: config.train.wandb is 'online', and ")
    assert "'offline'" in line
    assert ("wandb login" in line) == (key == "")


def start(folder: Path) -> subprocess.Popen[str]:
    """Starts a run that takes some seconds."""
    more = ["--config.train.num_examples=400000", "--config.train.wandb=offline"]
    return subprocess.Popen(
        [sys.executable, *ONLINE[:-2], *more, f"--workdir={folder}"],
        cwd=ROOT, env={**os.environ, **ON_THE_CPU}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_tracked_run_that_is_killed_resumes_with_every_record(
    number: signal.Signals, tmp_path: Path
):
    """A kill loses data that is written in the background; the resumed run writes it again."""
    folder = tmp_path / "run"
    process = start(folder)
    while not (folder / "metrics.jsonl").exists() or len(log(folder)) < 2:
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 128 + number
        assert err.splitlines()[-1].startswith(f"stopped by {number.name} and saved at ")
        assert logged(folder) == log(folder)
    process = start(folder)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert logged(folder) == log(folder)


# The flag


SYNTHETIC = [
    "experiments/run.py", "--config=experiments/frey_faces.py", "--config.data.name=synthetic",
    "--config.data.split=", "--config.model.likelihood=gaussian", "--config.model.hidden=(4,)",
    "--config.train.num_examples=400", "--config.model.num_latents=2",
    "--config.optimizer.step_size=0.02",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("how", ["sweep", "run", "launcher"])
def test_the_tensorboard_flag_sets_the_config_field(how: str, tmp_path: Path):
    more = {
        "run": [],
        "sweep": ["--sweep", "--axis=seed=0,1"],
        "launcher": ["--sweep", "--axis=seed=0", "--launcher=local"],
    }[how]
    done = run_python(*SYNTHETIC, f"--workdir={tmp_path}/it", "--tensorboard", *more)
    assert done.returncode == 0, done.stderr
    configs = list((tmp_path / "it").rglob("config.json"))
    assert len(configs) == (2 if how == "sweep" else 1)
    for config in configs:
        assert json.loads(config.read_text())["train.tensorboard"] is True
        assert scalars(config.parent / "tensorboard") == as_float32(log(config.parent))
