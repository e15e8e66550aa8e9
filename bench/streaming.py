"""What streaming costs and saves: a model evaluated and quantized block by block beside the same with all weights in memory.

Writes a synthetic checkpoint (tools/make_synthetic.py; 3 GB by default) unless it is there, then runs rtn on it, streamed
and resident, in processes of their own: seconds and peak memory of every stage, from results.json. The two must give
the same bits. Streamed stages must obey

    peak <= 3 x the largest linear group in the compute dtype + embeddings + min(hidden states, spill_above) + 400 MB

`load` is the pass that reads and counts all weights; that of the full-precision checkpoint, in the compute dtype, is
the last line, from a run that measures nothing.

    .venv/bin/python bench/streaming.py                       # 3 GB below /tmp, removed afterwards
    .venv/bin/python bench/streaming.py --preset small        # seconds, to see that it works
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLOAT = 4  # bytes of the compute dtype
MB = 1e6


def rule(config, a):
    """Bytes that a streamed stage may need, by the shape in config.json."""
    width, ffn = config["hidden_size"], config["intermediate_size"]
    heads, keys = config["num_attention_heads"] * config["head_dim"], config["num_key_value_heads"] * config["head_dim"]
    group = max((heads + 2 * keys) * width, heads * width, 2 * ffn * width) * FLOAT
    embeddings = config["vocab_size"] * width * FLOAT * (1 if config["tie_word_embeddings"] else 2)
    hidden = a.windows * a.seq_len * width * FLOAT
    return 3 * group + embeddings + min(hidden, a.spill_above * 1e9) + 400 * MB


def run(model, residency, a, folder, method="rtn"):
    """results.json and windows.csv of one run in a fresh process and directory; method none: without measurements."""
    config, out = folder / f"{residency}.yaml", folder / residency
    measured = "" if method == "none" else f"{{corpus: {a.corpus}, seq_len: {a.seq_len}, windows: {a.windows}}}"
    config.write_text(
        f"name: bench\nmodel: {{path: {model}, residency: {residency}, spill_above: {a.spill_above}}}\n"
        f"quant: {{method: {method}, weight: {{bits: 4, group_size: 64}}}}\n"
        f"measure: {{batch_tokens: {a.batch_tokens}, perplexity: [{measured}]}}\n"
    )
    command = [a.launcher, "--no-build", config, "--out", out, "--threads", str(a.threads), "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    file = next(out.glob("bench/*/results.json"))
    results, windows = json.loads(file.read_text()), (file.parent / "windows.csv").read_text()
    shutil.rmtree(out)  # the checkpoint is large
    return results, windows


def stages_of(results):
    return {stage["name"]: stage for stage in results["stages"]}


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", type=Path, help="an existing checkpoint; without it one is written and removed")
    p.add_argument("--preset", default="3gb", help="of tools/make_synthetic.py")
    p.add_argument("--corpus", default="tiny/test")
    p.add_argument("--seq-len", type=int, default=256)
    p.add_argument("--windows", type=int, default=8)
    p.add_argument("--batch-tokens", type=int, default=1024)
    p.add_argument("--spill-above", type=float, default=1.0, help="GB of hidden states in memory")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--launcher", type=Path, default=ROOT / "run_experiment", help="of the build to time")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model = a.model.resolve() if a.model else folder / "model"
        if not a.model:
            tool = ROOT / "tools/make_synthetic.py"
            subprocess.run([sys.executable, tool, "--preset", a.preset, "--out", model], check=True)
        config = json.loads((model / "config.json").read_text())
        limit = rule(config, a)
        size = sum(file.stat().st_size for file in model.glob("*.safetensors"))
        runs = {residency: run(model, residency, a, folder) for residency in ("stream", "resident")}
        loaded = stages_of(run(model, "resident", a, folder, method="none")[0])["load"]
    (streamed, streamed_windows), (resident, resident_windows) = runs["stream"], runs["resident"]
    same = streamed_windows == resident_windows and streamed["hashes"]["codes"] == resident["hashes"]["codes"]
    print(f"{size / 1e9:.2f} GB, {a.windows} windows of {a.seq_len} tokens, {a.threads} threads, "
          f"load {os.getloadavg()[0]:.1f}, rule {limit / MB:.0f} MB\n")
    print("| stage | streamed s | resident s | ratio | streamed MB | resident MB | rule |")
    print("|---|---|---|---|---|---|---|")
    obeyed = True
    for name, one in stages_of(streamed).items():
        other = stages_of(resident)[name]
        kept = one["peak_rss_bytes"] <= limit
        obeyed &= kept
        ratio = f"{one['seconds'] / other['seconds']:.2f}" if other["seconds"] > 0.1 else "–"
        print(f"| {name} | {one['seconds']:.1f} | {other['seconds']:.1f} | {ratio} | {one['peak_rss_bytes'] / MB:.0f} | "
              f"{other['peak_rss_bytes'] / MB:.0f} | {'kept' if kept else 'BROKEN'} |")
    print(f"\nfull precision loaded in {loaded['seconds']:.1f} s, {loaded['peak_rss_bytes'] / MB:.0f} MB")
    print(f"windows and codes are {'the same bit for bit' if same else 'DIFFERENT'}")
    sys.exit(0 if same and obeyed else 1)


if __name__ == "__main__":
    main()
