"""Prints the results of a sweep over methods, bits and group sizes as one table: perplexity by group size.

Reads the results.json of every finished run below the given directories, which must have measured the same tokens and,
where they were calibrated, on the same tokens. A method has a row per bit width, range and grid; a row with the bits
that are stored per weight stands above the rows of the same grid.

    .venv/bin/python tools/grid_table.py runs/methods/grid
    .venv/bin/python tools/grid_table.py runs/methods/grid --value kl_mean
"""

import argparse
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Row:
    method: str
    grid: str  # symmetry, range and every other swept key but bits and group size
    stored: dict = field(default_factory=dict)  # group size: bits per weight with parameters
    values: dict = field(default_factory=dict)  # group size: the value
    fallbacks: int = 0


def runs_below(folders):
    """Every results.json below, with its swept keys by their last names."""
    for folder in folders:
        for file in sorted(folder.glob("*/results.json")):
            results = json.loads(file.read_text())
            yield {key.split(".")[-1]: value for key, value in results["swept"].items()}, results


def require_one(values, what):
    if len({value for value in values if value is not None}) > 1:
        sys.exit(f"grid_table: the runs differ in their {what}. Give runs that can be compared.")


def rows_of(runs, value):
    """{bits: {(method, grid): Row}}"""
    table = {}
    for swept, results in runs:
        beside = [swept.get("symmetry", "asymmetric"), swept.get("range", "minmax")]
        known = ("method", "bits", "group_size", "symmetry", "range")
        beside += [f"{key} {given}" for key, given in swept.items() if key not in known]
        method, grid, size = swept["method"], ", ".join(beside), int(swept["group_size"])
        row = table.setdefault(int(swept["bits"]), {}).setdefault((method, grid), Row(method, grid))
        row.stored[size] = results["bits"]["with_parameters"]
        row.values[size] = results["quantized"]["perplexity"][0][value]
        row.fallbacks += len(results["fallbacks"])
    return table


def line(cells):
    print("| " + " | ".join(cells) + " |")


def print_table(table, sizes):
    line(["bits", "grid", "method"] + ["row" if size == -1 else f"g{size}" for size in sizes])
    print("|" + "---|" * (3 + len(sizes)))
    shown = lambda numbers: [f"{numbers[size]:.4f}" if size in numbers else "" for size in sizes]
    for bits in sorted(table, reverse=True):
        stored = None
        for row in sorted(table[bits].values(), key=lambda row: (row.grid.split(",")[0], row.method, row.grid)):
            if shown(row.stored) != stored:
                stored = shown(row.stored)
                line([str(bits), row.grid.split(",")[0], "*bits per weight*"] + [cell and f"*{cell}*" for cell in stored])
            line(["", row.grid.split(", ", 1)[1], row.method] + shown(row.values))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("folders", nargs="+", type=Path, help="runs/<name> of a sweep")
    p.add_argument("--value", default="ppl", help="of quantized.perplexity[0]: ppl, kl_mean, top1_agreement, ...")
    a = p.parse_args()
    runs = list(runs_below(a.folders))
    if not runs:
        sys.exit(f"grid_table: no results.json below {', '.join(map(str, a.folders))}.")
    require_one([results["hashes"]["model"] for _, results in runs], "models")
    require_one([results["hashes"]["calibration_tokens"] for _, results in runs], "calibration tokens")
    require_one([results["quantized"]["perplexity"][0]["token_hash"] for _, results in runs], "measured tokens")
    sizes = sorted({int(swept["group_size"]) for swept, _ in runs}, key=lambda size: (size == -1, size))
    table = rows_of(runs, a.value)
    print_table(table, sizes)
    full = runs[0][1]["baseline"]["perplexity"][0]
    print(f"\nPerplexity in full precision: {full['ppl']:.4f} ± {full['ppl_stderr']:.4f}")
    for row in [row for rows in table.values() for row in rows.values() if row.fallbacks]:
        print(f"{row.method}, {row.grid}: {row.fallbacks} linears were rounded to nearest instead")


if __name__ == "__main__":
    main()
