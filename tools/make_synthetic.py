"""Writes a Hugging Face checkpoint of any shape with random weights, for timing what a shape costs.

Weights are drawn so that activations neither vanish nor explode: standard deviation 1/sqrt(inputs), and a further
1/sqrt(2 layers) where a product is added to the residual stream (Radford 2019). Norms are one, biases small. Every
tensor has a generator of its own, keyed by seed and name: the numbers depend on neither shards nor order. Tensors are
drawn, rounded and written one after the other, so that memory holds one of them.

    .venv/bin/python tools/make_synthetic.py --out /tmp/synthetic-3gb
    .venv/bin/python tools/make_synthetic.py --out /tmp/synthetic-1b --preset 1b
"""

import argparse
import json
import shutil
import struct
import sys
import zlib
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
FAMILIES = {
    "qwen3": "Qwen3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "llama": "LlamaForCausalLM",
    "deepseek_v2": "DeepseekV2ForCausalLM",
}
PRESETS = {  # D, F, L, H, K, C, V; of a mixture also the family, E, F of one expert, shared experts and top k
    "3gb": dict(width=2048, ffn=6144, layers=28, heads=16, kv_heads=8, head_dim=128, vocab=32768),  # 1.48e9 parameters
    "1b": dict(width=2048, ffn=6144, layers=20, heads=16, kv_heads=8, head_dim=128, vocab=32768),  # 1.07e9 parameters
    "small": dict(width=256, ffn=768, layers=4, heads=4, kv_heads=2, head_dim=64, vocab=4096),
    # DeepSeek-V2-Lite (arXiv 2405.04434) with the first 3 of its 27 blocks and a small vocabulary: 1.3e9 parameters.
    "v2-lite": dict(width=2048, ffn=10944, layers=3, heads=16, kv_heads=16, head_dim=128, vocab=8192,
                    family="deepseek_v2", experts=64, expert_ffn=1408, shared=2, top_k=6, kv_rank=512, rope_dim=64),
    "small-moe": dict(width=512, ffn=1024, layers=6, heads=8, kv_heads=8, head_dim=32, vocab=4096,
                      family="deepseek_v2", experts=32, expert_ffn=256, shared=1, top_k=4, kv_rank=128, rope_dim=16),
}


def mlp_shapes(at, width, ffn):
    yield at + "gate_proj.weight", (ffn, width)
    yield at + "up_proj.weight", (ffn, width)
    yield at + "down_proj.weight", (width, ffn)


def latent_shapes(a):
    """Yields (name, shape) of every tensor: latent attention, a dense first block, then mixtures of experts."""
    yield "model.embed_tokens.weight", (a.vocab, a.width)
    for layer in range(a.layers):
        at = f"model.layers.{layer}."
        yield at + "input_layernorm.weight", (a.width,)
        yield at + "self_attn.q_proj.weight", (a.heads * (a.head_dim + a.rope_dim), a.width)
        yield at + "self_attn.kv_a_proj_with_mqa.weight", (a.kv_rank + a.rope_dim, a.width)
        yield at + "self_attn.kv_a_layernorm.weight", (a.kv_rank,)
        yield at + "self_attn.kv_b_proj.weight", (a.heads * 2 * a.head_dim, a.kv_rank)
        yield at + "self_attn.o_proj.weight", (a.width, a.heads * a.head_dim)
        yield at + "post_attention_layernorm.weight", (a.width,)
        if layer == 0:
            yield from mlp_shapes(at + "mlp.", a.width, a.ffn)
            continue
        yield at + "mlp.gate.weight", (a.experts, a.width)
        for expert in range(a.experts):
            yield from mlp_shapes(at + f"mlp.experts.{expert}.", a.width, a.expert_ffn)
        yield from mlp_shapes(at + "mlp.shared_experts.", a.width, a.shared * a.expert_ffn)
    yield "model.norm.weight", (a.width,)
    if a.untied:
        yield "lm_head.weight", (a.vocab, a.width)


