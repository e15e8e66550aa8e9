"""Does the tiny model prove anything? Its perplexity in full precision and after 4-, 3- and 2-bit round to nearest.

Perplexity: the `gptq` protocol (one string, one tokenisation, non-overlapping windows, every position scored, no BOS).
Round to nearest: asymmetric grid, range min/max widened to contain 0, integer zero point, scale rounded to float16,
groups of 64 along the input dimension, every linear of every block; embeddings, norms and routers stay as they are.

Facts recalled: sentences in the phrasing that only the test text uses, cut before the value; the share whose value the
model then writes greedily, word for word. It shows that the text needs the facts, and that quantization forgets them.
"""

import json
import math
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

import tiny_moe
import tiny_world

GROUP_SIZE = 64
SEQ_LEN = 256
FACTS = 500  # asked for the share of facts recalled
MAX_RISE_AT_4_BITS = 0.03  # 4 bits must hardly hurt,
MIN_RISE_AT_2_BITS = 0.20  # 2 bits must hurt visibly (relative rise of the perplexity)


def windows_of(text: str, tokenizer: Tokenizer, seq_len: int) -> torch.Tensor:
    """Token ids [windows, seq_len]; the tail that does not fill a window is dropped."""
    ids = torch.tensor(tokenizer.encode(text, add_special_tokens=False).ids)
    return ids[: len(ids) // seq_len * seq_len].view(-1, seq_len)


@torch.no_grad()
def nll(model: torch.nn.Module, windows: torch.Tensor, batch: int = 16) -> float:
    """Mean negative log likelihood per scored position, in nats."""
    total = 0.0
    for ids in windows.split(batch):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        total += losses.double().sum().item()
    return total / (windows.shape[0] * (windows.shape[1] - 1))


def round_to_nearest(w: torch.Tensor, bits: int, group_size: int = GROUP_SIZE) -> torch.Tensor:
    """w [O, I] -> the nearest levels s (k - z) of each group's grid, [O, I] in float32."""
    groups = w.float().reshape(w.shape[0], -1, group_size)
    lo = groups.amin(-1, keepdim=True).clamp(max=0)
    hi = groups.amax(-1, keepdim=True).clamp(min=0)
    top = 2**bits - 1
    scale = ((hi - lo) / top).half().float().clamp(min=2**-24)  # float16's smallest number; all zeros: any will do
    zero = (-lo / scale).round().clamp(0, top)
    codes = (groups / scale + zero).round().clamp(0, top)
    return (scale * (codes - zero)).reshape(w.shape)


def quantize_blocks(model: torch.nn.Module, bits: int) -> None:
    """Replaces the weight of every linear inside the blocks but the routers, in place."""
    for name, module in model.model.layers.named_modules():
        if isinstance(module, torch.nn.Linear) and not name.endswith("mlp.gate"):
            module.weight.data = round_to_nearest(module.weight.data, bits)


def questions(world: tiny_world.World, tokenizer: Tokenizer, count: int) -> list[tuple[list[int], list[int]]]:
    """`count` facts as (ids up to the value, ids of the value), in sentences that training never saw."""
    rng, result = random.Random("questions"), []
    writer = tiny_world.Writer(world, rng, "test")
    while len(result) < count:
        entity = rng.choices(world.entities, world.weights)[0]
        attribute = rng.choice(list(entity.facts))
        sentence = "\n\n" + writer.sentence(entity, attribute, named=True)
        value = entity.facts[attribute]
        at = sentence.rindex(value)
        if sentence.lower().find(entity.name.lower()) < at:  # the subject comes first: the value can be known
            known = tokenizer.encode(sentence[:at].rstrip(" ")).ids
            result.append((known, tokenizer.encode(sentence[: at + len(value)]).ids[len(known) :]))
    return result


@torch.no_grad()
def recalled(model: torch.nn.Module, facts: list[tuple[list[int], list[int]]]) -> float:
    """The share of facts whose every token of the value is the model's first choice."""
    right = 0
    for known, value in facts:
        logits = model(input_ids=torch.tensor([known + value[:-1]]), use_cache=False).logits[0, len(known) - 1 :]
        right += logits.argmax(-1).tolist() == value
    return right / len(facts)


def load(folder: Path) -> torch.nn.Module:
    """The model of a directory, in float32."""
    if json.loads((folder / "config.json").read_text())["model_type"] == "deepseek":
        return tiny_moe.load(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def check(folder: Path, text: Path, world: tiny_world.World, least_rise: float = MIN_RISE_AT_2_BITS) -> bool:
    """Prints the table of one model directory; true if 2 bits cost at least `least_rise` and 4 bits little enough."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    windows, facts = windows_of(text.read_text(), tokenizer, SEQ_LEN), questions(world, tokenizer, FACTS)
    print(f"{folder} on {text}: {windows.shape[0]} windows of {SEQ_LEN} tokens, gptq protocol, float32")
    print("| weights | NLL | perplexity | rise | facts recalled |\n|---|---|---|---|---|")
    rise, full = {}, 0.0
    for bits in (16, 4, 3, 2):
        model = load(folder)
        if bits < 16:
            quantize_blocks(model, bits)
        value = nll(model, windows)
        full = value if bits == 16 else full
        rise[bits] = math.exp(value - full) - 1
        name = "full precision" if bits == 16 else f"{bits} bits, rtn, g{GROUP_SIZE}"
        share = recalled(model, facts)
        print(f"| {name} | {value:.5f} | {math.exp(value):.4f} | {rise[bits]:+.2%} | {share:.0%} |", flush=True)
    good = rise[2] >= least_rise and rise[4] < MAX_RISE_AT_4_BITS
    print("check:", "passed" if good else f"FAILED: 2 bits must cost at least {least_rise:.0%}, 4 bits less than 3 %.")
    return good
