"""Runs llama.cpp's converter on a Hugging Face folder, without a vocabulary: writes the model.gguf beside a golden folder.
Needs a checkout of llama.cpp (the golden files are of 0c1e57098) and `pip install torch transformers`.

tests/golden/gguf/qwen2_moe is the variant qwen2_moe of make_golden_models.py with decoder_sparse_step 1.

    python3 tools/convert_golden.py LLAMA_CPP FOLDER [FOLDER ...]      # FOLDER/model.gguf, --outtype f32"""

import importlib
import inspect
import pathlib
import pkgutil
import subprocess
import sys


def convert(root, folder):
    """In a process of its own: the converter reads sys.argv and keeps state."""
    sys.path[:0] = [str(root / "gguf-py"), str(root)]
    converter = importlib.import_module("convert_hf_to_gguf")
    conversion = importlib.import_module("conversion")
    for _, name, _ in pkgutil.iter_modules(conversion.__path__):
        if name in ("base", "llama", "qwen", "deepseek"):
            for kind in vars(importlib.import_module("conversion." + name)).values():
                if inspect.isclass(kind) and hasattr(kind, "set_vocab"):
                    kind.set_vocab = lambda self: None
    sys.argv = ["convert", str(folder), "--outfile", str(folder / "model.gguf"), "--outtype", "f32"]
    converter.main()


def main(root, *folders):
    if len(folders) == 1:
        return convert(pathlib.Path(root).resolve(), pathlib.Path(folders[0]).resolve())
    for folder in folders:
        subprocess.run([sys.executable, __file__, root, folder], check=True)
    return None


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
