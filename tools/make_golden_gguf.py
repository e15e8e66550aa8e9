"""Makes tests/golden/gguf/types.gguf, random blocks of every element type that Refrain reads, and types.safetensors,
what they decode to: by the gguf package, and by ggml itself (xllamacpp exports its functions) for types that the
package does not know. Needs `pip install gguf xllamacpp safetensors`, which Refrain itself does not."""

import ctypes
import pathlib
import struct

import numpy as np
import xllamacpp
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from safetensors.numpy import save_file

ROWS, WEIGHTS = 3, 512

# name: id, weights of a block, its bytes, where its float16 scales are
TYPES = {
    "F32": (0, 1, 4, []),
    "F16": (1, 1, 2, []),
    "BF16": (30, 1, 2, []),
    "Q1_0": (41, 128, 18, [0]),
    "Q2_0": (42, 64, 18, [0]),
    "Q4_0": (2, 32, 18, [0]),
    "Q4_1": (3, 32, 20, [0, 2]),
    "Q5_0": (6, 32, 22, [0]),
    "Q5_1": (7, 32, 24, [0, 2]),
    "Q8_0": (8, 32, 34, [0]),
    "Q2_K": (10, 256, 84, [80, 82]),
    "Q3_K": (11, 256, 110, [108]),
    "Q4_K": (12, 256, 144, [0, 2]),
    "Q5_K": (13, 256, 176, [0, 2]),
    "Q6_K": (14, 256, 210, [208]),
    "IQ4_NL": (20, 32, 18, [0]),
    "TQ1_0": (34, 256, 54, [52]),
    "TQ2_0": (35, 256, 66, [64]),
}


def text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def blocks_of(name, generator):
    """[ROWS, bytes] uint8: random codes, finite scales of both signs, a few of them subnormal."""
    _, weights, size, scales = TYPES[name]
    count = WEIGHTS // weights
    raw = generator.integers(0, 256, (ROWS, count, size), dtype=np.uint8)
    if name == "F32":
        raw = generator.standard_normal((ROWS, count), dtype=np.float32).view(np.uint8).reshape(raw.shape)
    if name in ("F16", "BF16"):
        scales = [0]
    for place in scales:
        values = generator.standard_normal((ROWS, count)).astype(np.float32)
        values[0, 0] = 3e-6
        half = values.astype(np.float16).view(np.uint8).reshape(ROWS, count, 2)
        if name == "BF16":
            half = np.ascontiguousarray(values).view(np.uint8).reshape(ROWS, count, 4)[..., 2:]
        raw[..., place : place + 2] = half
    return raw.reshape(ROWS, -1)


def decoded(name, raw):
    if name in ("Q1_0", "Q2_0"):  # the package does not know them
        library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
        function = getattr(library, f"dequantize_row_{name.lower()}")
        out = np.empty((ROWS, WEIGHTS), np.float32)
        for row in range(ROWS):
            line = np.ascontiguousarray(raw[row])
            function(ctypes.c_void_p(line.ctypes.data), ctypes.c_void_p(out[row].ctypes.data), ctypes.c_int64(WEIGHTS))
        return out
    return np.ascontiguousarray(dequantize(raw, GGMLQuantizationType[name]), dtype=np.float32)


def main():
    generator = np.random.default_rng(7)
    folder = pathlib.Path(__file__).parent.parent / "tests/golden/gguf"
    folder.mkdir(parents=True, exist_ok=True)
    raw = {name: blocks_of(name, generator) for name in TYPES}
    keys = text("general.architecture") + struct.pack("<I", 8) + text("none")
    header = b"GGUF" + struct.pack("<IQQ", 3, len(raw), 1) + keys
    data = b""
    for name, blocks in raw.items():
        header += text(name) + struct.pack("<IQQIQ", 2, WEIGHTS, ROWS, TYPES[name][0], len(data))
        data += blocks.tobytes() + bytes(-blocks.nbytes % 32)
    header += bytes(-len(header) % 32)
    (folder / "types.gguf").write_bytes(header + data)
    save_file({name: decoded(name, blocks) for name, blocks in raw.items()}, folder / "types.safetensors")


if __name__ == "__main__":
    main()
