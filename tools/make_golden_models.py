"""Writes tests/golden/models: tiny random checkpoints of every variant, and what transformers computes on them in float32.
Of `deepseek`, which transformers does not have, what Llama with the plain mixture of experts below computes.

Each directory holds config.json, the weights in one file or in shards, and expected.safetensors:
  ids [B, T] int64, block.<i> [B, T, D] (the hidden state after block i), logits [B, T, V], inverse_frequency [C/2] (of the
  rotary embedding, radians per token) and attention_scale [1].
Weights are rounded to the storage dtype before the model computes with them. A config.json that is there stays: those of
the repository have the spellings of transformers 4, tests/models/spellings_test.cpp has those of transformers 5.
Usage: .venv/bin/python tools/make_golden_models.py [VARIANT]...
"""

import json
import pathlib
import shutil
import sys

import torch
import transformers
from safetensors.torch import save_file
from transformers import (DeepseekV2Config, DeepseekV2ForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config,
                          Qwen2ForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM, Qwen3Config, Qwen3ForCausalLM,
                          Qwen3MoeConfig, Qwen3MoeForCausalLM)

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "models"
VERSION = "5.24.0"  # of transformers: other versions write other configs
BATCH, TOKENS = 2, 16

COMMON = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
              vocab_size=48, max_position_embeddings=64, bos_token_id=0, eos_token_id=0, tie_word_embeddings=False)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32, beta_fast=4.0, beta_slow=0.5)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)

DEEPSEEK_YARN = dict(rope_type="yarn", factor=40.0, original_max_position_embeddings=32, beta_fast=4.0, beta_slow=0.5,
                     mscale=0.707, mscale_all_dim=0.9)
LATENT = dict(kv_lora_rank=8, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=6, num_key_value_heads=4,
              n_routed_experts=6, num_experts_per_tok=3, n_shared_experts=2, moe_intermediate_size=16,
              first_k_dense_replace=1, routed_scaling_factor=1.5, topk_method="greedy", head_dim=4)
DEEPSEEK = dict(n_routed_experts=6, num_experts_per_tok=2, n_shared_experts=2, moe_intermediate_size=16,
                first_k_dense_replace=1, moe_layer_freq=1, norm_topk_prob=False, scoring_func="softmax")


class PlainMoe(torch.nn.Module):
    """DeepSeekMoE (arXiv 2401.06066, equations 3 to 5), one token after the other."""

    def __init__(self, mlp_class, config, keys):
        super().__init__()
        self.keys = keys
        mlp = lambda width: mlp_class(type(config)(**{**config.to_dict(), "intermediate_size": width}))
        self.gate = torch.nn.Linear(config.hidden_size, keys["n_routed_experts"], bias=False)
        self.experts = torch.nn.ModuleList(mlp(keys["moe_intermediate_size"]) for _ in range(keys["n_routed_experts"]))
        self.shared_experts = mlp(keys["moe_intermediate_size"] * keys["n_shared_experts"])

    def forward(self, x):
        out = self.shared_experts(x)
        for index in torch.cartesian_prod(*map(torch.arange, x.shape[:2])):
            token = x[tuple(index)]
            scores = self.gate(token).softmax(-1)
            chosen = scores.argsort(descending=True)[:self.keys["num_experts_per_tok"]]
            total = scores[chosen].sum() if self.keys["norm_topk_prob"] else 1.0
            for e in chosen:
                out[tuple(index)] += scores[e] / total * self.experts[e](token)
        return out


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
    "qwen2_moe": (Qwen2MoeConfig, Qwen2MoeForCausalLM, torch.float16, False,
                  dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=20,
                       decoder_sparse_step=2)),
    "qwen3_moe": (Qwen3MoeConfig, Qwen3MoeForCausalLM, torch.bfloat16, True,
                  dict(head_dim=16, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=16, norm_topk_prob=True,
                       tie_word_embeddings=True)),
    "deepseek": (LlamaConfig, LlamaForCausalLM, torch.bfloat16, False, dict(num_key_value_heads=4)),
    "deepseek_v2": (DeepseekV2Config, DeepseekV2ForCausalLM, torch.float32, False, dict(**LATENT, q_lora_rank=None)),
    "deepseek_v2_yarn": (DeepseekV2Config, DeepseekV2ForCausalLM, torch.bfloat16, False,
                         dict(**LATENT, q_lora_rank=12, rope_scaling=DEEPSEEK_YARN, max_position_embeddings=1280)),
}


def adapt(name, model):
    """What the class of a variant does not do by itself."""
    if name == "deepseek":
        for layer in model.model.layers[DEEPSEEK["first_k_dense_replace"]:]:
            layer.mlp = PlainMoe(type(layer.mlp), model.config, DEEPSEEK)


def linears(model):
    """The parameters in the order of transformers 4: the experts of a layer, fused by transformers 5, are separate."""
    router_first = model.config.model_type == "qwen3_moe"
    for name, parameter in model.named_parameters():
        prefix, _, kind = name.rpartition(".experts.")
        if kind == "gate_up_proj":
            if router_first:
                yield f"{prefix}.gate.weight", model.get_parameter(f"{prefix}.gate.weight").data
            for e, (gate_up, down) in enumerate(zip(parameter.data, model.get_submodule(f"{prefix}.experts").down_proj)):
                gate, up = gate_up.chunk(2)
                for part, value in dict(gate_proj=gate, up_proj=up, down_proj=down.data).items():
                    yield f"{prefix}.experts.{e}.{part}.weight", value
        elif not kind == "down_proj" and not (router_first and name.endswith("mlp.gate.weight")):
            yield name, parameter.data


def fill(model, dtype, seed):
    """Random weights whose every part matters: norms are not ones, biases not zeros, and logits spread over several nats."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in linears(model):
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:
            value = 1.0 + 0.3 * noise
        elif name.endswith("bias"):
            value = 0.5 * noise
        elif "embed" in name:
            value = noise
        else:
            value = 1.5 * noise / parameter.shape[1] ** 0.5
        parameter.copy_(value.to(dtype))


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
    kept = (directory / "config.json").read_text() if (directory / "config.json").exists() else None
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    model = model_class(config_class(**{**COMMON, **keys})).float().eval()
    adapt(name, model)
    fill(model, dtype, seed)
    values = expected(model, seed)
    model.to(dtype).save_pretrained(directory, max_shard_size="16KB" if sharded else "1GB")
    (directory / "generation_config.json").unlink()
    if name == "deepseek":
        config = json.loads((directory / "config.json").read_text())
        config |= DEEPSEEK | {"model_type": "deepseek", "architectures": ["DeepseekForCausalLM"]}
        (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if kept is not None:
        (directory / "config.json").write_text(kept)
    save_file(values, directory / "expected.safetensors")
    for file in directory.iterdir():
        file.chmod(0o644)
    size = sum(file.stat().st_size for file in directory.iterdir())
    print(f"{name}: {size} bytes, logits within {values['logits'].abs().max():.1f}")


def main():
    if transformers.__version__ != VERSION:
        raise SystemExit(f"make_golden_models.py needs transformers {VERSION}, found {transformers.__version__}.")
    torch.set_num_threads(1)
    chosen = sys.argv[1:] or list(VARIANTS)
    for seed, name in enumerate(VARIANTS):
        if name not in chosen:
            continue
        write(name, seed)


if __name__ == "__main__":
    main()
