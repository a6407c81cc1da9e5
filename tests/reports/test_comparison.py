"""The comparison of runs: their groups, its statistics, and its page and table."""

import csv
import io
import itertools
import json
import math
import shutil
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import small_run
from pages import content_of
from programs import program

from aevb import runs
from aevb.cli import report, run
from aevb.config import validate, with_values
from aevb.errors import UserError
from aevb.reports import comparison
from aevb.reports.comparison import Comparison, compare
from aevb.storage import metrics_log

LATENTS, SEEDS = (2, 10), (1, 2, 3)

Maker = Callable[..., Path]


@pytest.fixture(scope="module")
def made(undisturbed: Path) -> Maker:
    """Returns a function that makes a finished, untrained run with given settings and bounds."""

    def make(folder: Path, **values: Any) -> Path:
        named = {name.replace("__", "."): value for name, value in values.items()}
        config = validate(with_values(small_run.get_config(), named))
        shift = 0.1 * config["seed"] + 0.01 * config["model.num_latents"]
        shutil.copytree(undisturbed, folder)
        metrics_log.write_with_digest(folder / "config.json", config)
        summary = metrics_log.read_with_digest(folder / "summary.json") | {"seed": config["seed"]}
        metrics_log.write_with_digest(folder / "summary.json", shifted(summary, shift))
        log = metrics_log.read_records(folder / "metrics.jsonl")
        lines = [json.dumps(shifted(record, shift)) for record in log]
        (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
        return folder

    return make


def shifted(figures: Mapping[str, Any], shift: float) -> dict[str, Any]:
    bounds = {name: value + shift for name, value in figures.items() if name.endswith("_bound")}
    return {**figures, **bounds}


@pytest.fixture(scope="module")
def sweep(made: Maker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns runs with two numbers of latents and three seeds, and trials that are not shown."""
    folder = tmp_path_factory.mktemp("comparison") / "sweep"
    for num_latents, seed in itertools.product(LATENTS, SEEDS):
        made(folder / f"{num_latents},{seed}", model__num_latents=num_latents, seed=seed)
    shutil.copytree(folder / "2,1", folder / "trials" / "2,1")
    return folder


@pytest.fixture
def copy(sweep: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sweep, tmp_path / "sweep"))


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def shown(found: Comparison, beside: Path) -> dict[str, Any]:
    return content_of(comparison.comparison_page(found, beside))


def test_runs_that_differ_only_in_their_seed_are_one_row(sweep: Path):
    found = compare([sweep])
    assert found.fields == ("model.num_latents",)
    assert [dict(row.setting) for row in found.rows] == [{"model.num_latents": z} for z in LATENTS]
    assert [len(row.runs) for row in found.rows] == [3, 3]
    assert not found.left_out


def test_a_row_has_the_mean_and_half_of_its_interval_over_seeds(sweep: Path):
    found = compare([sweep])
    (column,) = (each for each in found.columns if each.name == "test_bound")
    for row, num_latents in zip(found.rows, LATENTS, strict=True):
        bounds = [summary_of(sweep / f"{num_latents},{seed}")["test_bound"] for seed in SEEDS]
        figure = row.over_seeds(column)
        assert figure is not None
        assert figure["values"] == bounds
        assert figure["mean"] == pytest.approx(statistics.fmean(bounds))
        error = statistics.stdev(bounds) / 3**0.5
        assert figure["half_width"] == pytest.approx(4.3027 * error, rel=1e-4)  # t with 2 degrees


def test_a_run_given_by_several_folders_counts_once(sweep: Path):
    one = compare([sweep / "10,2"])
    assert one.fields == ()
    assert [len(row.runs) for row in one.rows] == [1]
    for folders in ([sweep.parent], [sweep, sweep / "2,1"]):
        assert [len(row.runs) for row in compare(folders).rows] == [3, 3]


def test_rows_are_sorted_by_the_values_of_their_settings(copy: Path, made: Maker):
    made(copy / "step", model__num_latents=2, optimizer__step_size=0.1)
    made(copy / "deep", model__num_latents=10, model__hidden=(8, 8))
    found = compare([copy])
    assert found.fields == ("model.num_latents", "model.hidden", "optimizer.step_size")
    settings = [tuple(row.setting.values()) for row in found.rows]
    assert settings == [(2, [8], 0.02), (2, [8], 0.1), (10, [8], 0.02), (10, [8, 8], 0.02)]
    fields = shown(found, copy)["fields"]
    assert [field["values"] for field in fields] == [["2", "10"], ["8", "8x8"], ["0.02", "0.1"]]


def test_a_second_run_of_the_same_config_and_seed_is_left_out(copy: Path, made: Maker):
    made(copy / "again", model__num_latents=2, seed=2)
    found = compare([copy])
    assert [len(row.runs) for row in found.rows] == [3, 3]
    ((folder, why),) = found.left_out.items()
    assert {folder, copy / "2,2"} == {copy / "again", copy / "2,2"}
    assert "config and the seed" in why


def test_settings_of_output_and_checkpoints_do_not_make_a_row(copy: Path, made: Maker):
    made(copy / "other", model__num_latents=2, seed=4, train__keep_checkpoints=True)
    assert [len(row.runs) for row in compare([copy]).rows] == [4, 3]


def test_a_run_that_is_not_finished_is_shown_and_not_averaged(copy: Path):
    (copy / "2,2" / "summary.json").unlink()
    found = compare([copy])
    row = found.rows[0]
    figure = row.over_seeds(comparison.BOUNDS[1])
    assert figure is not None
    assert (len(row.runs), len(row.finished), len(figure["values"])) == (3, 2, 2)
    content = shown(found, copy)["rows"][0]
    assert [run["is_finished"] for run in content["runs"]] == [True, False, True]
    assert len(content["curves"]) == 3
    assert next(csv.DictReader(io.StringIO(comparison.as_csv(found))))["unfinished"] == "1"


@pytest.mark.slow
def test_a_run_killed_after_its_last_step_lacks_only_its_speed(copy: Path, undisturbed: Path):
    killed = shutil.copytree(undisturbed, copy / "2,0")
    before = summary_of(killed)
    (killed / "summary.json").unlink()
    runs.run(validate(small_run.get_config()), killed)
    after = summary_of(killed)
    assert after["test_bound"] == before["test_bound"]
    assert after["examples_per_second"] is None
    assert "examples/s" in run.report(before, killed)
    assert "examples/s" not in run.report(after, killed)
    found = compare([copy])
    speed, _ = comparison.COSTS
    figures = [found.rows[0].over_seeds(column) for column in (speed, comparison.BOUNDS[1])]
    assert [len(figure["values"]) for figure in figures if figure] == [3, 4]
    assert len(list(csv.DictReader(io.StringIO(comparison.as_csv(found))))) == 2


def test_a_nonfinite_number_is_shown_in_the_comparison(copy: Path):
    file = copy / "2,2" / "summary.json"
    metrics_log.write_with_digest(
        file, metrics_log.read_with_digest(file) | {"train_bound": -math.inf}
    )
    found = compare([copy])
    assert found.rows[0].over_seeds(comparison.BOUNDS[0]) == {
        "mean": -math.inf,
        "half_width": None,
        "number": 3,
        "values": [each.summary["train_bound"] for each in found.rows[0].runs],
    }
    first, second = csv.DictReader(io.StringIO(comparison.as_csv(found)))
    assert (first["train_bound_mean"], first["train_bound_half_width"]) == ("-inf", "")
    assert math.isfinite(float(second["train_bound_mean"]))
    figure = shown(found, copy)["rows"][0]["quantities"][found.columns.index(comparison.BOUNDS[0])]
    assert figure["mean"] is None


@pytest.mark.parametrize("file", ["config.json", "summary.json"])
def test_a_damaged_run_is_listed_as_left_out_and_the_others_are_shown(copy: Path, file: str):
    path = copy / "2,2" / file
    path.write_text(path.read_text().replace("1", "2", 1))
    found = compare([copy])
    assert [len(row.runs) for row in found.rows] == [2, 3]
    assert list(found.left_out) == [copy / "2,2"]
    assert shown(found, copy)["left_out"][0][0] == str(copy / "2,2")


@pytest.mark.parametrize(
    ("file", "text"), [("marginal.json", '{"model": {}}'), ("metrics.jsonl", '{"examples": 1}\n')]
)
def test_a_run_with_a_file_of_another_format_is_left_out(copy: Path, file: str, text: str):
    (copy / "2,2" / file).write_text(text)
    assert list(compare([copy]).left_out) == [copy / "2,2"]


def test_log_p_of_the_last_checkpoint_is_a_column(copy: Path):
    def evaluated(name: str, mean: float, step: int) -> None:
        found = {
            "data": {"split": "test", "num_points": 100},
            "model": {"step": step},
            "estimators": {"importance": {"mean": mean}},
        }
        metrics_log.write_json(copy / name / "marginal.json", found)

    evaluated("2,1", -3.0, 200)
    evaluated("2,2", -5.0, 200)
    evaluated("10,1", -1.0, 10)
    found = compare([copy])
    (column,) = (each for each in found.columns if each.name.startswith("log_p"))
    assert column.label == "log p(x) by importance, 100 of test (nats)"
    figure = found.rows[0].over_seeds(column)
    assert figure is not None
    assert figure["values"] == [-3.0, -5.0]
    assert found.rows[1].over_seeds(column) is None


def test_bits_of_probabilities_and_bounds_on_bits_are_separate_columns(copy: Path):
    for name, column in (("2,1", "test_bits_per_dim"), ("10,1", "test_dequantized_bits_per_dim")):
        summary = metrics_log.read_with_digest(copy / name / "summary.json")
        metrics_log.write_with_digest(copy / name / "summary.json", summary | {column: 5.0})
    found = compare([copy])
    columns = {c.label: c for c in found.columns if "bits" in c.name}
    assert set(columns) == {"test bits/dim", "test bits/dim, dequantized (at most)"}
    for row, label in zip(found.rows, columns, strict=True):
        figures = {name: row.over_seeds(column) for name, column in columns.items()}
        assert [name for name, figure in figures.items() if figure] == [label]


def test_the_csv_file_has_the_numbers_of_the_page(sweep: Path):
    found = compare([sweep])
    lines = list(csv.DictReader(io.StringIO(comparison.as_csv(found))))
    content = shown(found, sweep)
    assert [line["model.num_latents"] for line in lines] == ["2", "10"]
    for line, row in zip(lines, content["rows"], strict=True):
        assert (line["finished"], line["unfinished"]) == ("3", "0")
        for column, figure in zip(content["columns"], row["quantities"], strict=True):
            for what in ("mean", "half_width"):
                assert float(line[f"{column['name']}_{what}"]) == figure[what]


def test_curves_and_settings_of_the_page_are_those_of_the_runs(sweep: Path):
    content = shown(compare([sweep]), sweep)
    records = metrics_log.read_records(sweep / "10,3" / "metrics.jsonl")
    assert content["rows"][1]["curves"][2] == metrics_log.curve(records)
    differing = [each for each in content["settings"] if each["differs"]]
    assert differing == [{"name": "model.num_latents", "values": ["2", "10"], "differs": True}]
    assert content["rows"][1]["runs"][0]["page"] == "10%2C1/explorer.html"


def test_pictures_are_embedded_in_the_page_up_to_a_limit(
    copy: Path, monkeypatch: pytest.MonkeyPatch
):
    for number, size in (("2,1", 3000), ("10,1", 6000)):
        (copy / number / "figures" / "samples.png").write_bytes(bytes(size))
    content = shown(compare([copy]), copy)
    assert content["pictures"] == ["samples"]
    assert [len(row["pictures"]["samples"]) for row in content["rows"]] == [4022, 8022]
    monkeypatch.setattr(comparison, "MOST_PICTURES", 5000)
    content = shown(compare([copy]), copy)
    assert [list(row["pictures"]) for row in content["rows"]] == [["samples"], []]


def test_the_report_command_writes_page_and_table_to_the_given_path(copy: Path, tmp_path: Path):
    printed = program("-m", "aevb", "report", copy / "2,1", copy / "10,1").splitlines()
    assert printed[0].split("  ")[0] == "num_latents"
    assert printed[-2:] == [str(copy / "comparison.html"), str(copy / "comparison.csv")]
    first = (copy / "comparison.csv").read_text()
    output = tmp_path / "page.html"
    program("-m", "aevb", "report", copy / "2,1", copy / "10,1", f"--output={output}")
    assert output.is_file()
    assert output.with_suffix(".csv").read_text() == first


def test_the_report_command_takes_absolute_and_relative_folders(
    copy: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(copy)
    assert report.main(["2,1", str(copy / "10,1")]) == 0
    assert (copy / "comparison.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required"),
        (["missing"], "missing is no folder"),
        (["EMPTY"], "holds no run"),
        (["SWEEP", "--output=page.txt"], "page.txt"),
        (["SWEEP", "--output=missing/page.html"], "missing"),
        (["SWEEP", "--sorted"], "--sorted"),
    ],
)
def test_a_wrong_argument_of_the_report_is_refused_in_one_line(
    sweep: Path, tmp_path: Path, arguments: list[str], words: str,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    places = {"SWEEP": str(sweep), "EMPTY": str(tmp_path)}
    assert report.main([places.get(one, one) for one in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_folders_with_only_damaged_runs_are_refused(copy: Path):
    (copy / "2,1" / "config.json").write_text("{")
    with pytest.raises(UserError, match="nothing can be shown"):
        compare([copy / "2,1"])
