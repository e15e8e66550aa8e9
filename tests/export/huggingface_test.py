"""Folders that ./export_model has written: transformers loads the weights and finds Refrain's perplexity; codes of gptq and
compressed_tensors, taken apart by the definitions of those formats, are the same weights. (bench/huggingface.py lets the
libraries of the formats load them.)"""

import json
import math
import subprocess
import tempfile
import unittest
from pathlib import Path

try:
    import numpy
    import torch
    import transformers
    from safetensors.torch import load_file
except ImportError as missing:
    raise unittest.SkipTest(f"{missing.name} is not installed; ./run_tests installs it") from missing

ROOT = Path(__file__).resolve().parents[2]


def run(program, *arguments):
    done = subprocess.run([ROOT / program, "--no-build", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())


def tensors_of(folder):
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def bits_of(words, bits):
    """[R, C] int32 words -> [R, 32 C / bits] integers: `bits` bits each, lowest first, across words."""
    stream = (words.numpy().astype("<u4")[..., None] >> numpy.arange(32, dtype=numpy.uint32)) & 1
    stream = stream.reshape(words.shape[0], -1, bits)
    return torch.from_numpy((stream << numpy.arange(bits, dtype=numpy.uint32)).sum(-1).astype(numpy.int64))


class Exported(unittest.TestCase):
    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def runs(self, cases):
        """The run directories of `cases`, exported in full."""
        out = Path(tempfile.mkdtemp(dir=self.folder))
        config = out / "a.yaml"
        config.write_text(
            "name: a\nmodel: {path: tiny-qwen3}\nquant: {method: rtn}\n"
            "measure: {perplexity: [{corpus: tiny/valid, seq_len: 128, windows: 10}]}\n"
            f"sweep: {{cases: {json.dumps(cases)}}}\n"
            "exports: {huggingface: {dtype: float32}}\n")
        run("run_experiment", config, "--out", out)
        return [file.parent for file in out.glob("a/*/results.json")]

    def test_transformers_has_our_perplexity(self):
        (directory,) = self.runs([{"quant.weight": {"bits": 3, "group_size": 32, "incoherence": {"hadamard": "both"}}}])
        ours = json.loads((directory / "results.json").read_text())["quantized"]["perplexity"][0]["ppl"]
        model = transformers.AutoModelForCausalLM.from_pretrained(directory / "huggingface", dtype=torch.float32)
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory / "huggingface")
        text = (ROOT / "data" / "corpora" / "tiny" / "valid.txt").read_text()
        ids = torch.tensor(tokenizer(text, add_special_tokens=False).input_ids)[: 10 * 128].reshape(10, 128)
        with torch.no_grad():
            logits = model(ids).logits[:, :-1]
        theirs = math.exp(torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).item())
        self.assertLess(abs(theirs / ours - 1), 1e-4)

    def test_codes_are_the_weights(self):
        cases = [("gptq", {"bits": bits, "group_size": 32, "symmetry": symmetry})
                 for bits in (2, 3, 4, 8) for symmetry in ("asymmetric", "span")]
        cases += [("compressed_tensors", {"bits": bits, "group_size": size, "symmetry": symmetry})
                  for bits, size in ((4, 64), (8, -1)) for symmetry in ("asymmetric", "span")]
        for i, (kind, weight) in enumerate(cases):
            (directory,) = self.runs([{"quant.weight": weight}])
            packed = self.folder / f"packed{i}"
            run("export_model", directory, "--huggingface", packed, "--set", f"huggingface.format={kind}")
            weights, codes = tensors_of(directory / "huggingface"), tensors_of(packed)
            config = json.loads((packed / "config.json").read_text())["quantization_config"]
            for path in ("model.layers.0.self_attn.k_proj", "model.layers.5.mlp.down_proj"):
                made = (gptq if kind == "gptq" else compressed)(codes, path, config)
                self.assertTrue(torch.equal(made, weights[path + ".weight"]), (kind, weight, path))


def gptq(codes, path, config):
    """s (q - z), [O, I]: qweight [I b / 32, O], qzeros [G, O b / 32], scales [G, O], g_idx [I]."""
    q = bits_of(codes[path + ".qweight"].t().contiguous(), config["bits"])  # [O, I]
    z = bits_of(codes[path + ".qzeros"], config["bits"])  # [G, O]
    group = codes[path + ".g_idx"].long()
    scale = codes[path + ".scales"].float()
    assert (z == 1 << (config["bits"] - 1)).all() or not config["sym"]
    return (q - z[group].t()).float() * scale[group].t()


def compressed(codes, path, config):
    """s (q' - z'), [O, I], with q' and z' stored 2^(b - 1) higher."""
    weights = config["config_groups"]["group_0"]["weights"]
    bits = weights["num_bits"]
    q = bits_of(codes[path + ".weight_packed"], bits)  # [O, I]
    scale = codes[path + ".weight_scale"].float()  # [O, G]
    zero = torch.full(scale.shape, 1 << (bits - 1))
    if not weights["symmetric"]:
        zero = bits_of(codes[path + ".weight_zero_point"].t().contiguous(), bits).t()
    assert codes[path + ".weight_shape"].tolist() == list(q.shape)
    repeat = q.shape[1] // scale.shape[1]
    return (q - zero.repeat_interleave(repeat, 1)).float() * scale.repeat_interleave(repeat, 1)


if __name__ == "__main__":
    unittest.main()
