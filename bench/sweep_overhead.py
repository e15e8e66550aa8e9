"""What a sweep point costs beyond its own quantization and measurement: at most 5 % is the goal.

Runs a sweep by rtn over some bit widths and looks at every point but the first, which pays for tokenizing, hashing and
the full-precision baseline of all. A point's wall time is the time from the previous point's results.json to its own:
everything that happens in between counts, wherever it happens. Its own work are the stages `quantize` (which includes
writing the checkpoint) and `perplexity` of its results.json.

    .venv/bin/python bench/sweep_overhead.py
    REFRAIN_DATA=<test data> .venv/bin/python bench/sweep_overhead.py --model wiki-qwen3 --corpus wikitext2/test \\
        --seq-len 512 --windows 100
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GOAL = 0.05


def write_config(file, a):
    file.write_text(
        f"name: bench\nmodel: {{path: {a.model}}}\nquant: {{method: rtn, weight: {{group_size: 64}}}}\n"
        f"measure:\n  perplexity: [{{corpus: {a.corpus}, seq_len: {a.seq_len}, windows: {a.windows}}}]\n"
        f"sweep:\n  grid: {{quant.weight.bits: {a.bits}}}\n"
    )


def points_of(out):
    """(label, wall seconds, own seconds) of every point but the first, in the order in which they ran."""
    files = sorted(out.glob("bench/*/results.json"), key=lambda file: file.stat().st_mtime_ns)
    points = []
    for before, file in zip(files, files[1:]):
        results = json.loads(file.read_text())
        stages = {stage["name"]: stage["seconds"] for stage in results["stages"]}
        wall = (file.stat().st_mtime_ns - before.stat().st_mtime_ns) / 1e9
        label = " ".join(f"{key.split('.')[-1]} {value}" for key, value in results["swept"].items())
        points.append((label, wall, stages["quantize"] + stages["perplexity"]))
    return points


def run(a):
    with tempfile.TemporaryDirectory() as folder:
        config, out = Path(folder) / "bench.yaml", Path(folder) / "runs"
        write_config(config, a)
        command = [a.launcher, "--no-build", config, "--out", out, "--threads", str(a.threads), "--quiet"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return points_of(out)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", default="tiny-qwen3")
    p.add_argument("--corpus", default="tiny/test")
    p.add_argument("--seq-len", type=int, default=256)
    p.add_argument("--windows", type=int, default=0, help="0: all")
    p.add_argument("--bits", type=int, nargs="+", default=[8, 4, 3, 2, 5, 6], help="one point each")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--launcher", type=Path, default=ROOT / "run_experiment", help="of the build to time")
    a = p.parse_args()
    points = run(a)
    print(f"{a.model} on {a.corpus}, {a.threads} threads, load {os.getloadavg()[0]:.1f}\n")
    print("| point | wall s | quantize + measure s | beyond |\n|---|---|---|---|")
    for label, wall, own in points:
        print(f"| {label} | {wall:.3f} | {own:.3f} | {wall / own - 1:+.1%} |")
    median = statistics.median(wall / own - 1 for _, wall, own in points)
    print(f"\nmedian {median:+.1%}, goal at most {GOAL:+.0%}")
    sys.exit(0 if median <= GOAL else 1)


if __name__ == "__main__":
    main()
