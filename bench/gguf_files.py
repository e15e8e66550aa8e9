"""Files that Refrain exports, run by stock llama.cpp, beside the numbers that Refrain measured; and what ggml itself makes
of the same weights in the same bytes.

    .venv/bin/python bench/gguf_files.py run RUN...             perplexity of each run's model.gguf by llama.cpp beside the run's
                      [--text FILE] [--prompts 20]        own, greedy text of both, tokens per second, bytes
                      [--windows N]
    .venv/bin/python bench/gguf_files.py requantize OURS FULL OUT   the file OURS with the tensors of blocks quantized by
                      [--importance IMATRIX]                  ggml_quantize_chunk from those of FULL, a file in full
                                                              precision; OUT is as large as OURS
RUN is a run directory with `exports: {gguf: {}}`. With windows of the first perplexity of the run; --text is its corpus.
"""

import argparse
import csv
import ctypes
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

try:
    import numpy

    import llama_cpp
except ImportError as missing:
    sys.exit(f"gguf_files: {missing.name} is not installed. Run: pip install xllamacpp numpy")

ROOT = Path(__file__).resolve().parent.parent
NEAR = 0.1  # nats between two tokens, below which either may be written


def generated(model, prompt, tokens):
    """What ./generate writes behind a prompt, greedily, as a text, with inputs rounded to 8 bits as llama.cpp does it."""
    command = [ROOT / "generate", model, "--no-build", "--linears", "packed_int8", "--temperature", "0",
               "--tokens", str(tokens), "--prompt", prompt]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout[len(prompt) :].removesuffix("\n")


def in_floats(checkpoint, folder):
    """The same weights in a GGUF file of floats, with which llama.cpp rounds nothing."""
    floats, file = folder / "floats", folder / "floats.gguf"
    for arguments in ([checkpoint, "--huggingface", floats, "--set", "huggingface.dtype=float32"],
                      [floats, "--gguf", file]):
        subprocess.run([ROOT / "export_model", "--no-build", *arguments], capture_output=True, check=True)
    return file


def parts_ways(model, full, prompt, text, tokens):
    """Writes greedily by llama.cpp as long as `text` begins with what it writes. Where it departs: how far the full
    logits, of a model that rounds no inputs, leave its token and the likeliest one that goes on as `text` apart, in nats.
    None where it never departs. Texts are compared, not tokens: a text may be cut into tokens in several ways, so that
    the token before may be where they part."""
    model.clear()
    before, rest = model.tokens_of(prompt), text.encode()
    row, apart = model.logits_after(before), math.inf
    for _ in range(tokens):
        order = numpy.argsort(row)[::-1]
        if not rest or not model.bytes_of(order[0]):
            return None
        going_on = [token for token in order[1:] if (piece := model.bytes_of(token)) and rest.startswith(piece)]
        gap = math.inf
        if going_on:
            logits = full.logits_of(before)[-1]
            gap = float(abs(logits[order[0]] - logits[going_on[0]]))
        if not rest.startswith(model.bytes_of(order[0])):
            return min(gap, apart)
        apart = gap
        rest, before = rest[len(model.bytes_of(order[0])) :], numpy.append(before, order[0])
        row = model.logits_after(order[:1].astype(numpy.int32))
    return None


def run(a):
    text = Path(a.text).read_text()
    print("| run | bytes | perplexity, Refrain | llama.cpp | ratio | texts that part early | tokens/s, llama.cpp |")
    print("|---|---|---|---|---|---|---|")
    for directory in map(Path, a.runs):
        results = json.loads((directory / "results.json").read_text())
        measured = results["quantized"]["perplexity"][0]
        length, windows = measured["seq_len"], min(measured["windows"], a.windows)
        ours = perplexity_of(directory, windows) if windows < measured["windows"] else measured["ppl"]
        file = directory / "model.gguf"
        model = llama_cpp.LlamaCpp(file, a.threads, 2048)
        tokens = model.tokens_of(text)
        theirs = model.perplexity(tokens, length, windows)
        early = []
        with tempfile.TemporaryDirectory() as folder:
            full = llama_cpp.LlamaCpp(in_floats(directory / "checkpoint", Path(folder)), a.threads, 2048)
            for prompt in prompts_of(text, a.prompts):
                gap = parts_ways(model, full, prompt, generated(directory / "checkpoint", prompt, a.tokens), a.tokens)
                if gap is not None and gap >= NEAR:
                    early.append(round(gap, 2))
            full.close()
        model.clear()
        token, start = int(tokens[0]), time.perf_counter()
        for _ in range(a.tokens):
            token = model.likeliest_after(numpy.array([token], numpy.int32))
        speed = a.tokens / (time.perf_counter() - start)
        print(f"| {directory.name} | {file.stat().st_size} | {ours:.4f} | {theirs:.4f} "
              f"| {theirs / ours:.5f} | {len(early)} of {a.prompts} {early or ''} | {speed:.1f} |", flush=True)
        model.close()


