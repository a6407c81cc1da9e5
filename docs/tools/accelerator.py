"""The section of docs/speed.md on accelerators, from the results of accelerator.py."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .documents import BENCHMARKS, read, table

KINDS = ("gpu", "tpu")
NO_RESULTS = (
    "No results of an accelerator are published yet; `make bench-gpu DATA=FOLDER` makes them, and "
    "then `python -m docs.tools` writes them here."
)
PRECISIONS = {"float32": "float32", "tensorfloat32": "TF32", "bfloat16": "bfloat16"}
WAYS = {
    "eager": "PyTorch",
    "compile": "PyTorch, `torch.compile`",
    "graphs": "PyTorch, `torch.compile` with CUDA graphs",
}
NETWORKS = {"mlp": "MLP", "conv": "convolutions"}
Record = Mapping[str, Any]


def section(folder: Path = BENCHMARKS) -> str:
    """Returns the tables of every accelerator with a results file, or a sentence if none has one.

    Args:
        folder: the results of the benchmarks, in which each kind of accelerator has a folder.
    """
    files = [folder / kind / "accelerator.json" for kind in KINDS]
    parts = [part for file in files if file.exists() for part in parts_of(read(file))]
    return "\n\n".join(parts) or NO_RESULTS


def parts_of(report: Record) -> Iterator[str]:
    """Yields the paragraphs and tables of one results file."""
    yield _heading(report)
    yield single_table(report["cells"])
    yield stack_table(report["cells"])
    measured = {name: each for name, each in report["cells"].items() if "error" not in each}
    if "sweep" in measured:
        yield _sweep(measured["sweep"])
    if "importance" in measured:
        yield _importance(measured["importance"])
    failed = [
        f"{name} ({each['error']})" for name, each in report["cells"].items() if "error" in each
    ]
    if failed:
        yield f"Failed: {'; '.join(failed)}."
    if report["not_measured"]:
        yield f"Not measured: {', '.join(report['not_measured'])}."


def _heading(report: Record) -> str:
    device, versions = report["device"], report["versions"]
    peer = f", PyTorch {report['torch']}" if report["torch"] else ""
    quick = " These are tiny models, and not for publication." if report["quick"] else ""
    return (
        f"One {device['kind']}, jax {versions['jax']}{peer}, {report['date'][:10]}.{quick} Each "
        "number is a median over rounds after a warm-up. TFLOP/s counts only the matrix products "
        "of a step, from their shapes."
    )


def single_table(cells: Record) -> str:
    """Returns examples/s of single runs: a row for each library, way and precision."""
    records = [each for each in cells.values() if "network" in each]
    columns = {(each["network"], each["batch_size"]): _column(each) for each in records}
    rows = {_contender(each): _title(each) for each in records}
    found = {(_contender(each), each["network"], each["batch_size"]): each for each in records}
    return table(
        {"examples/s (TFLOP/s)": title}
        | {name: _speed(found.get((contender, *model))) for model, name in columns.items()}
        for contender, title in rows.items()
    )


def _column(record: Record) -> str:
    return f"{NETWORKS[record['network']]}, M = {record['batch_size']:,}"


def _contender(record: Record) -> tuple[str, str]:
    return record.get("way", ""), record["precision"]


def _title(record: Record) -> str:
    return f"{WAYS.get(record.get('way', ''), 'aevb')}, {PRECISIONS[record['precision']]}"


def _speed(record: Record | None) -> str:
    if record is None:
        return "not measured"
    if "error" in record:
        return "failed"
    return f"{record['examples_per_second']['median']:,.0f} ({record['tflop_per_second']:.2g})"


def stack_table(cells: Record) -> str:
    """Returns examples/s of S runs in one program, of all members together and of each."""
    stacks = [each for name, each in cells.items() if name.startswith("stack ")]
    return table(
        {
            "runs in one program": f"S = {each['members']}",
            "all together: examples/s (TFLOP/s)": _speed(each),
            "each: examples/s": ""
            if "error" in each
            else f"{each['examples_per_second']['median'] / each['members']:,.0f}",
        }
        for each in stacks
    )


def _sweep(record: Record) -> str:
    speed = record["examples_per_second"]["median"] / record["members"]
    bounds = ", ".join(f"{bound:.1f} (Z = {Z})" for Z, bound in record["test_bound"].items())
    extrapolated = record["extrapolated"]
    return (
        f"The paper's sweep on binarized MNIST, {record['members']} members in one program, "
        f"trains {speed:,.0f} examples/s of each member. After {record['examples_a_member']:,} "
        f"examples each, the mean test bounds over the seeds are {bounds} nats. Extrapolated from "
        f"this speed, {extrapolated['examples_a_member']:,} examples of each member take "
        f"{extrapolated['hours']:.3g} hours, without evaluations, checkpoints and figures."
    )


def _importance(record: Record) -> str:
    return (
        f"log p(x) by importance sampling with K = {record['num_samples']:,}: "
        f"{record['images_per_second']['median']:,.3g} images/s "
        f"({record['tflop_per_second']:.2g} TFLOP/s), {record['images']} images at a time. It, the "
        "stacks and the sweep have jax's default precision of products."
    )


TABLES: Mapping[str, Callable[[], str]] = {"accelerator": section}
