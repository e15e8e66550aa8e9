"""Whole-model quantization by Refrain beside llmcompressor: seconds, and what the result is worth.

Both get the same checkpoint in float32, the same calibration tokens (the first windows of the text; hashes of the ids
are compared), windows per batch, threads and options. One program measures both results: llmcompressor's weights are
written back as plain float32 tensors, and Refrain measures their perplexity and that of its own checkpoint by
`quant.method: none`, on the same windows.

The same options: minmax range that contains 0; asymmetric with an integer zero, or llmcompressor's symmetric grid,
which is `symmetry: span` here (scale 2 max|w| / (2^b - 1), codes -2^(b-1) ... 2^(b-1) - 1); scales in float32. gptq:
damping 0.01, blocks of 128, columns by falling diag H with groups fitted beforehand (actorder static). awq: 20 ratios
with activations and weights (duo_scaling), the scales alone: llmcompressor has no search for clipping.

What is timed: Refrain's stage `quantize` (calibration, codes, writing the checkpoint), and llmcompressor's oneshot on a
model that is loaded already (calibration, codes; saves nothing). Repetitions alternate; the least of each is taken.
Processor seconds of Refrain: of the whole run without measurements, less those of a run that quantizes nothing.

llmcompressor lives in an environment of its own (--peer-python), because it wants another transformers than the tests.
Where none is named, one is made once in build/peer (about 1 GB):

    python3 -m venv build/peer && build/peer/bin/pip install llmcompressor==0.14.0.1 torch==2.13.0 transformers==5.17.0

    REFRAIN_DATA=<test data> .venv/bin/python bench/methods.py --method gptq
    .venv/bin/python bench/methods.py --model tiny-qwen3 --bits 3 --group-sizes 64
    .venv/bin/python bench/methods.py --model <directory> --seq-len 256 --samples 8 --windows 8      # its texts: tiny
"""

import argparse
import itertools
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("REFRAIN_DATA", "/nonexistent"))
PEER = ROOT / "build/peer"
PACKAGES = ["llmcompressor==0.14.0.1", "torch==2.13.0", "transformers==5.17.0"]
TIME_GOAL = 0.5  # of the peer's seconds
PPL_GOAL = {2: 0.02}  # at most so much worse; other bits: PPL_CLOSE either way
PPL_CLOSE = 0.005
TINY = ROOT / "data/corpora/tiny"
WIKI = DATA / "corpora/wikitext-2-raw"
OPTIONS = {  # method: (ours, the peer's)
    "gptq": (
        {"damp": 0.01, "block_size": 128, "act_order": True, "static_groups": True, "gar": False},
        {"dampening_frac": 0.01, "block_size": 128, "actorder": "static"},
    ),
    "awq": ({"clip": False, "duo_scaling": True, "grid": 20, "tokens": 1 << 30}, {"duo_scaling": True, "n_grid": 20}),
}  # fmt: skip


@dataclass
class Point:
    bits: int
    group_size: int
    symmetric: bool


@dataclass
class Found:
    wall: float  # seconds, least of all repetitions
    cpu: float  # seconds of all threads, likewise
    ppl: float


def named(model):
    """Directory, calibration text and test text of a model that is given by name or directory."""
    if model == "wiki-qwen3":
        texts = WIKI / "wikitext2_train_first1MB.txt", WIKI / "wikitext2_test_hf_joined.txt"
        return DATA / "models/wiki-qwen3", *texts
    path = ROOT / "data/tiny-qwen3" if model == "tiny-qwen3" else Path(model).resolve()
    return path, TINY / "train.txt", TINY / "test.txt"


# ---- Refrain ----


def config_of(a, model, method, point=None, windows=0):
    """A configuration (JSON is YAML) that quantizes, or measures `windows` windows, or both."""
    quant = {"method": method}
    if point:
        weight = {"bits": point.bits, "group_size": point.group_size, "scale_dtype": "float32", "scale_bits": 0,
                  "range": "minmax", "clip": 1.0, "offset": 0.0, "rounding": "nearest"}  # fmt: skip
        grid = {"symmetry": "span"} if point.symmetric else {"symmetry": "asymmetric", "zero_point": "int"}
        quant |= {"weight": weight | grid, method: OPTIONS[method][0] | json.loads(a.options)}
    measured = [{"corpus": str(a.test), "protocol": "gptq", "seq_len": a.seq_len, "bos": "none", "windows": windows}]
    return {
        "name": "bench",
        "model": {"path": str(model), "dtype": "float32", "residency": "resident"},
        "calibration": {"corpus": str(a.train), "samples": a.samples, "seq_len": a.seq_len, "sampling": "sequential",
                        "propagate_error": True, "batch_tokens": a.batch_tokens},
        "quant": quant,
        "measure": {"perplexity": measured if windows else []},
    }  # fmt: skip