def tensor_shapes(a):
    """Yields (Hugging Face name, shape) of every tensor, in the order of the file."""
    if a.family == "deepseek_v2":
        yield from latent_shapes(a)
        return
    queries, keys = a.heads * a.head_dim, a.kv_heads * a.head_dim
    yield "model.embed_tokens.weight", (a.vocab, a.width)
    for layer in range(a.layers):
        at = f"model.layers.{layer}."
        yield at + "input_layernorm.weight", (a.width,)
        for name, outputs in (("q", queries), ("k", keys), ("v", keys)):
            yield at + f"self_attn.{name}_proj.weight", (outputs, a.width)
            if a.family == "qwen2":
                yield at + f"self_attn.{name}_proj.bias", (outputs,)
        if a.family == "qwen3":
            yield at + "self_attn.q_norm.weight", (a.head_dim,)
            yield at + "self_attn.k_norm.weight", (a.head_dim,)
        yield at + "self_attn.o_proj.weight", (a.width, queries)
        yield at + "post_attention_layernorm.weight", (a.width,)
        yield from mlp_shapes(at + "mlp.", a.width, a.ffn)
    yield "model.norm.weight", (a.width,)
    if a.untied:
        yield "lm_head.weight", (a.vocab, a.width)


def draw(name, shape, a):
    """A tensor of `shape` in the asked dtype, the same for the same seed, name and shape."""
    if name.endswith("norm.weight"):
        return torch.ones(shape, dtype=getattr(torch, a.dtype))
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + (a.seed << 32))
    values = torch.empty(shape, dtype=torch.float32).normal_(generator=generator)
    if name.endswith(".bias"):
        values.mul_(0.02)
    elif name.endswith(("o_proj.weight", "down_proj.weight")):
        values.mul_((shape[1] * 2 * a.layers) ** -0.5)
    else:
        values.mul_(shape[1] ** -0.5)
    return values.to(getattr(torch, a.dtype))


def bytes_of(shape, a):
    return torch.Size(shape).numel() * getattr(torch, a.dtype).itemsize


def plan_shards(a):
    """Lists of (name, shape), none above the limit unless a single tensor is."""
    shards, filled = [[]], 0
    for name, shape in tensor_shapes(a):
        size = bytes_of(shape, a)
        if shards[-1] and filled + size > a.shard_gb * 1e9:
            shards.append([])
            filled = 0
        shards[-1].append((name, shape))
        filled += size
    return shards


def mixture_json(a):
    """What config.json of a mixture has beside the rest."""
    return {
        "moe_intermediate_size": a.expert_ffn,
        "n_routed_experts": a.experts,
        "n_shared_experts": a.shared,
        "num_experts_per_tok": a.top_k,
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "norm_topk_prob": False,
        "routed_scaling_factor": 1.0,
        "scoring_func": "softmax",
        "topk_method": "greedy",
        "n_group": 1,
        "topk_group": 1,
        "q_lora_rank": None,
        "kv_lora_rank": a.kv_rank,
        "qk_nope_head_dim": a.head_dim,
        "qk_rope_head_dim": a.rope_dim,
        "v_head_dim": a.head_dim,
        "head_dim": a.rope_dim,
    }


def config_json(a):
    config = {
        "architectures": [FAMILIES[a.family]],
        "model_type": a.family,
        "vocab_size": a.vocab,
        "hidden_size": a.width,
        "intermediate_size": a.ffn,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads,
        "head_dim": a.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "max_position_embeddings": a.context,
        "tie_word_embeddings": not a.untied,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": a.dtype,
    }
    return config | mixture_json(a) if a.family == "deepseek_v2" else config


DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def write_shard(file, tensors, a):
    """A safetensors file of these (name, shape), drawn while it is written; its data begins on 64 bytes."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors:
        end = offset + bytes_of(shape, a)
        header[name] = {"dtype": DTYPES[a.dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % 64)
    with open(file, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensors:
            out.write(draw(name, shape, a).flatten().view(torch.uint8).numpy())


def write(a):
    a.out.mkdir(parents=True, exist_ok=True)
    shards = plan_shards(a)
    index = {"metadata": {"total_size": sum(bytes_of(shape, a) for _, shape in tensor_shapes(a))}, "weight_map": {}}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else "model.safetensors"
        write_shard(a.out / file, shard, a)
        index["weight_map"].update({name: file for name, _ in shard})
        print(f"{a.out / file}: {len(shard)} tensors")
    if len(shards) > 1:
        (a.out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
        if (a.tokenizer / name).exists():
            shutil.copy(a.tokenizer / name, a.out / name)
    # Last: a directory that holds it is whole.
    (a.out / "config.json").write_text(json.dumps(config_json(a), indent=2) + "\n")


def refuse(message):
    sys.exit(f"make_synthetic: {message}")


def parse_arguments():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--out", type=Path, required=True, help="directory to write, must not hold a model yet")
    p.add_argument("--preset", choices=PRESETS, default="3gb", help="a shape; single sizes can still be given")
    for name, text in (("width", "D"), ("ffn", "F"), ("layers", "L"), ("heads", "H"), ("kv-heads", "K, divides H"),
                       ("head-dim", "C, even"), ("vocab", "V, at least the tokenizer's")):  # fmt: skip
        p.add_argument(f"--{name}", type=int, help=f"{text}; {PRESETS['3gb'][name.replace('-', '_')]} by default")
    p.add_argument("--context", type=int, default=4096, help="max_position_embeddings, tokens")
    p.add_argument("--family", choices=FAMILIES, help="qwen3, or that of the preset, by default")
    p.add_argument("--experts", type=int, help="E of a mixture, routed ones; that of the preset by default")
    p.add_argument("--untied", action="store_true", help="a head of its own instead of the embedding")
    p.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="bfloat16")
    p.add_argument("--shard-gb", type=float, default=2.0, help="10^9 bytes per file")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--tokenizer", type=Path, default=ROOT / "data/tiny-qwen3", help="directory to copy it from")
    a = p.parse_args()
    for name, size in PRESETS[a.preset].items():
        if getattr(a, name, None) is None:
            setattr(a, name, size)
    a.family = a.family or "qwen3"
    return a


def check(a):
    if (a.family == "deepseek_v2") != ("experts" in PRESETS[a.preset]):
        mixtures = ", ".join(name for name, preset in PRESETS.items() if "experts" in preset)
        refuse(f"family {a.family} does not fit preset {a.preset}. Presets of deepseek_v2: {mixtures}.")
    if a.experts is not None and "experts" not in PRESETS[a.preset]:
        refuse(f"--experts: preset {a.preset} is no mixture of experts.")
    if a.experts is not None and a.experts < a.top_k:
        refuse(f"--experts {a.experts} is less than the {a.top_k} of a token.")
    sizes = {name: getattr(a, name) for name in (*PRESETS["3gb"], "context")}
    for name, size in sizes.items():
        if size < 1:
            refuse(f"--{name.replace('_', '-')} {size} is not positive.")
    if a.heads % a.kv_heads:
        refuse(f"--kv-heads {a.kv_heads} does not divide --heads {a.heads}.")
    if a.head_dim % 2:
        refuse(f"--head-dim {a.head_dim} is odd; the rotary embedding pairs its halves.")
    if a.shard_gb <= 0:
        refuse(f"--shard-gb {a.shard_gb} is not positive.")
    if not any((a.tokenizer / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
        refuse(f"no tokenizer in {a.tokenizer}. Name a model directory by --tokenizer.")
    if (a.out / "config.json").exists():
        refuse(f"{a.out} holds a model already. Remove it or name another directory.")


if __name__ == "__main__":
    arguments = parse_arguments()
    check(arguments)
    write(arguments)
