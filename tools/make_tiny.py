"""Makes the embedded default: the corpora of the tiny world and three small models trained on them.

    tools/make_tiny.py [--out data] [--seed 42] [--only MODEL] [--check]

writes   OUT/corpora/tiny/{train,valid,test}.txt   (train.txt is the first part of the text that training sees)
         OUT/tiny-qwen3/, OUT/tiny-wide-qwen3/, OUT/tiny-deepseek-moe/   (configuration, weights, tokenizer)
With --only one model is made, and the corpora again. With --check nothing is made: the perplexity of what is there is
measured in full precision and at 4, 3 and 2 bits.

Everything follows from the seed. Text and tokenizer are the same everywhere; the weights are the same only on the same
machine type, with the same library versions and number of threads, because float sums depend on their order. Training
runs on one thread, which for a model this small is nearly as fast as two: about half an hour each. Needs torch,
transformers and tokenizers, and a C++ compiler for torch.compile.
"""

import argparse
import json
import math
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM

import tiny_check
import tiny_moe
import tiny_world

CORPUS_CHARACTERS = {"train": 2_000_000, "valid": 100_000, "test": 250_000}
END_OF_TEXT = "<|endoftext|>"
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class TinyModel:
    """One embedded model: where it goes, its Hugging Face configuration, and how it is trained."""

    folder: str
    config: dict
    tokens: int  # training tokens, every one seen once
    batch: int = 8  # windows per step
    seq_len: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 0.1  # of the linear weights; embeddings and norms have none
    warmup: int = 200  # steps
    balance: float = 0.0  # weight of the mixtures' balance in the loss
    least_rise: float = tiny_check.MIN_RISE_AT_2_BITS  # of the perplexity at 2 bits


TINY_QWEN3 = TinyModel(
    folder="tiny-qwen3",
    tokens=13_000_000,
    config={
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": 1024,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-06,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": 6,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "bfloat16",
    },
)
# Rows of 256 and 768: whole blocks of every type of llama.cpp.
TINY_WIDE_QWEN3 = replace(
    TINY_QWEN3,
    folder="tiny-wide-qwen3",
    tokens=8_000_000,
    least_rise=0.04,
    config=TINY_QWEN3.config | {
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 3,
        "max_window_layers": 3,
        "head_dim": 64,
    },
)
TINY_DEEPSEEK_MOE = TinyModel(
    folder="tiny-deepseek-moe",
    tokens=3_000_000,
    balance=0.01,
    config={
        "architectures": ["DeepseekForCausalLM"],
        "model_type": "deepseek",
        "vocab_size": 1024,
        "hidden_size": 128,
        "intermediate_size": 384,
        "moe_intermediate_size": 128,
        "num_hidden_layers": 3,
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "norm_topk_prob": False,
        "scoring_func": "softmax",
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-06,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "bfloat16",
    },
)
MODELS = [TINY_QWEN3, TINY_WIDE_QWEN3, TINY_DEEPSEEK_MOE]


def write_corpora(out: Path, world: tiny_world.World, seed: int) -> None:
    folder = out / "corpora" / "tiny"
    folder.mkdir(parents=True, exist_ok=True)
    for split, size in CORPUS_CHARACTERS.items():
        (folder / f"{split}.txt").write_text(world.text(seed, split, size))


def make_tokenizer(text: str, vocabulary: int) -> Tokenizer:
    """Byte-level BPE in Qwen's form, trained on `text`; <|endoftext|> is id 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN_PATTERN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[AddedToken(END_OF_TEXT, special=True, normalized=False)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def write_description(folder: Path, model: TinyModel, tokenizer: Tokenizer) -> None:
    """Everything of a model directory but the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_bos_token": False,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "model_max_length": model.config["max_position_embeddings"],
    }
    (folder / "config.json").write_text(json.dumps(model.config, indent=2) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    tokenizer.save(str(folder / "tokenizer.json"))


def write_weights(folder: Path, network: torch.nn.Module) -> None:
    """model.safetensors in bfloat16; the tied head is not stored. Replaces the old file in one step."""
    state = {k: v.detach().to(torch.bfloat16) for k, v in network.state_dict().items() if k != "lm_head.weight"}
    save_file(state, folder / "model.safetensors.tmp", metadata={"format": "pt"})
    os.chmod(folder / "model.safetensors.tmp", 0o644)
    os.replace(folder / "model.safetensors.tmp", folder / "model.safetensors")


def training_windows(world: tiny_world.World, seed: int, tokenizer: Tokenizer, model: TinyModel) -> torch.Tensor:
    """The training text as token ids, in shuffled windows [N, seq_len + 1]; the text starts with train.txt."""
    pieces, total, documents = [], 0, world.documents(seed, "train")
    while total < model.tokens:
        some = [next(documents) + "\n\n" for _ in range(4096)]
        for encoding in tokenizer.encode_batch_fast(some, add_special_tokens=False):
            pieces.append(np.array(encoding.ids, dtype=np.int16))
            total += len(encoding.ids)
    ids = torch.from_numpy(np.concatenate(pieces))
    windows = ids[: len(ids) // (model.seq_len + 1) * (model.seq_len + 1)].view(-1, model.seq_len + 1)
    return windows[torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))]


