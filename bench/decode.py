"""Reading a prompt and writing tokens by Refrain with packed weights beside llama.cpp: tokens per second on this machine.

Both get the same shape, threads, prompt length and number of tokens to write, one sequence, greedy. Refrain is the
program that a user starts, with the measure `latency`; llama.cpp is the library inside the package `xllamacpp`
(bench/llama_cpp.py). Rounds of the two alternate, so that a change of the machine's load meets both. Medians
of the rounds are printed, and the best round, which a busy machine disturbs least.

Without --peer a GGUF of random blocks is written in the model's shape: the time does not depend on what weights say.
Its embedding is Q8_0, or Q6_K beside Q2_K, as llama.cpp's own converter would have it; Refrain's has 8 bits.

    .venv/bin/python bench/decode.py <folder> --peer <file.gguf>      # a model that is there in both forms
    .venv/bin/python bench/decode.py <folder> --peer-type Q4_0        # the same shape, random blocks
    .venv/bin/python bench/decode.py --shape 1b                       # 10^9 random weights, beside Q2_K
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

try:
    import gguf
    import numpy

    import llama_cpp
except ImportError as missing:
    sys.exit(f"decode: {missing.name} is not installed. Run: pip install xllamacpp gguf numpy")

ROOT = Path(__file__).resolve().parent.parent
GOALS = {4: 1.5, 2: 2.2, "prompt": 2.0}  # times llama.cpp's tokens per second, of a model in the shape of SmolLM2-135M


@dataclass
class Rates:
    """Tokens per second, one number per round."""

    prompt: list = field(default_factory=list)
    decode: list = field(default_factory=list)


# ---- llama.cpp ----


class Timed:
    def __init__(self, file, threads, context):
        try:
            self.model = llama_cpp.LlamaCpp(file, threads, context)
        except RuntimeError as error:
            sys.exit(f"decode: {error}")

    def run(self, prompt, generate):
        """Returns the seconds to the first token and of all behind it, as the measure `latency` takes them."""
        self.model.clear()
        start = time.perf_counter()
        token = self.model.likeliest_after(prompt)
        first = time.perf_counter() - start
        for _ in range(generate):
            token = self.model.likeliest_after(numpy.array([token], numpy.int32))
        return first, time.perf_counter() - start - first

    def round(self, a):
        """Mean tokens per second of the prompt and of writing, over the repetitions of a round."""
        prompt = numpy.random.default_rng(0).integers(0, self.model.vocabulary, a.context).astype(numpy.int32)
        runs = [self.run(prompt, a.generate) for _ in range(a.repetitions + 1)][1:]  # the first warms up
        return (
            statistics.mean(a.context / first for first, _ in runs),
            statistics.mean(a.generate / rest for _, rest in runs),
        )


# ---- a GGUF of random blocks ----


def blocks_of(kind, count, draw):
    """`count` blocks of a quantized type with random codes and small scales: bytes [count, bytes of a block]."""
    size = gguf.GGML_QUANT_SIZES[kind][1]
    block = draw.integers(0, 256, (count, size), dtype=numpy.uint8)
    T = gguf.GGMLQuantizationType
    places = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q8_0: [0], T.Q2_K: [80, 82], T.Q6_K: [208]}[kind]  # of d, and m or dmin
    for place, value in zip(places, (0.001, -0.008 if kind == T.Q4_1 else 0.001)):
        block[:, place : place + 2] = numpy.frombuffer(numpy.float16(value).tobytes(), numpy.uint8)
    return block


def write_random(file, config, kind):
    """A GGUF in the shape of a config.json whose matrices are random blocks of one type."""
    T = gguf.GGMLQuantizationType
    family = config["model_type"]
    width, ffn, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    keys, head = config["num_key_value_heads"], config.get("head_dim", config["hidden_size"] // heads)
    writer, draw = gguf.GGUFWriter(file, family), numpy.random.default_rng(0)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_head_count_kv(keys)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")

    def matrix(name, rows, columns, of=kind):
        elements, size = gguf.GGML_QUANT_SIZES[of]
        data = blocks_of(of, rows * columns // elements, draw).reshape(rows, columns // elements * size)
        writer.add_tensor(name, data, raw_dtype=of)

    def norm(name, size):
        writer.add_tensor(name, numpy.ones(size, numpy.float32))

    matrix("token_embd.weight", config["vocab_size"], width, T.Q6_K if kind == T.Q2_K else T.Q8_0)
    for layer in range(config["num_hidden_layers"]):
        at = f"blk.{layer}."
        norm(at + "attn_norm.weight", width)
        matrix(at + "attn_q.weight", heads * head, width)
        matrix(at + "attn_k.weight", keys * head, width)
        matrix(at + "attn_v.weight", keys * head, width)
        if family == "qwen3":
            norm(at + "attn_q_norm.weight", head)
            norm(at + "attn_k_norm.weight", head)
        matrix(at + "attn_output.weight", width, heads * head)
        norm(at + "ffn_norm.weight", width)
        matrix(at + "ffn_gate.weight", ffn, width)
        matrix(at + "ffn_up.weight", ffn, width)
        matrix(at + "ffn_down.weight", width, ffn)
    norm("output_norm.weight", width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# ---- Refrain ----


def refrain_round(bits, a, folder):
    """Mean tokens per second of the prompt and of writing."""
    rules = ", ".join(f"{{match: {table}, weight: {{bits: 8}}}}" for table in ("model.embed_tokens", "lm_head"))
    config = folder / "decode.yaml"
    config.write_text(
        f"name: decode\nmodel: {{path: {a.model}, dtype: float32}}\ncheckpoint: discard\n"
        f"quant: {{method: rtn, weight: {{bits: {bits}, group_size: {a.group_size}, "
        f"symmetry: {a.symmetry}}}, rules: [{rules}]}}\n"
        f"runtime: {{linears: packed_int8}}\n"
        f"measure: {{latency: {{contexts: [{a.context}], generate: {a.generate}, repetitions: {a.repetitions}}}}}\n"
    )
    with tempfile.TemporaryDirectory(dir=folder) as out:
        subprocess.run(
            [a.launcher, "--no-build", config, "--out", out, "--threads", str(a.threads), "--quiet"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        found = json.loads(next(Path(out).glob("decode/*/results.json")).read_text())
    (at,) = found["quantized"]["latency"]["contexts"]
    return at["prompt_tokens_per_s"], at["tokens_per_s"]


# ---- both ----


def row(name, rates, peer, goals):
    cells = [name]
    for kind in ("decode", "prompt"):
        own, other = getattr(rates, kind), getattr(peer, kind)
        ratio = statistics.median(own) / statistics.median(other)
        goal = f"{goals[kind]} {'met' if ratio >= goals[kind] else 'missed'}" if goals else ""
        of_best = max(own) / max(other)
        cells += [f"{statistics.median(own):.1f}", f"{max(own):.1f}", f"{ratio:.2f}", f"{of_best:.2f}", goal]
    print("| " + " | ".join(cells) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, help="what Refrain reads: a folder in Hugging Face's format")
    parser.add_argument("--shape", choices=["1b"], help="a synthetic model of 10^9 weights, beside Q2_K")
    parser.add_argument("--peer", type=Path, help="the GGUF that llama.cpp reads; default: random blocks")
    parser.add_argument("--peer-type", default=None, choices=["Q4_0", "Q4_1", "Q2_K"], help="of random blocks")
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 2], help="of Refrain's weights")
    parser.add_argument("--group-size", type=int, default=32)
    parser.add_argument("--symmetry", default="midrise", help="asymmetric: with zero points, as Q4_1 and Q2_K have them")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--context", type=int, default=64, help="tokens of the prompt")
    parser.add_argument("--generate", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=5, help="in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--launcher", default=str(ROOT / "run_experiment"), help="the program that is built")
    a = parser.parse_args()
    if (a.model is None) == (a.shape is None):
        parser.error("name a model or a --shape")
    if a.shape is not None:
        a.model = ROOT / "build/synthetic-1b"
        if not (a.model / "config.json").exists():
            maker = [ROOT / ".venv/bin/python", ROOT / "tools/make_synthetic.py"]
            subprocess.run([*maker, "--preset", a.shape, "--out", a.model], check=True)
    a.model = a.model.resolve()
    kind = a.peer_type or ("Q2_K" if a.shape else "Q4_0")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        peer_file = a.peer
        if peer_file is None and a.model.is_file():
            peer_file = a.model
        if peer_file is None:
            peer_file = folder / "random.gguf"
            config = json.loads((a.model / "config.json").read_text())
            write_random(peer_file, config, gguf.GGMLQuantizationType[kind])
        peer = Timed(peer_file, a.threads, a.context + a.generate)
        name = f"llama.cpp, {a.peer.name if a.peer else kind}"
        rates = {bits: Rates() for bits in a.bits}
        peer_rates = Rates()
        for _ in range(a.rounds):
            for bits, own in [*rates.items(), (None, peer_rates)]:
                prompt, decode = peer.round(a) if bits is None else refrain_round(bits, a, folder)
                own.prompt.append(prompt)
                own.decode.append(decode)
    print(f"{a.threads} threads, prompt of {a.context} tokens, {a.generate} written, {a.rounds} rounds of {a.repetitions};")
    print(f"xllamacpp {llama_cpp.xllamacpp.__version__}, load average {os.getloadavg()[0]:.1f}")
    print(f"{peer.model.lib.llama_print_system_info().decode()}\nRatios are those to llama.cpp, by medians and by best rounds.\n")
    print("| what | tokens/s | best | ratio | of best | goal | prompt tokens/s | best | ratio | of best | goal |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    row(name, peer_rates, peer_rates, None)
    for bits, own in rates.items():
        row(f"Refrain, {bits} bits", own, peer_rates, {"decode": GOALS.get(bits, 1.0), "prompt": GOALS["prompt"]})


if __name__ == "__main__":
    main()
