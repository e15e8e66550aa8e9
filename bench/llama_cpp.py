"""llama.cpp, the library inside of the package `xllamacpp`, called through ctypes in this process."""

import ctypes
import os

# How threads wait is for each side's own program to say: our setting would put llama.cpp's to sleep.
for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
    os.environ.pop(name, None)

import numpy
import xllamacpp


class Batch(ctypes.Structure):  # llama_batch
    _fields_ = [("n_tokens", ctypes.c_int32)] + [
        (name, ctypes.c_void_p) for name in ("token", "embd", "pos", "n_seq_id", "seq_id", "logits")
    ]


class Settings(ctypes.Structure):
    """llama_model_params or llama_context_params. Longer than both, in every version: a structure of this size is
    returned and passed in memory, where the library reads and writes as much of it as it knows."""

    _fields_ = [("words", ctypes.c_uint32 * 256)]


class GgufParameters(ctypes.Structure):  # gguf_init_params
    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]


def library():
    """The library, with the types of the functions that are called."""
    lib = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
    pointer, integer, text = ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p
    for name, result, arguments in [
        ("llama_model_default_params", Settings, []),
        ("llama_context_default_params", Settings, []),
        ("llama_model_load_from_file", pointer, [text, Settings]),
        ("llama_init_from_model", pointer, [pointer, Settings]),
        ("llama_free", None, [pointer]),
        ("llama_model_free", None, [pointer]),
        ("llama_get_memory", pointer, [pointer]),
        ("llama_memory_clear", None, [pointer, ctypes.c_bool]),
        ("llama_set_n_threads", None, [pointer, integer, integer]),
        ("llama_batch_get_one", Batch, [pointer, integer]),
        ("llama_decode", integer, [pointer, Batch]),
        ("llama_get_logits", ctypes.POINTER(ctypes.c_float), [pointer]),
        ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), [pointer, integer]),
        ("llama_model_get_vocab", pointer, [pointer]),
        ("llama_vocab_n_tokens", integer, [pointer]),
        ("llama_tokenize", integer, [pointer, text, integer, pointer, integer, ctypes.c_bool, ctypes.c_bool]),
        ("llama_token_to_piece", integer, [pointer, integer, pointer, integer, integer, ctypes.c_bool]),
        ("llama_print_system_info", text, []),
        ("ggml_quantize_chunk", ctypes.c_size_t, [ctypes.c_int, pointer, pointer, ctypes.c_int64, ctypes.c_int64,
                                                  ctypes.c_int64, pointer]),
        ("gguf_init_from_file", pointer, [text, GgufParameters]),
        ("gguf_free", None, [pointer]),
        ("gguf_get_n_tensors", ctypes.c_int64, [pointer]),
        ("gguf_get_tensor_name", text, [pointer, ctypes.c_int64]),
        ("gguf_get_tensor_type", ctypes.c_int, [pointer, ctypes.c_int64]),
        ("gguf_get_tensor_offset", ctypes.c_size_t, [pointer, ctypes.c_int64]),
        ("gguf_get_tensor_size", ctypes.c_size_t, [pointer, ctypes.c_int64]),
        ("gguf_get_data_offset", ctypes.c_size_t, [pointer]),
        ("ggml_type_name", text, [ctypes.c_int]),
    ]:
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


