"""What streaming costs and saves: a model evaluated and quantized block by block beside the same with all weights in memory.

Writes a synthetic checkpoint (tools/make_synthetic.py; 3 GB by default) unless it is there, then runs a method on it,
streamed and resident, in processes of their own: seconds and peak memory of every stage, from results.json. The two
must give the same bits. Streamed stages must obey

    peak <= 3 x the largest linear group in the compute dtype + embeddings + min(hidden states, spill_above) + 400 MB

and of gptq, `quantize` may take 4 x the largest Hessian in float32 on top. The experts of a mixture are groups of their
own, one of which is in memory at a time. With --streamed-only nothing is compared with a resident run, which has
everything in memory and takes as long again.

`load` is the pass that reads and counts all weights; that of the full-precision checkpoint, in the compute dtype, is
the last line, from a run that measures nothing.

    .venv/bin/python bench/streaming.py                       # 3 GB below /tmp, removed afterwards
    .venv/bin/python bench/streaming.py --preset small        # seconds, to see that it works
    .venv/bin/python bench/streaming.py --method gptq --windows 2 --streamed-only
    .venv/bin/python bench/streaming.py --preset v2-lite --windows 2          # 2.6 GB: a mixture of 64 experts
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


def groups_of(config):
    """(outputs of the linears that share an input, its width), of every kind of group, by the shape in config.json."""
    width, ffn, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    groups = [(2 * ffn, width), (width, ffn)]
    if "kv_lora_rank" not in config:
        queries, keys = heads * config["head_dim"], config["num_key_value_heads"] * config["head_dim"]
        return [*groups, (queries + 2 * keys, width), (width, queries)]
    rank, rotated, value = (config[key] for key in ("kv_lora_rank", "qk_rope_head_dim", "v_head_dim"))
    key = config["qk_nope_head_dim"] + rotated
    groups += [(heads * key + rank + rotated, width), (heads * (key - rotated + value), rank), (width, heads * value)]
    expert, experts = config["moe_intermediate_size"], config["n_routed_experts"]
    shared = config["n_shared_experts"] * expert
    return [*groups, (experts + 2 * shared, width), (width, shared), (2 * expert, width), (width, expert)]


def rule(config, a, stage="perplexity"):
    """Bytes that a streamed stage may need."""
    width, groups = config["hidden_size"], groups_of(config)
    group = max(outputs * inputs for outputs, inputs in groups) * FLOAT
    embeddings = config["vocab_size"] * width * FLOAT * (1 if config["tie_word_embeddings"] else 2)
    quantize = stage == "quantize" and a.method == "gptq"
    hidden = (a.samples if quantize else a.windows) * a.seq_len * width * FLOAT
    hessians = 4 * max(inputs for _, inputs in groups) ** 2 * FLOAT if quantize else 0
    return 3 * group + embeddings + min(hidden, a.spill_above * 1e9) + hessians + 400 * MB


def run(model, residency, a, folder, method):
    """results.json and windows.csv of one run in a fresh process and directory; method none: without measurements."""
    config, out = folder / f"{residency}.yaml", folder / residency
    measured = "" if method == "none" else f"{{corpus: {a.corpus}, seq_len: {a.seq_len}, windows: {a.windows}}}"
    config.write_text(
        f"name: bench\nmodel: {{path: {model}, residency: {residency}, spill_above: {a.spill_above}}}\n"
        f"quant: {{method: {method}, weight: {{bits: 4, group_size: 64}}}}\n"
        f"calibration: {{corpus: {a.calibration}, samples: {a.samples}, seq_len: {a.seq_len}}}\n"
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


def print_table(a, config, streamed, resident):
    """A row per stage; whether all streamed stages obeyed the rule."""
    beside = " resident s | ratio |" if resident else ""
    print(f"| stage | streamed s |{beside} streamed MB |{' resident MB |' if resident else ''} rule MB | rule |")
    print("|---|---|" + ("---|---|---|" if resident else "") + "---|---|---|")
    obeyed = True
    for name, one in stages_of(streamed).items():
        limit = rule(config, a, name)
        kept = one["peak_rss_bytes"] <= limit
        obeyed &= kept
        cells = [name, f"{one['seconds']:.1f}", f"{one['peak_rss_bytes'] / MB:.0f}"]
        if resident:
            other = stages_of(resident)[name]
            ratio = f"{one['seconds'] / other['seconds']:.2f}" if other["seconds"] > 0.1 else "–"
            cells[2:2] = [f"{other['seconds']:.1f}", ratio]
            cells.append(f"{other['peak_rss_bytes'] / MB:.0f}")
        print("| " + " | ".join([*cells, f"{limit / MB:.0f}", "kept" if kept else "BROKEN"]) + " |")
    return obeyed


def same_bits(runs):
    (streamed, streamed_windows), (resident, resident_windows) = runs["stream"], runs["resident"]
    return streamed_windows == resident_windows and streamed["hashes"]["codes"] == resident["hashes"]["codes"]


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", type=Path, help="an existing checkpoint; without it one is written and removed")
    p.add_argument("--preset", default="3gb", help="of tools/make_synthetic.py")
    p.add_argument("--method", choices=("rtn", "gptq"), default="rtn")
    p.add_argument("--streamed-only", action="store_true")
    p.add_argument("--corpus", default="tiny/test")
    p.add_argument("--calibration", default="tiny/train", help="text on which gptq measures inputs")
    p.add_argument("--samples", type=int, default=8, help="windows of it")
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
        size = sum(file.stat().st_size for file in model.glob("*.safetensors"))
        residencies = ("stream",) if a.streamed_only else ("stream", "resident")
        runs = {residency: run(model, residency, a, folder, a.method) for residency in residencies}
        loaded = None if a.streamed_only else stages_of(run(model, "resident", a, folder, "none")[0])["load"]
    calibrated = f" (calibrated on {a.samples})" if a.method != "rtn" else ""
    print(f"{size / 1e9:.2f} GB, {a.method}, {a.windows} windows{calibrated} of {a.seq_len} tokens, "
          f"{a.threads} threads, load {os.getloadavg()[0]:.1f}\n")
    obeyed = print_table(a, config, runs["stream"][0], None if a.streamed_only else runs["resident"][0])
    if a.streamed_only:
        sys.exit(0 if obeyed else 1)
    same = same_bits(runs)
    print(f"\nfull precision loaded in {loaded['seconds']:.1f} s, {loaded['peak_rss_bytes'] / MB:.0f} MB")
    print(f"windows and codes are {'the same bit for bit' if same else 'DIFFERENT'}")
    sys.exit(0 if same and obeyed else 1)


if __name__ == "__main__":
    main()
