"""Mixtures of experts: a forward pass beside the peer's, and what calibrating and quantizing an expert takes.

Forward passes are compared as bench/perplexity.py does it: tiny-deepseek-moe and wiki-deepseek-moe with the plain
mixture of tools/tiny_moe.py (one product per expert, on its tokens), a synthetic DeepSeek-V2 of 32 experts
(tools/make_synthetic.py) with transformers. Then gptq at 3 bits: `quantize` of results.json, of it the seconds of
modules.csv that belong to experts (measuring their inputs, and their codes), per expert.

    REFRAIN_DATA=<test data> .venv/bin/python bench/moe.py
    .venv/bin/python bench/moe.py --models tiny-deepseek-moe --repetitions 2
"""

import argparse
import csv
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import perplexity as forward

ROOT = forward.ROOT


def cases(synthetic):
    tiny, wiki = (ROOT / "data/corpora/tiny/test.txt", forward.cases(synthetic)["wiki-qwen3"].text)
    return {
        "tiny-deepseek-moe": forward.Case(ROOT / "data/tiny-deepseek-moe", tiny, 256, 40, 240),
        "wiki-deepseek-moe": forward.Case(forward.DATA / "models/wiki-deepseek-moe", wiki, 512, 32, 192),
        "synthetic": forward.Case(synthetic, tiny, 256, 8, 40),
    }


def quantize(case, a, folder):
    """(seconds of the stage, seconds of experts, experts) of gptq at 3 bits."""
    config, out = folder / "moe.yaml", folder / "out"
    config.write_text(
        f"name: bench\nmodel: {{path: {case.model}, dtype: float32}}\n"
        "quant: {method: gptq, weight: {bits: 3, group_size: 64}}\n"
        f"calibration: {{corpus: {case.text}, samples: {a.samples}, seq_len: {case.seq_len}}}\n"
        f"measure: {{perplexity: [{{corpus: {case.text}, seq_len: {case.seq_len}, windows: 2}}]}}\n"
    )
    command = [a.launcher, "--no-build", config, "--out", out, "--threads", str(a.threads), "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    results = next(out.glob("bench/*/results.json"))
    stage = next(s["seconds"] for s in json.loads(results.read_text())["stages"] if s["name"] == "quantize")
    with open(results.parent / "modules.csv", newline="") as file:
        rows = [(re.match(r".*\.experts\.\d+", row["path"]), float(row["seconds"])) for row in csv.DictReader(file)]
    of_experts = [(match[0], seconds) for match, seconds in rows if match]
    return stage, sum(seconds for _, seconds in of_experts), len({path for path, _ in of_experts})


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = list(cases(Path()))
    p.add_argument("--models", nargs="+", choices=names, default=names)
    p.add_argument("--synthetic", type=Path, help="that model's directory; without it one is written and removed")
    p.add_argument("--samples", type=int, default=32, help="windows of the text on which gptq measures inputs")
    p.add_argument("--launcher", type=Path, default=ROOT / "run_experiment", help="of the build to time")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--batch-tokens", type=int, default=1024)
    p.add_argument("--repetitions", type=int, default=5)
    p.set_defaults(dtype="float32")
    a = p.parse_args()
    forward.describe_machine(a)
    rows, quantized = [], []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        synthetic = a.synthetic or folder / "model"
        if "synthetic" in a.models and not (synthetic / "config.json").exists():
            tool = ROOT / "tools/make_synthetic.py"
            subprocess.run([sys.executable, tool, "--preset", "small-moe", "--out", synthetic], check=True)
        for name in a.models:
            case = cases(synthetic)[name]
            if not case.model.exists():
                sys.exit(f"moe: {case.model} is not there. Set REFRAIN_DATA to the directory of the test data.")
            with tempfile.TemporaryDirectory() as inner:
                rows.append(forward.row(name, case, *forward.compare(case, a, Path(inner))))
                stage, seconds, experts = quantize(case, a, Path(inner))
            quantized.append([name, f"{a.samples} x {case.seq_len}", f"{stage:.1f}", experts, f"{seconds:.1f}",
                              f"{1000 * seconds / experts:.0f}"])
            gc.collect()
            print(f"{name}: done, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
    forward.print_table(rows, peer="peer tok/s")
    print("\n| model | calibration | quantize s | experts | of them s | ms per expert |\n|---|---|---|---|---|---|")
    for cells in quantized:
        print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
