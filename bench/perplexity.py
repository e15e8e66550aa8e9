"""Perplexity evaluation by Refrain beside transformers: tokens per second on this machine.

Both get the same checkpoint, float32, threads, windows, windows per batch and scored positions. Transformers runs in
this process (eager, sdpa attention, inference mode), Refrain as the program that a user starts.

How load time cancels out: Refrain's stage `baseline` is loading, the first touch of everything, and evaluation. It is
run on `few` and on `many` windows; the difference is what `many - few` windows cost. Transformers evaluates exactly
those windows after a warm-up pass over all of them. The two alternate, so that a change of the machine's load meets
both; medians are printed. `cpu ratio` compares processor seconds instead of wall seconds: it says which does less work,
and hardly feels other processes.

Waiting threads sleep (OMP_WAIT_POLICY=PASSIVE for both, unless the environment says otherwise). With OpenMP's default
they spin; on a machine that has other work transformers then takes several times as long, and the ratio says nothing.

    REFRAIN_DATA=<test data> .venv/bin/python bench/perplexity.py
    .venv/bin/python bench/perplexity.py --models 1b --synthetic /tmp/synthetic-1b
"""

import argparse
import gc
import importlib.metadata
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads OpenMP; inherited by Refrain
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as ./run_experiment has it
import torch  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("REFRAIN_DATA", "/nonexistent"))
AGREE = 1e-4  # relative difference of the perplexities


@dataclass
class Case:
    model: Path
    text: Path
    seq_len: int
    few: int  # windows
    many: int


@dataclass
class Timing:
    wall: float  # seconds
    cpu: float  # seconds of all threads
    ppl: float = math.nan  # of the `many` windows


def cases(synthetic, folder):
    wiki = DATA / "corpora/wikitext-2-raw/wikitext2_test_hf_joined.txt"
    return {
        "tiny-qwen3": Case(ROOT / "data/tiny-qwen3", ROOT / "data/corpora/tiny/test.txt", 256, 40, 240),
        "wiki-qwen3": Case(DATA / "models/wiki-qwen3", wiki, 512, 32, 192),
        "stories260K": Case(DATA / "models/stories260K/hf_llama", wiki, 512, 32, 352),
        "folder": Case(folder, wiki, 512, 4, 12),
        "1b": Case(synthetic, ROOT / "data/corpora/tiny/test.txt", 256, 4, 12),
    }


# ---- Refrain ----


