"""Codes that Refrain exports, taken apart by the libraries of their formats: every weight must be the one of the folder that
the same run exports dequantized, bit for bit.

    .venv/bin/python bench/huggingface.py RUN     a run directory, or anything that ./export_model reads, of a grid that the
                                                  formats hold (asymmetric with integer zero points, or symmetric)

compressed_tensors by the package compressed-tensors, gptq by gptqmodel; what is not installed is left out. Symmetric ones are
also loaded by transformers, whose perplexity on random tokens is compared.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import torch
    from safetensors.torch import load_file
except ImportError as missing:
    sys.exit(f"huggingface: {missing.name} is not installed. Run: pip install torch safetensors transformers")

ROOT = Path(__file__).resolve().parent.parent


def exported(model, folder, kind):
    out = Path(folder) / kind
    subprocess.run([ROOT / "export_model", "--no-build", model, "--huggingface", out, "--set", f"huggingface.format={kind}",
                    "--set", "huggingface.dtype=float32"], check=True, capture_output=True, text=True)
    return out


def tensors_of(folder):
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def parts_of(tensors, path):
    return {name.removeprefix(path + "."): t for name, t in tensors.items() if name.startswith(path + ".")}


def by_compressed_tensors(tensors, path, config):
    from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationScheme

    parts = parts_of(tensors, path)
    parts["weight_shape"] = tuple(parts["weight_shape"].tolist())
    parts["weight_scale"] = parts["weight_scale"].float()
    scheme = QuantizationScheme(**config["config_groups"]["group_0"])
    return PackedQuantizationCompressor.decompress(parts, scheme)["weight"]


def by_gptqmodel(tensors, path, config):
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear

    parts = parts_of(tensors, path)
    outputs, inputs = parts["scales"].shape[1], parts["g_idx"].shape[0]
    linear = TorchLinear(bits=config["bits"], group_size=config["group_size"], sym=config["sym"], desc_act=False,
                              in_features=inputs, out_features=outputs, bias=False, register_buffers=True)
    for name in ("qweight", "qzeros", "scales", "g_idx"):
        getattr(linear, name).copy_(parts[name])
    linear.scales = linear.scales.float()  # products of scales and levels in float32, as ours
    linear.qzero_format(format=2)
    linear.post_init()
    return linear.dequantize_weight().t().float()


def perplexity(folder, ids):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(ids).logits[:, :-1].float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).exp().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        dense_folder = exported(a.model, scratch, "dequantized")
        dense = tensors_of(dense_folder)
        for kind, library, decode in (("compressed_tensors", "compressed_tensors", by_compressed_tensors),
                                      ("gptq", "gptqmodel", by_gptqmodel)):
            try:
                __import__(library)
            except ImportError:
                print(f"{kind}: {library} is not installed")
                continue
            try:
                folder = exported(a.model, scratch, kind)
            except subprocess.CalledProcessError as refused:
                print(f"{kind}: {refused.stderr.strip()}")
                continue
            codes = tensors_of(folder)
            config = json.loads((folder / "config.json").read_text())["quantization_config"]
            marker = ".weight_packed" if kind == "compressed_tensors" else ".qweight"
            paths = [name.removesuffix(marker) for name in codes if name.endswith(marker)]
            equal = sum(torch.equal(decode(codes, path, config), dense[path + ".weight"]) for path in paths)
            print(f"{kind}: {equal} of {len(paths)} weights equal bit for bit")
            if kind == "compressed_tensors" and config["config_groups"]["group_0"]["weights"]["symmetric"]:
                vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
                ids = torch.randint(vocabulary, (4, 64), generator=torch.Generator().manual_seed(0))
                print(f"{kind}: perplexity on random tokens {perplexity(folder, ids):.6f}, "
                      f"dequantized {perplexity(dense_folder, ids):.6f}")


if __name__ == "__main__":
    main()