class Tensors:
    """The tensors of a GGUF file, found by ggml's own library."""

    def __init__(self, file):
        self.lib, self.file = library(), file
        held = self.lib.gguf_init_from_file(str(file).encode(), GgufParameters(True, None))
        if not held:
            raise RuntimeError(f"ggml cannot read {file}")
        start = self.lib.gguf_get_data_offset(held)
        self.places = {}  # name: number of the type, first byte, bytes
        for i in range(self.lib.gguf_get_n_tensors(held)):
            self.places[self.lib.gguf_get_tensor_name(held, i).decode()] = (
                self.lib.gguf_get_tensor_type(held, i),
                start + self.lib.gguf_get_tensor_offset(held, i),
                self.lib.gguf_get_tensor_size(held, i),
            )
        self.lib.gguf_free(held)

    def bytes_of(self, name):
        _, start, size = self.places[name]
        with open(self.file, "rb") as file:
            file.seek(start)
            return file.read(size)

    def type_of(self, name):
        return self.lib.ggml_type_name(self.places[name][0]).decode()

    def floats_of(self, name):
        """The tensor decoded by ggml, flat float32."""
        kind, raw = self.type_of(name), self.bytes_of(name)
        if kind == "f32":
            return numpy.frombuffer(raw, numpy.float32)
        if kind == "f16":
            return numpy.frombuffer(raw, numpy.float16).astype(numpy.float32)
        if kind == "bf16":
            return (numpy.frombuffer(raw, numpy.uint16).astype(numpy.uint32) << 16).view(numpy.float32)
        self.lib.ggml_blck_size.restype = ctypes.c_int64
        self.lib.ggml_type_size.restype = ctypes.c_size_t
        number = self.places[name][0]
        values = numpy.empty(len(raw) // self.lib.ggml_type_size(number) * self.lib.ggml_blck_size(number), numpy.float32)
        decode = getattr(self.lib, f"dequantize_row_{kind}")
        decode.restype, decode.argtypes = None, [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64]
        decode(raw, values.ctypes.data, len(values))
        return values


class LlamaCpp:
    """One model with one context. Raises RuntimeError where the library refuses."""

    def __init__(self, file, threads, context):
        lib = self.lib = library()
        said = []
        logger = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
        self.logger = logger(lambda level, text, data: said.append(text.decode(errors="replace")))
        lib.llama_log_set(self.logger, None)
        lib.llama_backend_init()
        self.model = lib.llama_model_load_from_file(str(file).encode(), lib.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot read {file}: {''.join(said[-3:])}")
        settings = lib.llama_context_default_params()
        settings.words[0] = context  # n_ctx; n_batch and n_ubatch stay 2048 and 512
        self.context = lib.llama_init_from_model(self.model, settings)
        if not self.context:
            raise RuntimeError(f"llama.cpp makes no context of {context} tokens for {file}: {''.join(said[-3:])}")
        lib.llama_set_n_threads(self.context, threads, threads)
        self.vocab = lib.llama_model_get_vocab(self.model)
        self.vocabulary = lib.llama_vocab_n_tokens(self.vocab)

    def close(self):
        self.lib.llama_free(self.context)
        self.lib.llama_model_free(self.model)

    def clear(self):
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)

    def tokens_of(self, text):
        """Token ids [T] int32 of a text, special tokens in it recognized, none added."""
        raw = text.encode()
        ids = numpy.empty(len(raw) + 8, numpy.int32)
        count = self.lib.llama_tokenize(self.vocab, raw, len(raw), ids.ctypes.data, len(ids), False, True)
        if count < 0:
            raise RuntimeError("llama_tokenize needs more room than a text has bytes")
        return ids[:count]

    def bytes_of(self, token):
        """What a token stands for in a text; special ones for nothing."""
        raw = ctypes.create_string_buffer(256)
        count = self.lib.llama_token_to_piece(self.vocab, int(token), raw, len(raw), 0, False)
        return raw.raw[: max(0, count)]

    def _decode(self, batch):
        if self.lib.llama_decode(self.context, batch) != 0:
            raise RuntimeError("llama_decode failed")

    def logits_of(self, tokens):
        """Logits [T, V] float32 behind every one of the tokens [T] int32, of which there are at most 2048, from the
        start of an empty context."""
        self.clear()
        tokens = numpy.ascontiguousarray(tokens, numpy.int32)
        wanted = numpy.ones(len(tokens), numpy.int8)
        batch = self.lib.llama_batch_get_one(tokens.ctypes.data, len(tokens))
        batch.logits = wanted.ctypes.data
        self._decode(batch)
        return numpy.ctypeslib.as_array(self.lib.llama_get_logits(self.context), (len(tokens), self.vocabulary)).copy()

    def logits_after(self, tokens):
        """Reads tokens behind those that the context holds; logits [V] of the next one, valid until the next call."""
        batch = self.lib.llama_batch_get_one(tokens.ctypes.data, len(tokens))
        self._decode(batch)
        return numpy.ctypeslib.as_array(self.lib.llama_get_logits_ith(self.context, -1), (self.vocabulary,))

    def likeliest_after(self, tokens):
        return int(self.logits_after(tokens).argmax())

    def losses_of(self, window):
        """Losses in nats of the tokens of a window but for its first."""
        logits = self.logits_of(window)[:-1].astype(numpy.float64)
        largest = logits.max(axis=1)
        total = largest + numpy.log(numpy.exp(logits - largest[:, None]).sum(axis=1))
        return total - logits[numpy.arange(len(window) - 1), window[1:]]

    def perplexity(self, tokens, length, windows):
        """Of the first `windows` windows of `length` tokens each, side by side: what Refrain calls the protocol gptq."""
        losses = [self.losses_of(tokens[i * length : (i + 1) * length]) for i in range(windows)]
        return float(numpy.exp(numpy.concatenate(losses).mean()))
