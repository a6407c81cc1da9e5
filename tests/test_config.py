"""Checks of a config: which values an experiment file may set, and what is returned."""

from pathlib import Path

import pytest
from configs import FILES, changed, config_of

from aevb import config as choices
from aevb import data, registry
from aevb.algorithms import full_vb
from aevb.config import (
    FIELDS,
    WITHOUT_EFFECT,
    default_config,
    flatten,
    is_field,
    section,
    validate,
)
from aevb.data import kinds
from aevb.errors import UserError


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_experiment_is_valid_and_states_its_command(file: Path):
    config = config_of(file)
    if config.data.name == "file:":  # own_data, which takes the name on the command line
        config.data.name = "synthetic"
    values = validate(config)
    assert {field.name for field in FIELDS} <= values.keys()
    assert all(map(is_field, values))
    assert f"--config=experiments/{file.name}" in file.read_text()


def test_a_config_is_locked():
    with pytest.raises(AttributeError, match="num_latent"):
        default_config().model.num_latent = 3


@pytest.mark.parametrize("kind", registry.NAMES)
def test_the_names_of_a_kind_are_the_entries_of_its_table(kind: str):
    assert tuple(registry.entries(kind)) == registry.NAMES[kind]


def test_the_weight_noises_of_the_config_are_those_of_full_vb():
    assert tuple(full_vb.NOISES) == choices.NOISES


def test_the_kinds_of_values_of_the_config_are_those_of_the_data():
    assert kinds.KINDS == choices.VALUE_KINDS


def test_splits_and_binarizations_in_the_config_are_those_of_the_datasets():
    offered = {name: (e.splits, e.binarizations) for name, e in data.DATASETS.items()}
    assert offered == choices.DATASETS
    assert {prefix: tuple(o) for prefix, (_, *o) in data.PREFIXES.items()} == choices.PREFIXES


def test_an_empty_choice_is_replaced_by_the_default_of_its_dataset():
    faces = changed(data__name="frey_faces")
    assert (faces["data.split"], faces["data.binarization"]) == ("blocked", "none")
    digits = changed(data__name="mnist")
    assert (digits["data.split"], digits["data.binarization"]) == ("standard", "dynamic")
    assert changed(data__name="mnist", data__binarization="none")["data.binarization"] == "none"


def test_a_section_has_its_fields_by_their_last_name():
    values = validate(default_config())
    assert section(values, "optimizer").keys() == {
        "name", "step_size", "schedule", "clip", "clip_at",
    }  # fmt: skip
    assert section(values, "optimizer")["step_size"] == values["optimizer.step_size"]


def test_fields_listed_as_without_effect_exist():
    assert set(WITHOUT_EFFECT) <= flatten(default_config()).keys()


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_default_is_allowed_and_of_the_wrong_type_is_not(field):
    assert field.accepts(field.default)
    assert field.help
    config = default_config()
    wrong = 3 if isinstance(field.default, str) else "three"
    with config.unlocked(), config.ignore_type():
        config.update_from_flattened_dict({field.name: wrong})
    with pytest.raises(UserError, match=field.name):
        validate(config)


def test_a_bool_is_refused_where_a_number_is_expected():
    config = default_config()
    with config.unlocked(), config.ignore_type():
        config.seed = True
    with pytest.raises(UserError, match="seed is True"):
        validate(config)


def test_a_config_without_a_field_or_with_one_too_many_is_refused():
    config = default_config()
    with config.unlocked():
        del config.seed
    with pytest.raises(UserError, match="seed is missing"):
        validate(config)
    config = default_config()
    with config.unlocked():
        config.sede = 1
    with pytest.raises(UserError, match="sede is unknown"):
        validate(config)
