"""A plain mixture of experts in DeepSeekMoE's first format (Dai 2024, arXiv 2401.06066), to train and to check with.

transformers has no class for it: the attention is Llama's, the feed-forward of all but the first layers is `Moe`. Tensor
names are those of the format, so that state_dict() is the checkpoint.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP


class Moe(torch.nn.Module):
    """Shared experts see every token, the router sends it to `top_k` others; one product per expert, on its tokens.

    After forward, `balance` holds E Σ_e f_e p_e, f_e the share of the routed places that expert e got and p_e its mean
    probability: 1 when all are used alike (Fedus 2021, arXiv 2101.03961, equation 4).
    """

    def __init__(self, config: LlamaConfig, keys: dict):
        super().__init__()
        mlp = lambda width: LlamaMLP(LlamaConfig(**{**config.to_dict(), "intermediate_size": width}))
        self.top_k, ffn = keys["num_experts_per_tok"], keys["moe_intermediate_size"]
        self.gate = torch.nn.Linear(config.hidden_size, keys["n_routed_experts"], bias=False)
        self.experts = torch.nn.ModuleList(mlp(ffn) for _ in range(keys["n_routed_experts"]))
        self.shared_experts = mlp(ffn * keys["n_shared_experts"])
        self.balance = torch.tensor(1.0)
        for linear in self.modules():
            if isinstance(linear, torch.nn.Linear):
                torch.nn.init.normal_(linear.weight, std=config.initializer_range)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(0, -2)  # [N, D]
        probability = self.gate(tokens).softmax(-1)  # [N, E]
        weights, chosen = probability.topk(self.top_k, -1)  # [N, k]
        order = chosen.flatten().argsort(stable=True)  # the N · k places, one expert after the other
        counts = chosen.flatten().bincount(minlength=len(self.experts))
        share = counts / counts.sum()
        self.balance = len(self.experts) * (share * probability.mean(0)).sum()
        rows = order // self.top_k
        parts = [expert(part) for expert, part in zip(self.experts, tokens[rows].split(counts.tolist()))]
        routed = torch.cat(parts) * weights.flatten()[order, None]
        return (self.shared_experts(tokens).index_add(0, rows, routed)).view_as(x)


def make(config: dict) -> LlamaForCausalLM:
    """A new model of a `deepseek` config.json; random weights."""
    llama = LlamaConfig(**{k: v for k, v in config.items() if k not in ("model_type", "architectures")})
    network = LlamaForCausalLM(llama)
    for layer in network.model.layers[config["first_k_dense_replace"] :]:
        layer.mlp = Moe(llama, config)
    return network


def load(folder: Path) -> LlamaForCausalLM:
    """The model of a directory, in float32."""
    network = make(json.loads((folder / "config.json").read_text()))
    missing, unexpected = network.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    assert not unexpected and missing in ([], ["lm_head.weight"]), (missing, unexpected)
    return network.float().eval()


def balance(network: torch.nn.Module) -> torch.Tensor:
    """The mean balance of the mixtures in their last forward; 0 for a model without."""
    values = [module.balance for module in network.modules() if isinstance(module, Moe)]
    return torch.stack(values).mean() if values else torch.tensor(0.0)