def make_optimizer(network: torch.nn.Module, model: TinyModel) -> torch.optim.Optimizer:
    decayed = [p for n, p in network.named_parameters() if p.dim() == 2 and "embed" not in n]
    others = [p for n, p in network.named_parameters() if p.dim() != 2 or "embed" in n]
    groups = [{"params": decayed, "weight_decay": model.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=model.learning_rate, betas=(0.9, 0.98), fused=True)


def rate(step: int, steps: int, model: TinyModel) -> float:
    """Linear warm-up, then a cosine down to zero."""
    if step < model.warmup:
        return model.learning_rate * (step + 1) / model.warmup
    return model.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - model.warmup) / (steps - model.warmup)))


def train(network: torch.nn.Module, windows: torch.Tensor, valid: torch.Tensor, model: TinyModel, folder: Path) -> None:
    """One pass over `windows`; now and then prints the validation loss and saves the weights so far."""
    optimizer = make_optimizer(network, model)
    compiled = network if model.balance else torch.compile(network)  # a mixture's shapes follow from its tokens
    batches = windows.split(model.batch)
    steps = len(windows) // model.batch
    start = time.time()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps, model)
        ids = batches[step].long()
        logits = compiled(input_ids=ids[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        (loss + model.balance * tiny_moe.balance(network)).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if step == 100 or step % 500 == 0 or step == steps - 1:
            speed = (step + 1) * model.batch * model.seq_len / (time.time() - start)
            print(f"step {step}/{steps}  train {loss.item():.4f}  valid {tiny_check.nll(network, valid):.4f} nats  "
                  f"{speed:.0f} tokens/s", flush=True)
            write_weights(folder, network)


def make_model(out: Path, world: tiny_world.World, seed: int, model: TinyModel) -> None:
    folder, corpora = out / model.folder, out / "corpora" / "tiny"
    tokenizer = make_tokenizer((corpora / "train.txt").read_text(), model.config["vocab_size"])
    write_description(folder, model, tokenizer)
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)  # ten times faster once the model is sure of something
    network = (tiny_moe.make(model.config) if model.config["model_type"] == "deepseek" else
               AutoModelForCausalLM.from_config(AutoConfig.for_model(**model.config), dtype=torch.float32))
    write_weights(folder, network)
    windows = training_windows(world, seed, tokenizer, model)
    parameters = sum(p.numel() for p in network.parameters())
    print(f"{model.folder}: {parameters} parameters, {windows.numel()} tokens, "
          f"{windows.numel() / parameters:.1f} per parameter, {torch.get_num_threads()} threads", flush=True)
    valid = tiny_check.windows_of((corpora / "valid.txt").read_text(), tokenizer, model.seq_len)
    train(network, windows, valid, model, folder)


def main() -> int:
    parser = argparse.ArgumentParser(description="Makes data/corpora/tiny and the models in data/, or checks them.")
    parser.add_argument("--out", type=Path, default=Path("data"), help="where to write (default: data)")
    parser.add_argument("--seed", type=int, default=42, help="of the world, the text, the weights (default: 42)")
    parser.add_argument("--only", choices=[model.folder for model in MODELS], help="make or check this model only")
    parser.add_argument("--check", action="store_true", help="make nothing; print the table of perplexities")
    options = parser.parse_args()
    torch.set_num_threads(1)
    world = tiny_world.World(options.seed)
    chosen = [model for model in MODELS if options.only in (None, model.folder)]
    if not options.check:
        write_corpora(options.out, world, options.seed)
        for model in chosen:
            make_model(options.out, world, options.seed, model)
    text = options.out / "corpora" / "tiny" / "test.txt"
    good = [tiny_check.check(options.out / model.folder, text, world, model.least_rise) for model in chosen]
    return 0 if all(good) else 1


if __name__ == "__main__":
    raise SystemExit(main())
