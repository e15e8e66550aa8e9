"""llmcompressor's side of methods.py, run by the Python of its own environment: quantizes a model as told, job by job.

Reads one job a line from stdin and answers with one line on stdout, both JSON; all that llmcompressor prints goes to
stderr. The timer runs from the call of oneshot to its return: the model is loaded before, and nothing is saved.
Afterwards the weights are written as plain float32 tensors, each on its grid (`save`: a directory, or null), so that
another program can measure them.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path

ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what libraries print, already when they are imported, must not get between the answers

import torch  # noqa: E402
import xxhash  # noqa: E402
from compressed_tensors.quantization import fake_quantize  # noqa: E402
from llmcompressor import oneshot  # noqa: E402
from llmcompressor.modifiers.gptq import GPTQModifier  # noqa: E402
from llmcompressor.modifiers.quantization import QuantizationModifier  # noqa: E402
from llmcompressor.modifiers.transform.awq import AWQModifier  # noqa: E402
from llmcompressor.pipelines.cache import IntermediatesCache  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

if not torch.accelerator.is_available():  # awq of 0.14.0.1 pins memory for an accelerator and fails without one
    IntermediatesCache.pin_memory = lambda self, batch: None


def recipe_of(job):
    grid = {
        "num_bits": job["bits"],
        "type": "int",
        "symmetric": job["symmetric"],
        "strategy": "channel" if job["group_size"] == -1 else "group",
        "group_size": None if job["group_size"] == -1 else job["group_size"],
        "observer": "minmax",
        "dynamic": False,
    }
    where = {"config_groups": {"all": {"targets": ["Linear"], "weights": grid}}, "ignore": ["lm_head"]}
    if job["method"] == "gptq":
        return [GPTQModifier(**where, **job["options"])]
    return [AWQModifier(**job["options"]), QuantizationModifier(**where)]


def on_its_grid(module):
    """The weight as its codes, scales and zero points give it; GPTQ leaves it so, AWQ leaves it unrounded."""
    zero_point = getattr(module, "weight_zero_point", None)
    return fake_quantize(module.weight, module.weight_scale, zero_point, module.quantization_scheme.weights)


@torch.no_grad()
def save(model, source, folder):
    """A Hugging Face directory of `source`'s configuration and tokenizer and the model's weights in float32."""
    tensors, quantized = {}, 0
    for name, module in model.named_modules():
        if getattr(module, "quantization_scheme", None) is not None:
            tensors[f"{name}.weight"] = on_its_grid(module)
            quantized += 1
    for name, parameter in model.named_parameters():
        if not name.endswith(("_scale", "_zero_point")):
            tensors.setdefault(name, parameter)
    folder.mkdir(parents=True)
    config = json.loads((source / "config.json").read_text())
    if config.get("tie_word_embeddings"):
        tensors.pop("lm_head.weight", None)
    for key in ("torch_dtype", "dtype"):
        if key in config:
            config[key] = "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tensors = {name: tensor.detach().float().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
        if (source / name).exists():
            shutil.copy(source / name, folder / name)
    return quantized


def answer(job):
    source = Path(job["model"])
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    ids = torch.tensor(job["tokens"], dtype=torch.int32).view(-1, job["seq_len"])  # [N, T]
    batches = DataLoader([{"input_ids": window.long()} for window in ids], batch_size=job["batch"])
    tokenizer = AutoTokenizer.from_pretrained(source)
    recipe = recipe_of(job)
    wall, cpu = time.perf_counter(), time.process_time()
    oneshot(model=model, tokenizer=tokenizer, dataset=batches, recipe=recipe, pipeline="sequential")
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    result = {"wall": wall, "cpu": cpu, "token_hash": xxhash.xxh3_128_hexdigest(ids.numpy().tobytes())}
    result["fallbacks"] = [name for modifier in recipe for name in getattr(modifier, "_rtn_fallback_module_names", [])]
    if job["save"]:
        result["linears"] = save(model, source, Path(job["save"]))
    return result


def main():
    torch.set_num_threads(int(sys.argv[1]))
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=ANSWERS, flush=True)


if __name__ == "__main__":
    main()