def perplexity_of(directory, windows):
    """Of the first windows that a run has measured."""
    with open(directory / "windows.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == "quantized"]
    rows = [row for row in rows if row["corpus"] == rows[0]["corpus"] and int(row["window"]) < windows]
    return math.exp(sum(float(row["nll_sum"]) for row in rows) / sum(int(row["tokens"]) for row in rows))


def prompts_of(text, count):
    """Beginnings of paragraphs, a few dozen words each."""
    paragraphs = [line.strip() for line in text.split("\n") if len(line) > 400]
    step = max(1, len(paragraphs) // count)
    return [line[:200].rsplit(" ", 1)[0] for line in paragraphs[::step][:count]]


def importance_of(file):
    """Mean squares of inputs per tensor of an imatrix file in GGUF's form: name -> [columns] float32."""
    tensors = llama_cpp.Tensors(file)
    found = {}
    for name in tensors.places:
        if name.endswith(".in_sum2"):
            base = name.removesuffix(".in_sum2")
            sums, counts = tensors.floats_of(name), tensors.floats_of(base + ".counts")
            if len(counts) == 1 and counts[0] > 0:
                found[base] = numpy.ascontiguousarray(sums / counts[0], numpy.float32)
    return found


def requantize(a):
    ours, full = llama_cpp.Tensors(a.ours), llama_cpp.Tensors(a.full)
    importance = importance_of(a.importance) if a.importance else {}
    shutil.copyfile(a.ours, a.out)
    lib, changed = ours.lib, 0
    lib.ggml_blck_size.restype, lib.ggml_type_size.restype = ctypes.c_int64, ctypes.c_size_t
    with open(a.out, "r+b") as out:
        for name, (kind, start, size) in ours.places.items():
            if not name.startswith("blk.") or ours.type_of(name) in ("f32", "f16", "bf16"):
                continue
            weights = numpy.ascontiguousarray(full.floats_of(name), numpy.float32)
            raw = ctypes.create_string_buffer(size)
            columns = columns_of(ours, name)
            scale = importance.get(name)
            lib.ggml_quantize_chunk(kind, weights.ctypes.data, raw, 0, len(weights) // columns, columns,
                                    scale.ctypes.data if scale is not None else None)
            out.seek(start)
            out.write(raw.raw)
            changed += 1
    print(f"{changed} tensors quantized by ggml, {len(importance)} with importance: {a.out}")


def columns_of(tensors, name):
    """Weights of a row."""
    lib = tensors.lib
    for function, result, arguments in [("ggml_get_tensor", ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p])]:
        getattr(lib, function).restype, getattr(lib, function).argtypes = result, arguments
    if not hasattr(tensors, "graph"):
        tensors.graph = ctypes.c_void_p()
        lib.gguf_init_from_file(str(tensors.file).encode(),
                                llama_cpp.GgufParameters(True, ctypes.addressof(tensors.graph)))
    tensor = lib.ggml_get_tensor(tensors.graph, name.encode())
    # struct ggml_tensor: type (int), buffer (pointer), ne[4] (int64), …
    return ctypes.cast(tensor + 16, ctypes.POINTER(ctypes.c_int64))[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("run")
    one.add_argument("runs", nargs="+")
    one.add_argument("--text", required=True)
    one.add_argument("--prompts", type=int, default=20)
    one.add_argument("--tokens", type=int, default=32)
    one.add_argument("--windows", type=int, default=1 << 20, help="at most, of those that the run has measured")
    one.add_argument("--threads", type=int, default=os.cpu_count())
    one.set_defaults(do=run)
    other = commands.add_parser("requantize")
    other.add_argument("ours")
    other.add_argument("full")
    other.add_argument("out")
    other.add_argument("--importance")
    other.set_defaults(do=requantize)
    a = parser.parse_args()
    a.do(a)


if __name__ == "__main__":
    main()
