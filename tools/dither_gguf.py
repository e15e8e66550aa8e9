"""Writes a GGUF with float32 weights that are those of another one moved by up to half a step of its own grid, so that
no weight lies on the file's lattice any more: uniform noise in [-d/2, d/2], d the scale of the weight's block. Tensors
that are floats, and the embedding and head, stay what they are. Needs `pip install gguf`.

    python3 tools/dither_gguf.py SmolLM2-135M-Instruct.Q4_1.gguf dithered.gguf [seed]"""

import sys

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize

ENDS = ("token_embd.weight", "output.weight")
SCALE_FIRST = {"Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34)}


def steps(tensor):
    """The distance of neighbouring levels at every weight."""
    if tensor.tensor_type.name not in SCALE_FIRST:
        raise SystemExit(f"{tensor.name} is {tensor.tensor_type.name}; known: {', '.join(SCALE_FIRST)}")
    weights, size = SCALE_FIRST[tensor.tensor_type.name]
    blocks = tensor.data.reshape(-1, size)
    scale = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
    return np.repeat(np.abs(scale), weights, axis=1)


def copy_keys(reader, writer):
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind = field.types[0]
        item = field.types[-1] if kind == GGUFValueType.ARRAY else None
        value = 0 if field.name == "general.file_type" else field.contents()  # 0: all float32
        writer.add_key_value(field.name, value, kind, sub_type=item)


def main(source, target, seed=0):
    reader = GGUFReader(source)
    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    copy_keys(reader, writer)
    random = np.random.default_rng(int(seed))
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if tensor.tensor_type.name not in ("F32", "F16", "BF16") and tensor.name not in ENDS:
            step = steps(tensor).reshape(weight.shape)
            weight += step * random.uniform(-0.5, 0.5, weight.shape).astype(np.float32)
        writer.add_tensor(tensor.name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
