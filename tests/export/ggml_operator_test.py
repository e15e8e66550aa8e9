"""The operator of export/ggml in graphs of ggml itself (the package xllamacpp) against plain products with weights that
are decoded here, from the two files of an export by what docs/gguf_extension.md says of them.

REFRAIN_GGML names another library than build/bin/librefrain_ggml.so."""

import ctypes
import json
import os
import struct
import sys
import tempfile
import unittest
from pathlib import Path

from llama_cpp_test import ROOT, run  # skips what follows where a package is missing

import llama_cpp
import numpy
from safetensors.numpy import save_file

ENDING = "dylib" if sys.platform == "darwin" else "so"
LIBRARY = Path(os.environ.get("REFRAIN_GGML") or ROOT / "build" / "bin" / f"librefrain_ggml.{ENDING}")
F32 = 0  # GGML_TYPE_F32
ALL_TASKS = -1  # GGML_N_TASKS_MAX
NEAR = 1e-5  # of the largest output

# ---- files ----


class Gguf:
    """Keys and tensors of a GGUF file, shapes with the outermost axis first."""

    NUMBERS = "BbHhIif?"  # of the types 0 to 7; 8 is a text, 9 a list, 10 to 12 are numbers again
    PLAIN = {0: numpy.float32, 1: numpy.float16, 24: numpy.uint8}  # of ours, bytes stand as I8

    def __init__(self, path):
        self.raw, self.at, self.path = path.read_bytes(), 0, path
        self._number("I"), self._number("I")  # GGUF, version
        tensors, keys = self._number("Q"), self._number("Q")
        self.keys = {self._text(): self._value(self._number("I")) for _ in range(keys)}
        self.tensors = {}
        for _ in range(tensors):
            name = self._text()
            shape = tuple(self._number("Q") for _ in range(self._number("I")))[::-1]
            self.tensors[name] = shape, self._number("I"), self._number("Q")
        step = self.keys.get("general.alignment", 32)
        self.start = -(-self.at // step) * step

    def _number(self, code):
        size = struct.calcsize("<" + code)
        self.at += size
        return struct.unpack_from("<" + code, self.raw, self.at - size)[0]

    def _text(self):
        size = self._number("Q")
        self.at += size
        return self.raw[self.at - size : self.at].decode()

    def _value(self, kind):
        if kind == 8:
            return self._text()
        if kind == 9:
            kind = self._number("I")
            return [self._value(kind) for _ in range(self._number("Q"))]
        return self._number(self.NUMBERS[kind] if kind < 8 else "Qqd"[kind - 10])

    def plain(self, name):
        """A tensor of numbers as they lie in the file."""
        shape, kind, offset = self.tensors[name]
        return numpy.frombuffer(self.raw, self.PLAIN[kind], int(numpy.prod(shape)), self.start + offset).reshape(shape)

    def decoded(self, name):
        """The same of any type, by ggml."""
        return llama_cpp.Tensors(self.path).floats_of(name).reshape(self.tensors[name][0])


def unpacked(packed, count, bits):
    """Integers of `bits` bits [rows, count], least significant bits first, every row from a new byte on."""
    stream = numpy.unpackbits(packed, axis=1, bitorder="little")[:, : count * bits].reshape(len(packed), count, bits)
    return (stream << numpy.arange(bits)).sum(axis=2)


def per_weight(values, shape):
    """[O, G], or one number for the matrix as [1, 1] -> [O, I] float64."""
    values = numpy.repeat(numpy.asarray(values, numpy.float64), shape[1] // values.shape[1], axis=1)
    return numpy.broadcast_to(values, shape)


IN_BASE = {"mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "self_attn.q_proj": "attn_q",
           "self_attn.k_proj": "attn_k", "self_attn.o_proj": "attn_output"}


class Exported:
    """model.gguf and model.refrain.gguf of a run."""

    def __init__(self, directory):
        self.base, self.sidecar = Gguf(directory / "model.gguf"), Gguf(directory / "model.refrain.gguf")
        self.modules = json.loads(self.sidecar.keys["refrain.manifest"])["modules"]

    def order(self, linear, rows):
        """Where row o of a linear is in the base."""
        o = numpy.arange(rows)
        architecture = self.base.keys["general.architecture"]
        if architecture != "llama" or linear not in ("self_attn.q_proj", "self_attn.k_proj"):
            return o
        width = self.base.keys["llama.embedding_length"] // self.base.keys["llama.attention.head_count"]
        width = self.base.keys.get("llama.attention.key_length", width)
        within = o % width
        return o - within + numpy.where(within < width // 2, 2 * within, 2 * within - width + 1)

    def in_base(self, block, linear):
        return f"blk.{block}.{IN_BASE[linear]}.weight"

    def parameter(self, block, replica, linear, name):
        replica = f".r{replica}" if replica else ""
        return self.sidecar.plain(f"refrain.blk.{block}{replica}.{linear}.{name}")

    def has_codes_in_base(self, block, linear):
        return self.in_base(block, linear) in self.sidecar.keys.get("refrain.codes.tensors", [])

    def steps_of_base(self, block, linear, shape):
        """What the base decodes to is the block's own set."""
        own = self.base.decoded(self.in_base(block, linear))[self.order(linear, shape[0])]
        return numpy.rint(own / per_weight(self.parameter(block, 0, linear, "scale"), shape))

    def steps_of_sidecar(self, block, replica, linear, config, shape):
        bits = config["bits"]
        codes = unpacked(self.sidecar.plain(f"refrain.blk.{block}.{linear}.codes"), shape[1], bits)
        offset = float(self.parameter(block, replica, linear, "offset")[0]) if config["offset"] else 0
        if config["symmetry"] != "asymmetric":
            return codes + offset - ((2**bits - 1) / 2 if config["symmetry"] == "midrise" else 2 ** (bits - 1))
        zero = self.parameter(block, replica, linear, "zero_point")
        if config["zero_point"] == "int":
            zero = unpacked(zero, self.parameter(block, replica, linear, "scale").shape[1], bits)
        return codes + offset - per_weight(zero, shape)

    def weight(self, block, replica, linear):
        """W_r [O, I] float64, rows in the order of the base."""
        path = f"model.layers.{block}{f'.replica{replica}' if replica else ''}.{linear}"
        shape = self.base.tensors[self.in_base(block, linear)][0]
        if self.has_codes_in_base(block, linear):
            steps = self.steps_of_base(block, linear, shape)
        else:
            steps = self.steps_of_sidecar(block, replica, linear, self.modules[path]["weight"], shape)
        out = numpy.empty(shape)
        out[self.order(linear, shape[0])] = steps * per_weight(self.parameter(block, replica, linear, "scale"), shape)
        return out


# ---- ggml and the operator ----


class Call(ctypes.Structure):  # refrain_replicas_call
    _fields_ = [("weight", ctypes.c_void_p), ("x", ctypes.c_void_p), ("get_data", ctypes.c_void_p)] + [
        (name, ctypes.c_int64) for name in ("tokens", "first", "sets", "own_inputs")]


class Memory(ctypes.Structure):  # ggml_init_params
    _fields_ = [("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


def typed(lib, functions):
    for name, result, arguments in functions:
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


def ggml():
    pointer, size, integer = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    return typed(llama_cpp.library(), [
        ("ggml_init", pointer, [Memory]),
        ("ggml_free", None, [pointer]),
        ("ggml_cpu_init", None, []),
        ("ggml_new_tensor_3d", pointer, [pointer, integer, size, size, size]),
        ("ggml_scale", pointer, [pointer, pointer, ctypes.c_float]),
        ("ggml_custom_4d", pointer, [pointer, integer, size, size, size, size, pointer, integer, pointer, integer,
                                     pointer]),
        ("ggml_new_graph", pointer, [pointer]),
        ("ggml_build_forward_expand", None, [pointer, pointer]),
        ("ggml_graph_compute_with_ctx", integer, [pointer, pointer, integer]),
        ("ggml_get_data", pointer, [pointer]),
    ])


def operator():
    if not LIBRARY.exists():
        raise RuntimeError(f"{LIBRARY} is not there. Build the target refrain_ggml, or name it by REFRAIN_GGML.")
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    return typed(ctypes.CDLL(str(LIBRARY)), [
        ("refrain_replicas_open", pointer, [ctypes.c_char_p, ctypes.c_char_p]),
        ("refrain_replicas_close", None, [pointer]),
        ("refrain_last_error", ctypes.c_char_p, []),
        ("refrain_replicas_rows", number, [pointer]),
        ("refrain_replicas_columns", number, [pointer]),
        ("refrain_replicas_sets", number, [pointer]),
        ("refrain_replicas_number", number, [pointer, number]),
    ])


class Linear:
    """A linear of a sidecar."""

    def __init__(self, lib, sidecar, path):
        self.lib, self.ggml = lib, ggml()
        self.ggml.ggml_cpu_init()
        self.held = lib.refrain_replicas_open(str(sidecar).encode(), path.encode())
        if not self.held:
            raise ValueError(lib.refrain_last_error().decode())
        self.rows, self.columns = lib.refrain_replicas_rows(self.held), lib.refrain_replicas_columns(self.held)
        self.sets = lib.refrain_replicas_sets(self.held)
        self.numbers = [lib.refrain_replicas_number(self.held, i) for i in range(self.sets)]

    def close(self):
        self.lib.refrain_replicas_close(self.held)

    def product(self, x, first, sets, threads):
        """x: [tokens, I], or [R, tokens, I], one for each set -> [R, tokens, O]. The graph halves what it is given, so
        that the operator's input is a tensor that the graph computes."""
        lib, own = self.ggml, x.ndim == 3
        tokens = x.shape[-2]
        bytes_of_all = 4 * (2 * x.size + sets * tokens * self.rows) + (1 << 22)
        context = lib.ggml_init(Memory(bytes_of_all, None, False))
        given = lib.ggml_new_tensor_3d(context, F32, self.columns, tokens, sets if own else 1)
        doubled = numpy.ascontiguousarray(2 * x, numpy.float32)
        ctypes.memmove(lib.ggml_get_data(given), doubled.ctypes.data, doubled.nbytes)
        inputs = (ctypes.c_void_p * 1)(lib.ggml_scale(context, given, 0.5))
        get_data, run_it = (ctypes.cast(f, ctypes.c_void_p) for f in (lib.ggml_get_data, self.lib.refrain_replicas_run))
        call = Call(self.held, inputs[0], get_data, tokens, first, sets, int(own))
        y = lib.ggml_custom_4d(context, F32, self.rows, tokens, sets, 1, inputs, 1, run_it, ALL_TASKS,
                               ctypes.addressof(call))
        graph = lib.ggml_new_graph(context)
        lib.ggml_build_forward_expand(graph, y)
        if lib.ggml_graph_compute_with_ctx(context, graph, threads) != 0:
            raise RuntimeError("ggml did not compute the graph")
        out = numpy.empty((sets, tokens, self.rows), numpy.float32)
        ctypes.memmove(out.ctypes.data, lib.ggml_get_data(y), out.nbytes)
        lib.ggml_free(context)
        return out


# ---- models ----


def random_llama(folder):
    """Two blocks with the tokenizer of tiny-qwen3, whose q and k llama.cpp interleaves; rows are whole blocks of Q2_0."""
    width, heads, kv_heads, ffn, vocabulary = 128, 4, 2, 192, 1024
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": width,
              "intermediate_size": ffn, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
              "num_hidden_layers": 2, "vocab_size": vocabulary, "hidden_act": "silu", "rms_norm_eps": 1e-6,
              "rope_theta": 10000.0, "max_position_embeddings": 512, "tie_word_embeddings": True,
              "attention_bias": False, "mlp_bias": False, "bos_token_id": 0, "eos_token_id": 0,
              "torch_dtype": "float32"}
    random = numpy.random.default_rng(1)
    shapes = {"model.embed_tokens": (vocabulary, width), "model.norm": (width,)}
    for i in range(2):
        for name, shape in {"self_attn.q_proj": (width, width), "self_attn.k_proj": (width // 2, width),
                            "self_attn.v_proj": (width // 2, width), "self_attn.o_proj": (width, width),
                            "mlp.gate_proj": (ffn, width), "mlp.up_proj": (ffn, width), "mlp.down_proj": (width, ffn),
                            "input_layernorm": (width,), "post_attention_layernorm": (width,)}.items():
            shapes[f"model.layers.{i}.{name}"] = shape
    folder.mkdir()
    save_file({f"{name}.weight": random.standard_normal(shape).astype(numpy.float32) * 0.1
               for name, shape in shapes.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    for file in (ROOT / "data" / "tiny-qwen3").glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


class Operator(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.lib = operator()
        cls.runs = {}

    @classmethod
    def exported(cls, name, weight, model="tiny-qwen3", span="[1, 2]"):
        """The directory of a run, made once."""
        if name not in cls.runs:
            config = cls.folder / f"{name}.yaml"
            config.write_text(
                f"name: {name}\nmodel: {{path: {model}}}\n"
                f"quant: {{method: rtn, weight: {weight}}}\n"
                f"replication: {{strategy: depth, depth: {{span: {span}, passes: 3, jitter: 0.05, gate_init: 0.3}}}}\n"
                "exports: {gguf: {}}\n")
            run("run_experiment", config, "--out", cls.folder / "runs")
            (results,) = (cls.folder / "runs" / name).glob("*/results.json")
            cls.runs[name] = results.parent
        return cls.runs[name]

    def check(self, directory, block, linear):
        """Every set alone and all together, with inputs for all and of their own."""
        files = Exported(directory)
        held = Linear(self.lib, directory / "model.refrain.gguf", f"model.layers.{block}.{linear}")
        self.addCleanup(held.close)
        self.assertEqual(held.numbers, [0, 1, 2])
        weights = numpy.stack([files.weight(block, r, linear) for r in held.numbers])
        self.assertEqual((held.rows, held.columns), weights.shape[1:])
        self.assertGreater(abs(weights[1] - weights[2]).max(), 0)
        random = numpy.random.default_rng(0)
        for tokens in (1, 3, 9):
            x = random.standard_normal((held.sets, tokens, held.columns)).astype(numpy.float32)
            spans = [(r, 1) for r in range(held.sets)] + [(1, 2), (0, held.sets)]
            for first, sets in spans:
                for given in (x[0], x[first : first + sets]):
                    exact = given.astype(numpy.float64) @ weights[first : first + sets].transpose(0, 2, 1)
                    for threads in (1, 2):
                        y = held.product(given, first, sets, threads)
                        error = abs(y - exact).max() / abs(exact).max()
                        self.assertLess(error, NEAR, (linear, first, sets, given.shape, threads))
        return files

    def test_codes_of_the_base(self):
        directory = self.exported("base", "{preset: q2_0}")
        for linear in ("mlp.up_proj", "mlp.down_proj", "self_attn.k_proj"):
            self.assertTrue(self.check(directory, 2, linear).has_codes_in_base(2, linear))

    def test_codes_of_the_sidecar(self):
        for name, weight in (("int", "{bits: 3, group_size: 32, symmetry: asymmetric}"),
                             ("float", "{bits: 4, group_size: -1, symmetry: asymmetric, zero_point: float}"),
                             ("one", "{bits: 1, group_size: 16, symmetry: midrise, scale_dtype: float32}"),
                             ("matrix", "{bits: 2, group_size: 0, symmetry: narrow, offset: 0.25}")):
            with self.subTest(name):
                directory = self.exported(name, weight)
                self.assertFalse(self.check(directory, 1, "mlp.down_proj").has_codes_in_base(1, "mlp.down_proj"))

    def test_rows_of_q_and_k_are_in_the_order_of_the_base(self):
        model = random_llama(self.folder / "llama")
        for name, weight in (("llama_base", "{preset: q2_0}"),
                             ("llama_own", "{bits: 3, group_size: 32, symmetry: asymmetric}")):
            directory = self.exported(name, weight, model, "[0, 1]")
            for linear in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.o_proj"):
                files = self.check(directory, 1, linear)
                self.assertEqual(files.has_codes_in_base(1, linear), name == "llama_base")
            self.assertGreater(abs(files.order("self_attn.q_proj", 128) - numpy.arange(128)).max(), 0)

    def test_a_block_that_runs_once_has_one_set(self):
        directory = self.exported("base", "{preset: q2_0}")
        held = Linear(self.lib, directory / "model.refrain.gguf", "model.layers.0.mlp.up_proj")
        self.addCleanup(held.close)
        self.assertEqual(held.numbers, [0])
        self.assertEqual(self.lib.refrain_replicas_number(held.held, 1), -1)

    def test_what_is_refused(self):
        directory = self.exported("base", "{preset: q2_0}")
        sidecar = directory / "model.refrain.gguf"
        two_level = self.exported("two_level", "{bits: 2, group_size: 16, scale_bits: 4}") / "model.refrain.gguf"
        for file, path, said in (
            (sidecar, "model.layers.1.mlp.up_prj",
             f"{sidecar}: there are no codes of a linear model.layers.1.mlp.up_prj. "
             "Did you mean `model.layers.1.mlp.up_proj`?"),
            (sidecar, "model.norm",
             f"{sidecar}: there are no codes of a linear model.norm. One that it has is model.layers.0.mlp.down_proj."),
            (directory / "model.gguf", "model.layers.1.mlp.up_proj",
             f"{directory / 'model.gguf'}: this is no sidecar of Refrain. Give the file that ends in .refrain.gguf."),
            (two_level, "model.layers.1.mlp.up_proj",
             f"{two_level}: model.layers.1.mlp.up_proj has two-level scales, which the operator of ggml does not "
             "compute. Run the model by Refrain."),
        ):
            with self.assertRaises(ValueError) as caught:
                Linear(self.lib, file, path)
            self.assertEqual(str(caught.exception), said)

    def test_codes_of_another_base_are_refused(self):
        directory = self.exported("base", "{preset: q2_0}")
        base, sidecar = self.folder / "model.gguf", self.folder / "model.refrain.gguf"
        damaged = bytearray((directory / "model.gguf").read_bytes())
        held = Gguf(directory / "model.gguf")
        middle = 4600  # where the hash of the base does not look
        damaged[held.start + held.tensors["blk.1.ffn_up.weight"][2] + middle] ^= 1
        base.write_bytes(damaged)
        sidecar.write_bytes((directory / "model.refrain.gguf").read_bytes())
        with self.assertRaises(ValueError) as caught:
            Linear(self.lib, sidecar, "model.layers.1.mlp.up_proj")
        self.assertEqual(str(caught.exception), f"{base}: the codes of model.layers.1.mlp.up_proj are not those that "
                                                f"{sidecar} records. Export the model again.")


if __name__ == "__main__":
    unittest.main()
