"""Downstream tasks by Refrain beside lm-evaluation-harness: items per second on this machine, and whether both find the same.

Both get the same checkpoint, float32, threads and documents, zero-shot. The harness runs in this process on a model that is
loaded and warm, with the batch size that is given (its answers do not depend on it); Refrain runs as the program that a user
starts, with measure.tasks on `few` and on `many` items, and the difference of its stage `baseline` is what `many - few` items
cost. The harness scores exactly those items. Accuracies over all `many` items have to agree, else no ratio is printed.

    REFRAIN_DATA=<test data> <python with lm_eval> bench/tasks.py --model <folder or GGUF file> --tasks piqa arc_easy

Needs the package lm_eval (0.4.13, with its Hugging Face models) beside torch and transformers; no network.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads OpenMP; inherited by Refrain
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))
import make_golden_tasks as golden  # noqa: E402

DATA = Path(os.environ.get("REFRAIN_DATA", "/nonexistent"))


def refrain(a, task, items, folder):
    """(seconds, metrics) of the first `items` documents."""
    config = folder / "bench.yaml"
    config.write_text(
        f"name: bench\nmodel: {{path: {a.model}, dtype: float32}}\nquant: {{method: none}}\ncheckpoint: discard\n"
        f"measure: {{batch_tokens: {a.batch_tokens}, tasks: {{names: [{task}], limit: {items}}}}}\n"
    )
    with tempfile.TemporaryDirectory(dir=folder) as out:  # a new one: nothing comes from a cache
        subprocess.run([ROOT / "run_experiment", "--no-build", config, "--out", out, "--threads", str(a.threads), "--quiet"],
                       check=True, stdout=subprocess.DEVNULL)
        results = json.loads(next(Path(out).glob("bench/*/results.json")).read_text())
    seconds = next(s["seconds"] for s in results["stages"] if s["name"] == "baseline")
    return seconds, results["baseline"]["tasks"][0]


def harness(lm, a, task, folder):
    """(seconds of items few … many, accuracy of all)."""
    asked = golden.requests_of(golden.task_of(task, DATA / "tasks" / f"{task}.jsonl", folder), a.many)
    first = [i for i in asked if i.doc_id < a.few]
    rest = [i for i in asked if i.doc_id >= a.few]
    answers = lm.loglikelihood(first, disable_tqdm=True)
    start = time.perf_counter()
    answers += lm.loglikelihood(rest, disable_tqdm=True)
    seconds = time.perf_counter() - start
    made = golden.task_of(task, DATA / "tasks" / f"{task}.jsonl", folder)
    documents = dict(made.doc_iterator(limit=a.many, rank=0, world_size=1))
    by_document = {}
    for instance, answer in zip(first + rest, answers):
        by_document.setdefault(instance.doc_id, []).append(answer)
    acc = [made.process_results(documents[d], found)["acc"] for d, found in by_document.items()]
    return seconds, sum(acc) / len(acc)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=DATA / "models/wiki-qwen3")
    parser.add_argument("--tasks", nargs="+", default=["piqa", "arc_easy", "hellaswag", "lambada_openai"])
    parser.add_argument("--few", type=int, default=20)
    parser.add_argument("--many", type=int, default=220)
    parser.add_argument("--batch", type=int, default=1, help="of the harness")
    parser.add_argument("--batch-tokens", type=int, default=1024, help="of Refrain")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=3)
    a = parser.parse_args()
    import torch

    torch.set_num_threads(a.threads)
    lm = golden.model_of(a.model, a.batch)
    print(f"{a.model.name}, {a.many - a.few} items, {a.threads} threads, harness batch {a.batch}, median of {a.repetitions}")
    print("| task | acc | Refrain items/s | harness items/s | ratio | pairs |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for task in a.tasks:
            refrain(a, task, a.few, folder)  # warm-up: the files are in memory
            ours, theirs = [], []
            for _ in range(a.repetitions):
                few, (many, found) = refrain(a, task, a.few, folder)[0], refrain(a, task, a.many, folder)
                ours.append(many - few)
                seconds, acc = harness(lm, a, task, folder)
                theirs.append(seconds)
            if abs(acc - found["acc"]) > 1e-9:
                sys.exit(f"tasks: {task}: Refrain finds acc {found['acc']}, the harness {acc}.")
            items, pairs = a.many - a.few, sorted(t / o for o, t in zip(ours, theirs))
            ours, theirs = statistics.median(ours), statistics.median(theirs)
            print(f"| {task} | {acc:.4f} | {items / ours:.1f} | {items / theirs:.1f} | {theirs / ours:.2f} | "
                  f"{pairs[0]:.2f}-{pairs[-1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
