"""What the cache and the shared inputs of a sweep save: one sweep against the same points as separate runs.

The separate runs are separate calls of the program, each with a results directory of its own, so that nothing is shared:
every one tokenizes the text, hashes the model and measures the full-precision baseline. The sweep is one call. A last
line shows the same sweep once more with its runs finished. Perplexities must be equal, point by point.

    .venv/bin/python bench/cached_sweep.py
    REFRAIN_DATA=<test data> .venv/bin/python bench/cached_sweep.py --model wiki-qwen3 --corpus wikitext2/test \\
        --seq-len 512 --windows 100
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BITS, GROUPS = [8, 4, 3, 2], [128, 64, 32]


def write_config(file, a, bits, groups):
    file.write_text(
        f"name: bench\nmodel: {{path: {a.model}}}\nquant: {{method: rtn}}\ncheckpoint: discard\n"
        f"measure:\n  perplexity: [{{corpus: {a.corpus}, seq_len: {a.seq_len}, windows: {a.windows}}}]\n"
        f"sweep:\n  grid: {{quant.weight.bits: {bits}, quant.weight.group_size: {groups}}}\n"
    )


def perplexities(out):
    """{(bits, group size): perplexity} of every run below `out`."""
    found = {}
    for file in out.glob("bench/*/results.json"):
        results = json.loads(file.read_text())
        point = tuple(results["swept"][f"quant.weight.{key}"] for key in ("bits", "group_size"))
        found[point] = results["quantized"]["perplexity"][0]["ppl"]
    return found


def seconds(a, config, out):
    command = [a.launcher, "--no-build", config, "--out", out, "--threads", str(a.threads), "--quiet"]
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def run(a):
    """Seconds of the sweep, of all separate runs together, and of the finished sweep."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        config, out = folder / "sweep.yaml", folder / "sweep"
        write_config(config, a, BITS, GROUPS)
        sweep = seconds(a, config, out)
        finished = seconds(a, config, out)
        separate, alone = 0.0, {}
        for bits in BITS:
            for group in GROUPS:
                point, place = folder / "point.yaml", folder / f"{bits}-{group}"
                write_config(point, a, [bits], [group])
                separate += seconds(a, point, place)
                alone |= perplexities(place)
        if alone != perplexities(out):
            sys.exit("the sweep and the separate runs differ: no ratio is printed")
        return sweep, separate, finished


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", default="tiny-qwen3")
    p.add_argument("--corpus", default="tiny/test")
    p.add_argument("--seq-len", type=int, default=256)
    p.add_argument("--windows", type=int, default=0, help="0: all")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--launcher", type=Path, default=ROOT / "run_experiment", help="of the build to time")
    a = p.parse_args()
    sweep, separate, finished = run(a)
    points = len(BITS) * len(GROUPS)
    print(f"{a.model} on {a.corpus}, {a.threads} threads, load {os.getloadavg()[0]:.1f}\n")
    print("| points | separate runs s | one sweep s | ratio | finished sweep s |\n|---|---|---|---|---|")
    print(f"| {points} | {separate:.1f} | {sweep:.1f} | {separate / sweep:.2f} | {finished:.1f} |")


if __name__ == "__main__":
    main()
