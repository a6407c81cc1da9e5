"""The preview of data, `aevb data`: what it finds, and what it prints and draws."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aevb.cli import data as command
from aevb.data import Dataset, Labels, preprocessing, preview
from aevb.data.io import tables
from aevb.reports import data_pictures


def dataset(x: np.ndarray, num_train: int, **others: object) -> Dataset:
    fields = {"kind": "real", "preprocess": preprocessing.unchanged, "image_shape": None}
    made = Dataset("own", train=x[:num_train], test=x[num_train:], levels=None, **(fields | others))  # pyright: ignore[reportArgumentType]
    return made


def brute_force(x: np.ndarray, num_train: int) -> preview.Findings:
    number, columns = x.shape
    constant = [c for c in range(columns) if len(set(x[:, c])) == 1]
    equal = [
        (c, next(first for first in range(c + 1) if np.array_equal(x[:, c], x[:, first])))
        for c in range(columns)
        if c not in constant
    ]
    same = np.array([[np.array_equal(a, b) for a in x] for b in x])
    return preview.Findings(
        num_seen=number,
        low=min(x.ravel()),
        high=max(x.ravel()),
        mean=pytest.approx(sum(x.ravel().tolist()) / x.size, abs=1e-9),  # pyright: ignore[reportArgumentType]
        is_whole=all(value == int(value) for value in x.ravel()),
        num_missing=0,
        constant=tuple(constant),
        equal=tuple((c, first) for c, first in equal if first < c),
        num_repeated=sum(bool(same[i, :i].any()) for i in range(number)),
        num_leaked=sum(bool(same[i, :num_train].any()) for i in range(num_train, number)),
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_findings_are_those_of_a_comparison_of_all_pairs(dtype: type):
    random = np.random.default_rng(0)
    for most in (2, 2, 3, 50):
        x = random.integers(0, most, (20, 5)).astype(dtype)
        x[:, 3] = x[:, 0]
        x[:, 1] = x[:, 4] = 1
        assert preview.look(dataset(x, 14)) == brute_force(x, 14)


def test_zeros_of_either_sign_are_equal():
    x = np.array([[0.0, 1.0], [-0.0, 1.0], [2.0, 3.0]], np.float32)
    findings = preview.look(dataset(x, 2))
    assert (findings.num_repeated, findings.num_leaked) == (1, 0)
    assert np.signbit(x[1, 0])  # the data stay as they are


def test_numbers_that_are_not_whole_are_seen():
    assert not preview.look(dataset(np.array([[0.5], [1.0]], np.float32), 1)).is_whole


def test_evenly_spaced_datapoints_of_large_data_are_compared(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preview, "MOST_VALUES", 30)
    x = np.arange(200, dtype=np.float32).reshape(100, 2)
    findings = preview.look(dataset(x, 50))
    assert findings.num_seen == 16  # every seventh of each split
    assert (findings.low, findings.high) == (0.0, 2 * (50 + 49) + 1.0)


# Pictures


def pixels_of(picture: object) -> np.ndarray:
    (axes,) = picture.axes  # pyright: ignore[reportAttributeAccessIssue]
    return np.asarray(axes.images[0].get_array())


def test_a_picture_has_the_first_hundred_training_images_in_their_order():
    x = np.arange(130 * 6, dtype=np.uint32).reshape(130, 6) % 256
    data = dataset(x.astype(np.uint8), 110, kind="grey", image_shape=(2, 3))
    shown = pixels_of(data_pictures.picture(data, []))
    assert shown.shape == (20, 30)
    for number in (0, 1, 10, 99):
        row, column = divmod(number, 10)
        image = shown[2 * row : 2 * row + 2, 3 * column : 3 * column + 3]
        np.testing.assert_allclose(image, x[number].reshape(2, 3) / 255, rtol=1e-6)


def test_a_picture_of_few_images_is_white_where_there_is_none():
    data = dataset(np.zeros((14, 4), np.uint8), 12, kind="binary", image_shape=(2, 2))
    shown = pixels_of(data_pictures.picture(data, []))
    assert shown.shape == (4, 20)
    assert not shown[:2].any()
    assert not shown[2:, :4].any()
    assert np.all(shown[2:, 4:] == 1)


def test_a_picture_of_classes_has_a_row_for_each():
    classes = np.array([0] * 12 + [1] * 3 + [0, 1])
    x = (100 * classes[:, None] + np.arange(17)[:, None]).astype(np.uint8)
    labels = Labels(("ape", "数据"), classes[:15], classes[15:])
    data = dataset(x, 15, kind="grey", image_shape=(1, 1), labels=labels)
    picture = data_pictures.picture(data, [])
    expected = np.full((2, 10), 255.0)
    expected[0], expected[1, :3] = np.arange(10), [112, 113, 114]
    np.testing.assert_allclose(255 * pixels_of(picture), expected, rtol=1e-6)
    assert [label.get_text() for label in picture.axes[0].get_yticklabels()] == ["ape", "数据"]


def test_other_data_have_a_histogram_for_each_of_the_first_columns():
    x = np.random.default_rng(0).normal(size=(60, 30)).astype(np.float32)
    names = [f"column {number}" for number in range(30)]
    panels = data_pictures.picture(dataset(x, 50), names).axes
    assert [axes.get_title() for axes in panels] == names[: data_pictures.MOST_COLUMNS]
    for axes in panels:
        assert sum(bar.get_height() for bar in axes.containers[0]) == 50


# The command


def write_table(folder: Path) -> str:
    x = np.random.default_rng(0).normal(size=(20, 3))
    x[19] = x[0]
    table = np.column_stack([x, x[:, 1], np.full(20, 7.0)])
    rows = [",".join(map(str, row)) for row in table]
    text = "\n".join(["größe,b,c,数据,e", *rows])
    (folder / "own.csv").write_text(text, encoding="utf-8")
    return f"file:{folder / 'own.csv'}"


def test_the_command_describes_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert command.main([write_table(tmp_path)]) == 0
    text = capsys.readouterr().out
    rows = dict(re.findall(r"^(\w+): +(.*)$", text, re.MULTILINE))
    assert rows["data"] == "file:own.csv"
    assert rows["datapoints"] == "20, of 5 columns"
    assert rows["kind"].startswith("real (guessed: numbers that are not all in [0, 1];")
    assert rows["likelihoods"] == "gaussian, gaussian_shared, student_t"
    assert "to 7, mean" in rows["values"]
    assert rows["constant"].startswith("1 of 5 columns: e; a Gaussian")
    assert rows["equal"] == "1 of 5 columns: 数据 = b"
    assert rows["repeated"].startswith("1 datapoints are equal to an earlier one; 1 of validation")
    assert rows["split"].startswith("blocked, blocks in the order of the data: 14 for training, 2")
    assert [*tmp_path.iterdir()] == [tmp_path / "own.csv"]


def test_the_command_takes_the_fields_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    name = write_table(tmp_path)
    flags = ["--config.data.kind=real", "--config.data.split=random", "--config.data.num_train=5"]
    assert command.main([name, *flags]) == 0
    text = capsys.readouterr().out
    assert "real (as config.data.kind states)" in text
    assert "random, a permutation with a fixed seed: 5 for training, 2 for validation and 2" in text
    assert command.main(["--config=frey_faces"]) == 0
    assert "1,965, of 28 x 20 pixels" in capsys.readouterr().out
    assert command.main(["synthetic", "--config.data.synthetic_num_train=50"]) == 0
    assert "standard: 50 for training" in capsys.readouterr().out


def test_the_command_describes_class_folders_and_draws_them_into_a_new_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for name in ("ape", "bee"):
        (tmp_path / "own" / name).mkdir(parents=True)
        for number in range(10):
            image = Image.fromarray(np.full((4, 4), number, np.uint8))
            image.save(tmp_path / "own" / name / f"{number}.png")
    picture = tmp_path / "own.png"
    arguments = [f"images:{tmp_path / 'own'}", f"--picture={picture}"]
    assert command.main(arguments) == 0
    text = capsys.readouterr().out
    assert "2, for training + validation + test: ape 7 + 1 + 2, bee 7 + 1 + 2" in text
    assert ", of each class: 14 for training" in text
    assert text.splitlines()[-1] == str(picture)
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert command.main(arguments) == 2
    assert "exists; name a new file" in capsys.readouterr().err
    assert picture.read_bytes() == content


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "NAME is missing"),
        (["nowhere"], "'nowhere'"),
        (["file:none.csv"], "which is no file"),
        (["frey_faces", "--picture=faces.gif"], "FILE.png"),
        (["frey_faces", "--picture=none/faces.png"], "does not exist"),
        (["frey_faces", "--config.data.splt=random"], "data.splt is unknown"),
        (["frey_faces", "more"], "'more' is not a flag"),
    ],
)
def test_a_wrong_argument_of_the_command_is_refused_in_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
):
    assert command.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_names_of_columns_are_read_without_the_rows(tmp_path: Path):
    import pyarrow
    from pyarrow import parquet

    write_table(tmp_path)
    names = ("größe", "b", "c", "数据", "e")
    assert tables.column_names(tmp_path / "own.csv") == names
    parquet.write_table(pyarrow.table({name: [1] for name in names}), tmp_path / "own.parquet")
    assert tables.column_names(tmp_path / "own.parquet") == names
    (tmp_path / "bare.tsv").write_text("1\t2\n3\t4\n", encoding="utf-8")
    assert tables.column_names(tmp_path / "bare.tsv") is None
    assert tables.column_names(tmp_path / "own.npy") is None
