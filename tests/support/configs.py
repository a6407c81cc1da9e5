"""The configs of the experiments, and configs for single tests."""

import importlib.util
from pathlib import Path

from programs import ROOT

from aevb.config import Config, Values, default_config, validate

EXPERIMENTS = ROOT / "experiments"

# All experiments: the files of that folder that define get_config.
FILES = [file for file in sorted(EXPERIMENTS.glob("*.py")) if "def get_config" in file.read_text()]


def config_of(file: Path) -> Config:
    """Returns the config that an experiment's file makes."""
    spec = importlib.util.spec_from_file_location(f"experiment_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def changed(**overrides: object) -> Values:
    """Returns the default config with other values, validated; `a__b=1` sets `a.b`."""
    config = default_config()
    with config.unlocked():
        config.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
    return validate(config)
