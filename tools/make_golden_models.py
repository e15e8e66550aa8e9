"""Writes tests/golden/models: tiny random checkpoints of every variant, and what transformers computes on them in float32.

Each directory holds config.json, the weights in one file or in shards, and expected.safetensors:
  ids [B, T] int64, block.<i> [B, T, D] (the hidden state after block i), logits [B, T, V], inverse_frequency [C/2] (of the
  rotary embedding, radians per token) and attention_scale [1].
Weights are rounded to the storage dtype before the model computes with them. Usage: .venv/bin/python tools/make_golden_models.py
"""

import pathlib
import shutil

import torch
import transformers
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "models"
VERSION = "4.57.6"  # of transformers: other versions write other configs
BATCH, TOKENS = 2, 16

COMMON = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
              vocab_size=48, max_position_embeddings=64, bos_token_id=0, eos_token_id=0, tie_word_embeddings=False)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32, beta_fast=4.0, beta_slow=0.5)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)

# name: (config class, model class, storage dtype, sharded, keys beyond COMMON)
VARIANTS = {
    "qwen3_tied": (Qwen3Config, Qwen3ForCausalLM, torch.bfloat16, False, dict(head_dim=16, tie_word_embeddings=True)),
    "qwen3_sharded": (Qwen3Config, Qwen3ForCausalLM, torch.float32, True, dict(head_dim=8, intermediate_size=32, vocab_size=40, attention_bias=True)),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, torch.float16, False, dict()),
    "qwen2_yarn": (Qwen2Config, Qwen2ForCausalLM, torch.bfloat16, False,
                   dict(head_dim=16, rope_theta=100.0, rope_scaling=YARN, max_position_embeddings=128,
                        tie_word_embeddings=True)),
    "llama_linear": (LlamaConfig, LlamaForCausalLM, torch.float32, False,
                     dict(num_key_value_heads=1, rope_scaling=dict(rope_type="linear", factor=3.0))),
    "llama_llama3": (LlamaConfig, LlamaForCausalLM, torch.bfloat16, True,
                     dict(head_dim=16, rope_theta=500.0, rope_scaling=LLAMA3, tie_word_embeddings=True)),
    "llama_biases": (LlamaConfig, LlamaForCausalLM, torch.float16, False,
                     dict(num_key_value_heads=4, attention_bias=True, mlp_bias=True)),
}


def fill(model, dtype, seed):
    """Random weights whose every part matters: norms are not ones, biases not zeros, and logits spread over several nats."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:
            value = 1.0 + 0.3 * noise
        elif name.endswith("bias"):
            value = 0.5 * noise
        elif "embed" in name:
            value = noise
        else:
            value = 1.5 * noise / parameter.shape[1] ** 0.5
        parameter.data = value.to(dtype).float()


@torch.no_grad()
def expected(model, seed):
    """What the model computes, by tensor name."""
    ids = torch.randint(0, model.config.vocab_size, (BATCH, TOKENS), generator=torch.Generator().manual_seed(seed))
    out = {"ids": ids}
    for i, layer in enumerate(model.model.layers):
        layer.register_forward_hook(
            lambda _, __, hidden, i=i: out.update({f"block.{i}": hidden[0] if isinstance(hidden, tuple) else hidden}))
    out["logits"] = model(ids, use_cache=False).logits
    rotary = model.model.rotary_emb
    out["inverse_frequency"] = rotary.inv_freq
    out["attention_scale"] = torch.tensor([rotary.attention_scaling])
    return {name: tensor.clone().contiguous() for name, tensor in out.items()}


def write(name, seed):
    config_class, model_class, dtype, sharded, keys = VARIANTS[name]
    directory = OUT / name
    directory.mkdir(parents=True)
    model = model_class(config_class(**{**COMMON, **keys})).float().eval()
    fill(model, dtype, seed)
    values = expected(model, seed)
    model.to(dtype).save_pretrained(directory, max_shard_size="16KB" if sharded else "1GB")
    (directory / "generation_config.json").unlink()
    save_file(values, directory / "expected.safetensors")
    for file in directory.iterdir():
        file.chmod(0o644)
    size = sum(file.stat().st_size for file in directory.iterdir())
    print(f"{name}: {size} bytes, logits within {values['logits'].abs().max():.1f}")


def main():
    if transformers.__version__ != VERSION:
        raise SystemExit(f"make_golden_models.py needs transformers {VERSION}, found {transformers.__version__}.")
    torch.set_num_threads(1)
    shutil.rmtree(OUT, ignore_errors=True)
    for seed, name in enumerate(VARIANTS):
        write(name, seed)


if __name__ == "__main__":
    main()
