"""The section of docs/speed.md on accelerators, for small results files."""

import json
from pathlib import Path
from typing import Any

import pytest

from docs.tools import accelerator


def speed(median: float) -> dict[str, float]:
    return {"median": median, "min": 0.5 * median, "max": 2 * median}


def single(precision: str, examples: float, **more: Any) -> dict[str, Any]:
    return {
        "network": "mlp", "batch_size": 1000, "precision": precision, **more,
        "examples_per_second": speed(examples), "tflop_per_second": 4e-6 * examples,
    }  # fmt: skip


def failed(precision: str, **more: Any) -> dict[str, Any]:
    return {
        "network": "mlp",
        "batch_size": 1000,
        "precision": precision,
        **more,
        "error": "no room",
    }


SWEEP = {
    "members": 4, "examples_a_member": 2_000_000, "test_bound": {"3": -150.04, "5": -130.0},
    "examples_per_second": speed(40_000.0), "tflop_per_second": 0.1,
    "extrapolated": {"examples_a_member": 10**8, "hours": 2.7778},
}  # fmt: skip
REPORT = {
    "command": "c", "date": "2026-11-30T10:00:00+00:00", "device": {"kind": "GPU A"},
    "versions": {"jax": "0.10.2"}, "torch": "2.13.0", "quick": False,
    "cells": {
        "mlp M=1000 float32": single("float32", 2_000_000.0),
        "conv M=100 float32": {**single("float32", 1000.0), "network": "conv", "batch_size": 100},
        "mlp M=1000 bfloat16": failed("bfloat16"),
        "stack S=2": {"members": 2, "examples_per_second": speed(3e6), "tflop_per_second": 12.0},
        "stack S=4": {"members": 4, "error": "no room"},
        "importance": {
            "num_samples": 5000, "images": 50, "images_per_second": speed(1234.0),
            "tflop_per_second": 5.0,
        },
        "sweep": SWEEP,
        "torch mlp M=1000 float32 graphs": single("float32", 500_000.0, way="graphs"),
    },
    "not_measured": {"torch conv M=100 float32 graphs": "too little time"},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "gpu").mkdir()
    (tmp_path / "gpu" / "accelerator.json").write_text(json.dumps(REPORT))
    return tmp_path


def test_without_results_of_an_accelerator_one_sentence_names_the_command(tmp_path: Path):
    section = accelerator.section(tmp_path)
    assert "\n" not in section
    assert "make bench-gpu DATA=FOLDER" in section


def test_the_tables_of_an_accelerator_have_each_measurement_in_its_place(folder: Path):
    lines = accelerator.section(folder).splitlines()
    assert lines[0].startswith("One GPU A, jax 0.10.2, PyTorch 2.13.0, 2026-11-30.")
    assert "not for publication" not in lines[0]
    expected = (
        "| examples/s (TFLOP/s) | MLP, M = 1,000 | convolutions, M = 100 |",
        "| aevb, float32 | 2,000,000 (8) | 1,000 (0.004) |",
        "| aevb, bfloat16 | failed | not measured |",
        "| PyTorch, `torch.compile` with CUDA graphs, float32 | 500,000 (2) | not measured |",
        "| S = 2 | 3,000,000 (12) | 1,500,000 |",
        "| S = 4 | failed |  |",
    )
    assert [line for line in expected if line not in lines] == []


def test_the_time_of_a_whole_sweep_is_called_extrapolated(folder: Path):
    section = accelerator.section(folder)
    assert "4 members in one program, trains 10,000 examples/s of each member" in section
    assert "After 2,000,000 examples each" in section
    assert "-150.0 (Z = 3), -130.0 (Z = 5) nats" in section
    assert "Extrapolated from this speed, 100,000,000 examples of each member take 2.78" in section


def test_cells_that_failed_or_were_not_measured_are_named(folder: Path):
    section = accelerator.section(folder)
    assert "Failed: mlp M=1000 bfloat16 (no room); stack S=4 (no room)." in section
    assert "Not measured: torch conv M=100 float32 graphs." in section


def test_a_file_of_tiny_models_says_that_it_is_not_for_publication(folder: Path):
    path = folder / "gpu" / "accelerator.json"
    (folder / "tpu").mkdir()
    (folder / "tpu" / "accelerator.json").write_text(json.dumps({**REPORT, "quick": True}))
    assert accelerator.section(folder).count("not for publication") == 1
    path.unlink()
    assert accelerator.section(folder).count("One GPU A") == 1