def refrain(a, config, folder):
    """(results.json, its directory, processor seconds) of one run in a directory of its own."""
    out = Path(tempfile.mkdtemp(dir=folder))
    (out / "bench.yaml").write_text(json.dumps(config))
    before = os.times()
    subprocess.run(
        [a.launcher, "--no-build", out / "bench.yaml", "--out", out, "--threads", str(a.threads), "--quiet"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    after = os.times()
    file = next(out.glob("bench/*/results.json"))
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return json.loads(file.read_text()), file.parent, cpu


def perplexity(a, model, folder):
    results, _, _ = refrain(a, config_of(a, model, "none", windows=a.windows), folder)
    return (results["quantized"] or results["baseline"])["perplexity"][0]["ppl"]


# ---- llmcompressor ----


def peer_python(a):
    """The peer's Python; its environment is made if none is named and there is none yet."""
    if a.peer_python:
        return a.peer_python
    python = PEER / "bin/python"
    if not (PEER / "complete").exists():
        print(f"methods: installing {' '.join(PACKAGES)} into {PEER}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", PEER], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        (PEER / "complete").touch()
    return python


class Peer:
    """A process of methods_peer.py, which answers one job after the other."""

    def __init__(self, a, log):
        script = ROOT / "bench/methods_peer.py"
        env = os.environ | {"OMP_NUM_THREADS": str(a.threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        env.pop("MKL_CBWR", None)  # Refrain asks for products of equal bits, the peer does not
        self.log = log
        self.process = subprocess.Popen([peer_python(a), script, str(a.threads)], stdin=subprocess.PIPE, text=True,
                                        stdout=subprocess.PIPE, stderr=log.open("w"), env=env)  # fmt: skip

    def ask(self, job):
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit("methods: llmcompressor failed:\n" + "".join(self.log.open().readlines()[-20:]))
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def calibration_ids(a):
    """Ids of the first samples x seq_len tokens of the calibration text."""
    wanted = a.samples * a.seq_len
    text = a.train.read_text(encoding="utf-8")
    if (a.directory / "tokenizer.json").exists():
        from tokenizers import Tokenizer

        ids = Tokenizer.from_file(str(a.directory / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    else:
        import sentencepiece

        ids = sentencepiece.SentencePieceProcessor(str(a.directory / "tokenizer.model")).encode(text)
    if len(ids) < wanted:
        sys.exit(f"methods: {a.train} has {len(ids)} tokens, {wanted} are needed.")
    return ids[:wanted]


# ---- comparison ----


def compare(a, point, peer, ids, folder):
    """(ours, theirs) at one point."""
    options = OPTIONS[a.method][1] | json.loads(a.peer_options)
    job = {"model": str(a.directory), "tokens": ids, "seq_len": a.seq_len, "batch": max(1, a.batch_tokens // a.seq_len),
           "method": a.method, "options": options, "bits": point.bits, "group_size": point.group_size,
           "symmetric": point.symmetric}  # fmt: skip
    empty = min(refrain(a, config_of(a, a.directory, "none"), folder)[2] for _ in range(2))
    ours, theirs = [], []
    for repetition in range(a.repetitions):
        last = repetition + 1 == a.repetitions
        results, run, cpu = refrain(a, config_of(a, a.directory, a.method, point), folder)
        ours.append((next(s["seconds"] for s in results["stages"] if s["name"] == "quantize"), cpu - empty))
        theirs.append(peer.ask(job | {"save": str(run / "peer") if last else None}))
        if results["hashes"]["calibration_tokens"] != theirs[-1]["token_hash"]:
            sys.exit("methods: the two were calibrated on different tokens; nothing is compared.")
        for name in [f["module"] for f in results["fallbacks"]] + theirs[-1]["fallbacks"]:
            print(f"methods: {name} was rounded to nearest", file=sys.stderr)
    least = lambda pairs: [min(values) for values in zip(*pairs)]
    return (
        Found(*least(ours), perplexity(a, run / "checkpoint", folder)),
        Found(*least([(t["wall"], t["cpu"]) for t in theirs]), perplexity(a, run / "peer", folder)),
    )


def verdict(point, ours, theirs):
    difference = ours.ppl / theirs.ppl - 1
    worst = PPL_GOAL.get(point.bits)
    ppl = difference <= worst if worst else abs(difference) <= PPL_CLOSE
    time = ours.wall <= TIME_GOAL * theirs.wall
    missed = [name for name, met in (("time", time), ("ppl", ppl)) if not met]
    return " and ".join(missed) + " missed" if missed else "met"


def row(point, ours, theirs):
    return [
        str(point.bits),
        str(point.group_size),
        "symmetric" if point.symmetric else "asymmetric",
        f"{ours.wall:.2f}",
        f"{theirs.wall:.2f}",
        f"{ours.wall / theirs.wall:.2f}",
        f"{ours.cpu / theirs.cpu:.2f}",
        f"{ours.ppl:.4f}",
        f"{theirs.ppl:.4f}",
        f"{ours.ppl / theirs.ppl - 1:+.2%}".replace("%", " %"),
        verdict(point, ours, theirs),
    ]


def print_head(a, full):
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        cpu = names[0] if names else cpu
    print(f"{a.method}, {a.model} (full precision: {full:.4f}), calibration {a.samples} x {a.seq_len}, measured on "
          f"{a.windows} windows; {a.repetitions} repetitions")
    print(f"{cpu}, {a.threads} threads, load {os.getloadavg()[0]:.1f}; {', '.join(PACKAGES)}")
    print(f"goals: time at most {TIME_GOAL} of llmcompressor's; perplexity within {PPL_CLOSE:.1%}, at 2 bits at most "
          f"{PPL_GOAL[2]:.0%} worse\n")
    head = ["bits", "group", "grid", "Refrain s", "llmcompressor s", "ratio", "cpu ratio", "Refrain ppl",
            "llmcompressor ppl", "difference", "goals"]  # fmt: skip
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head), flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--method", choices=OPTIONS, default="gptq")
    p.add_argument("--model", default="wiki-qwen3", help="wiki-qwen3, tiny-qwen3, or a directory")
    p.add_argument("--bits", type=int, nargs="+", default=[4, 3, 2])
    p.add_argument("--group-sizes", type=int, nargs="+", default=[64, 128], help="-1: the row")
    p.add_argument("--grids", nargs="+", choices=["asymmetric", "symmetric"], default=["asymmetric", "symmetric"])
    p.add_argument("--samples", type=int, default=64, help="calibration windows")
    p.add_argument("--seq-len", type=int, default=512, help="tokens of a window, here and there")
    p.add_argument("--windows", type=int, default=200, help="windows of the test text")
    p.add_argument("--batch-tokens", type=int, default=1024)
    p.add_argument("--repetitions", type=int, default=3)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--options", default="{}", help="JSON: further keys of quant.<method>")
    p.add_argument("--peer-options", default="{}", help="JSON: further arguments of the peer's modifier")
    p.add_argument("--peer-python", type=Path, help="Python of an environment with " + ", ".join(PACKAGES))
    p.add_argument("--launcher", type=Path, default=ROOT / "run_experiment", help="of the build to time")
    a = p.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads sleep, in both,
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # after some microseconds
    a.directory, a.train, a.test = named(a.model)
    if not a.directory.exists():
        sys.exit(f"methods: {a.directory} is not there. Set REFRAIN_DATA to the directory of the test data.")
    met = True
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        peer, ids = Peer(a, folder / "peer.log"), calibration_ids(a)
        print_head(a, perplexity(a, a.directory, folder))
        for bits, group_size, grid in itertools.product(a.bits, a.group_sizes, a.grids):
            with tempfile.TemporaryDirectory(dir=folder) as place:
                point = Point(bits, group_size, grid == "symmetric")
                ours, theirs = compare(a, point, peer, ids, Path(place))
            met &= verdict(point, ours, theirs) == "met"
            print("| " + " | ".join(row(point, ours, theirs)) + " |", flush=True)
        peer.close()
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
