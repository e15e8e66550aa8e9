"""Stock llama.cpp (the package xllamacpp) on files that ./export_model has written: logits of transformers on the golden
folders, decoded blocks of every type, and a quantized model's perplexity as Refrain measures it."""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))

try:
    import numpy
    from safetensors.numpy import load_file

    import llama_cpp
except ImportError as missing:
    raise unittest.SkipTest(f"{missing.name} is not installed; ./run_tests installs it") from missing

GOLDEN = ROOT / "tests" / "golden" / "models"
TOKENIZER = {  # of no text: ids are given
    "added_tokens": [], "normalizer": None, "post_processor": None, "decoder": {"type": "ByteLevel"},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel", "add_prefix_space": False}]},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}}


def run(program, *arguments):
    done = subprocess.run([ROOT / program, "--no-build", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    return done.stdout


class Exported(unittest.TestCase):
    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def golden(self, name, config=lambda keys: keys):
        """A golden folder with a tokenizer, exported."""
        folder = self.folder / name
        folder.mkdir()
        for file in (GOLDEN / name).iterdir():
            if file.suffix in (".json", ".safetensors"):
                (folder / file.name).write_bytes(file.read_bytes())
        keys = config(json.loads((folder / "config.json").read_text()))
        (folder / "config.json").write_text(json.dumps(keys))
        (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
        file = self.folder / f"{name}.gguf"
        run("export_model", folder, "--gguf", file)
        return file

    def test_golden_folders_have_the_logits_of_transformers(self):
        for name in ("llama_llama3", "llama_linear", "llama_biases", "qwen3_tied", "qwen3_moe", "deepseek"):
            with self.subTest(name):
                expected = load_file(GOLDEN / name / "expected.safetensors")
                model = llama_cpp.LlamaCpp(self.golden(name), 1, 256)
                for ids, logits in zip(expected["ids"], expected["logits"]):
                    difference = numpy.abs(model.logits_of(ids) - logits).max()
                    self.assertLess(difference, 0.02 * numpy.abs(logits).max())  # weights of 16 bits: inputs too
                model.close()

    def test_latent_attention_is_read_unsplit(self):
        def plain(keys):  # without a stretched context, of which llama.cpp has one factor
            keys["rope_scaling"] = None
            return keys

        model = llama_cpp.LlamaCpp(self.golden("deepseek_v2_yarn", plain), 1, 256)
        self.assertEqual(model.logits_of(numpy.arange(7)).shape, (7, model.vocabulary))
        model.close()

    def test_a_quantized_model_has_its_perplexity(self):
        text = (ROOT / "data" / "corpora" / "tiny" / "valid.txt")
        config = self.folder / "a.yaml"
        config.write_text(
            "name: a\nmodel: {path: tiny-qwen3}\n"
            "quant: {method: rtn, weight: {preset: q2_0}}\n"
            "measure: {perplexity: [{corpus: tiny/valid, seq_len: 128, windows: 20}]}\n"
            "sweep: {cases: [{}, {quant.weight: {preset: q4_0}}, {quant.weight: {preset: q5_1}}, "
            + ", ".join(f"{{quant.rules: [{{match: '*.down_proj', weight: {{preset: {kind}}}}}]}}"
                        for kind in ("tq2_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"))
            # three passes of two blocks, each a block of the file, with its gates in its scales
            + ", {replication: {strategy: depth, depth: {span: [2, 3], passes: 3, jitter: 0.05, gate_init: 0.2, kv: own}}}]}\n"
            "exports: {gguf: {blocks: written_out}}\n")
        run("run_experiment", config, "--out", self.folder / "runs")
        directories = [file.parent for file in (self.folder / "runs").glob("a/*/results.json")]
        self.assertEqual(len(directories), 10)  # rows of down_proj hold blocks of 256
        for directory in directories:
            ours = json.loads((directory / "results.json").read_text())["quantized"]["perplexity"][0]["ppl"]
            model = llama_cpp.LlamaCpp(directory / "model.gguf", 1, 128)
            theirs = model.perplexity(model.tokens_of(text.read_text()), 128, 20)
            self.assertLess(abs(theirs / ours - 1), 0.005, directory)  # llama.cpp rounds inputs to 8 bits
            model.close()

    def test_the_base_of_a_sidecar_runs_by_itself(self):
        """Refrain and llama.cpp read the same model out of the file beside which replicas stand."""
        text = (ROOT / "data" / "corpora" / "tiny" / "valid.txt")
        config = self.folder / "a.yaml"
        config.write_text("name: a\nmodel: {path: tiny-qwen3}\n"
                          "quant: {method: ldlq, weight: {bits: 2, group_size: 64}}\n"
                          "calibration: {samples: 16, seq_len: 128}\n"
                          "replication: {strategy: parity_sign}\nexports: {gguf: {}}\n"
                          "measure: {perplexity: [{corpus: tiny/valid, seq_len: 128, windows: 20}]}\n")
        run("run_experiment", config, "--out", self.folder / "runs")
        directory = next((self.folder / "runs").glob("a/*/results.json")).parent
        measured = {}
        for name in ("model.gguf", "model.refrain.gguf"):
            config.write_text(f"name: {name}\nmodel: {{path: {directory / name}}}\nquant: {{method: none}}\n"
                              "measure: {perplexity: [{corpus: tiny/valid, seq_len: 128, windows: 20}]}\n")
            run("run_experiment", config, "--out", self.folder / "runs")
            results = next((self.folder / "runs").glob(f"{name}/*/results.json"))
            measured[name] = json.loads(results.read_text())["quantized"]["perplexity"][0]["ppl"]
        ours = json.loads((directory / "results.json").read_text())["quantized"]["perplexity"][0]["ppl"]
        self.assertEqual(measured["model.refrain.gguf"], ours)
        model = llama_cpp.LlamaCpp(directory / "model.gguf", 1, 128)
        theirs = model.perplexity(model.tokens_of(text.read_text()), 128, 20)
        self.assertLess(abs(theirs / measured["model.gguf"] - 1), 0.005)
        self.assertGreater(measured["model.gguf"], ours)  # no type holds window codes
        model.close()

    def test_blocks_decode_as_ggml_decodes_them(self):
        """What Refrain says a block is, asked of ggml itself, on files of every type that rows of 128 hold."""
        for kind in ("q2_0", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0"):
            file, again = self.folder / f"{kind}.gguf", self.folder / f"{kind}.f32.gguf"
            run("export_model", "tiny-qwen3", "--gguf", file, "--set", f"gguf.embedding={kind}")
            run("export_model", file, "--gguf", again, "--set", "gguf.embedding=f32")
            theirs = llama_cpp.Tensors(file)
            self.assertEqual(theirs.type_of("token_embd.weight"), kind)
            numpy.testing.assert_array_equal(theirs.floats_of("token_embd.weight"),
                                             llama_cpp.Tensors(again).floats_of("token_embd.weight"), kind)


if __name__ == "__main__":
    unittest.main()