def results_of(case, windows, a, folder):
    """Runs Refrain on the first `windows` windows; returns (results.json, processor seconds)."""
    config = folder / "bench.yaml"
    config.write_text(
        f"name: bench\nmodel: {{path: {case.model}, dtype: {a.dtype}}}\nquant: {{method: none}}\ncheckpoint: discard\n"
        f"measure:\n  batch_tokens: {a.batch_tokens}\n"
        f"  perplexity: [{{corpus: {case.text}, seq_len: {case.seq_len}, windows: {windows}, bos: none}}]\n"
    )
    with tempfile.TemporaryDirectory(dir=folder) as out:  # a new one: nothing comes from a cache
        before = os.times()
        subprocess.run(
            [a.launcher, "--no-build", config, "--out", out, "--threads", str(a.threads), "--quiet"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        after = os.times()
        file = next(Path(out).glob("bench/*/results.json"))
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        return json.loads(file.read_text()), cpu


def time_refrain(case, a, folder):
    runs = [results_of(case, windows, a, folder) for windows in (case.few, case.many)]
    seconds = [next(s["seconds"] for s in results["stages"] if s["name"] == "baseline") for results, _ in runs]
    ppl = runs[1][0]["baseline"]["perplexity"][0]["ppl"]
    return Timing(seconds[1] - seconds[0], runs[1][1] - runs[0][1], ppl)


# ---- transformers ----


def token_windows(case):
    """The first `many` windows of the text: [N, T] int64."""
    text = case.text.read_text(encoding="utf-8")
    if (case.model / "tokenizer.json").exists():
        from tokenizers import Tokenizer

        ids = Tokenizer.from_file(str(case.model / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    else:
        import sentencepiece

        ids = sentencepiece.SentencePieceProcessor(str(case.model / "tokenizer.model")).encode(text)
    wanted = case.many * case.seq_len
    if len(ids) < wanted:
        sys.exit(f"perplexity: {case.text} has {len(ids)} tokens, {wanted} are needed.")
    return torch.tensor(ids[:wanted]).view(case.many, case.seq_len)


@torch.inference_mode()
def nll_of(model, windows, batch):
    """Sum of -log p over all positions but the first of each window, nats."""
    total = 0.0
    for ids in windows.split(batch):
        logits = model(ids, use_cache=False).logits[:, :-1]  # [B, T - 1, V]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
        total += loss.item()
    return total


def peer_of(directory):
    """The model by transformers; of `deepseek`, which it does not have, the plain mixture of tools/tiny_moe.py."""
    from transformers import AutoModelForCausalLM

    if json.loads((directory / "config.json").read_text())["model_type"] == "deepseek":
        sys.path.append(str(ROOT / "tools"))
        import tiny_moe

        return tiny_moe.load(directory)
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="sdpa").eval()


class Transformers:
    def __init__(self, case, a):
        torch.set_num_threads(a.threads)
        self.model = peer_of(case.model)
        self.windows = token_windows(case)
        self.few, self.batch = case.few, max(1, a.batch_tokens // case.seq_len)
        self.ppl = math.exp(nll_of(self.model, self.windows, self.batch) / (case.many * (case.seq_len - 1)))  # warm-up

    def time(self):
        wall, cpu = time.perf_counter(), time.process_time()
        nll_of(self.model, self.windows[self.few :], self.batch)
        return Timing(time.perf_counter() - wall, time.process_time() - cpu, self.ppl)


# ---- comparison ----


def cut_text(case, folder):
    """The case with a text that is just long enough, so that nobody tokenizes a megabyte for a few windows."""
    text = case.text.read_text(encoding="utf-8")[: case.many * case.seq_len * 8]
    copy = folder / "text.txt"
    copy.write_text(text, encoding="utf-8")
    return Case(case.model, copy, case.seq_len, case.few, case.many)


def compare(case, a, folder):
    case = cut_text(case, folder)
    peer = Transformers(case, a)
    results_of(case, case.few, a, folder)  # warm-up: the files are in memory
    ours, theirs = [], []
    for _ in range(a.repetitions):
        ours.append(time_refrain(case, a, folder))
        theirs.append(peer.time())
    if a.dtype == "float32" and abs(ours[0].ppl / theirs[0].ppl - 1) > AGREE:
        sys.exit(f"perplexity: {case.model}: Refrain measures {ours[0].ppl}, transformers {theirs[0].ppl}.")
    return ours, theirs


def row(name, case, ours, theirs):
    tokens = (case.many - case.few) * case.seq_len
    median = lambda timings, field: statistics.median(getattr(t, field) for t in timings)
    pairs = sorted(b.wall / a.wall for a, b in zip(ours, theirs))
    return [
        name,
        f"{case.many - case.few} x {case.seq_len}",
        f"{ours[0].ppl:.4f}",
        f"{ours[0].ppl / theirs[0].ppl - 1:+.1e}",
        f"{tokens / median(ours, 'wall'):.0f}",
        f"{tokens / median(theirs, 'wall'):.0f}",
        f"{median(theirs, 'wall') / median(ours, 'wall'):.2f}",
        f"{pairs[0]:.2f}-{pairs[-1]:.2f}",
        f"{median(theirs, 'cpu') / median(ours, 'cpu'):.2f}",
    ]


def print_table(rows, peer="transformers tok/s"):
    head = ["model", "windows", "ppl", "to peer's", "Refrain tok/s", peer, "ratio", "pairs", "cpu ratio"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for cells in rows:
        print("| " + " | ".join(cells) + " |")


def describe_machine(a):
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        cpu = names[0] if names else cpu
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("torch", "transformers"))
    print(f"{cpu}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; {versions}; {a.threads} threads,")
    print(f"OMP_WAIT_POLICY={os.environ['OMP_WAIT_POLICY']}, {a.dtype} beside float32, batches of {a.batch_tokens} tokens,")
    print(f"median of {a.repetitions} alternating repetitions.\n", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = list(cases(Path(), Path()))
    p.add_argument("--models", nargs="+", choices=names, default=names[:3])
    p.add_argument("--synthetic", type=Path, default=Path(tempfile.gettempdir()) / "refrain-synthetic-1b",
                   help="the 1b model's directory; tools/make_synthetic.py writes it if it is not there")
    p.add_argument("--folder", type=Path, default=Path("/nonexistent"), help="a model in Hugging Face format, for --models folder")
    p.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="Refrain's; the peer has float32")
    p.add_argument("--launcher", type=Path, default=ROOT / "run_experiment", help="of the build to time")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--batch-tokens", type=int, default=1024)
    p.add_argument("--repetitions", type=int, default=5)
    a = p.parse_args()
    if "1b" in a.models and not (a.synthetic / "config.json").exists():
        tool = ROOT / "tools/make_synthetic.py"
        subprocess.run([sys.executable, tool, "--preset", "1b", "--out", a.synthetic], check=True)
    describe_machine(a)
    rows = []
    for name in a.models:
        case = cases(a.synthetic, a.folder)[name]
        if not case.model.exists():
            advice = "Give --folder." if name == "folder" else "Set REFRAIN_DATA to the directory of the test data."
            sys.exit(f"perplexity: {case.model} is not there. {advice}")
        with tempfile.TemporaryDirectory() as folder:
            rows.append(row(name, case, *compare(case, a, Path(folder))))
        gc.collect()
        print(f"{name}: done, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
    print_table(rows)


if __name__ == "__main__":
    main()
