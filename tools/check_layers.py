#!/usr/bin/env python3
"""Checks what the compiler does not: who includes whom, where float64 is, the registries, that no file names a machine.

  core <- quant <- replication <- export          core/config, core/io, core/text: no ATen, not even through others
  core <- models <--------------- export          experiments, tests, bench: all; nobody else includes experiments

Inside of experiments the rooms have an order too (ROOMS). No two units, a unit being x.h with x.cpp, include each other,
be it through others.

Float64 tensors are made in core/linalg alone, on the CPU: not every device has them. (C++ doubles are free.)

Run without arguments in a checkout; prints one line per violation, exit code 1 if there are any.
"""
import re
import subprocess
import sys
from pathlib import Path

MAY_INCLUDE = {
    "core": {"core"},
    "quant": {"core", "quant"},
    "replication": {"core", "quant", "replication"},
    "models": {"core", "models"},
    "export": {"core", "quant", "replication", "models", "export"},
}
ALL = set(MAY_INCLUDE) | {"experiments"}
MAY_INCLUDE |= {"experiments": ALL, "tests": ALL | {"tests"}, "bench": ALL | {"bench"}}

# Folders of experiments, each of which may include those before it.
ROOMS = ["measure", "config", "inputs", "results", "analysis", "run", "programs"]

WITHOUT_ATEN = ("core/config/", "core/io/", "core/text/", "quant/kernels/", "export/ggml/")
ATEN = re.compile(r"(ATen|torch|c10)/")

# core/nn/weights.cpp converts what a file stores, on the CPU.
FLOAT64_FILES = {"core/linalg.h", "core/linalg.cpp", "core/nn/weights.cpp"}
FLOAT64 = re.compile(r"\bk(?:Double|Float64)\b|ScalarType::Double|\b(?:dtype|\w*data_ptr)<double>")
FOLLOWS_ITS_INPUT = "scalar_type() == at::kDouble"  # a line that keeps float64 where a caller brings it makes none

# folder of the files, the table that lists them, and the name of its macro
REGISTRIES = [
    ("quant/methods", "quant/registry.cpp", "METHODS"),
    ("replication/strategies", "replication/registry.cpp", "STRATEGIES"),
    ("export/exporters", "export/exporter.cpp", "EXPORTERS"),
]

INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]')
CPP = {".h", ".cpp", ".in"}

# The one index address that may be written down, and where (here too).
INDEX_ADDRESS, INDEX_FILES = "https://download.pytorch.org/whl/cpu", {"tools/bootstrap", "tools/check_layers.py"}
FORBIDDEN = [
    (re.compile(r"(?<![\w.])/(?:work|root|home|Users)/\w"), "names a path of one machine"),
    (re.compile(r"https?://[^\s\"'`)>]*(?:pypi|/simple\b|/whl\b)[^\s\"'`)>]*"), "names a package index"),
]


def files(root: Path) -> list[str]:
    """The files of the checkout that git tracks or would track, relative to `root`."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                            cwd=root, capture_output=True, check=True).stdout.decode()
    return sorted(name for name in listed.split("\0") if name and (root / name).is_file())


def includes(path: Path):
    """(line number, '"' or '<', included name) of every #include."""
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        if match := INCLUDE.match(line):
            yield number, match[1], match[2]


def check_includes(root: Path, names: list[str]):
    for name in names:
        folder = name.split("/")[0]
        if folder not in MAY_INCLUDE or Path(name).suffix not in CPP:
            continue
        for number, quote, included in includes(root / name):
            target = included.split("/")[0]
            if included == "torch/torch.h":
                yield f"{name}:{number}: torch/torch.h costs 30 s a file. Include ATen/ATen.h or torch/nn/module.h."
            if target in MAY_INCLUDE and target not in MAY_INCLUDE[folder]:
                yield f"{name}:{number}: {folder} may not include {included}. It may include: {allowed(folder)}."
            elif quote == '"' and not (root / included).is_file():
                yield f'{name}:{number}: "{included}" is not in this checkout. Write it from the root, others in <>.'


def room_of(name: str) -> int:
    """Place in ROOMS of a file of experiments; -1 where it is in none of them, or is no such file."""
    parts = name.split("/")
    return ROOMS.index(parts[1]) if parts[0] == "experiments" and len(parts) > 2 and parts[1] in ROOMS else -1


def check_rooms(root: Path, names: list[str]):
    for name in names:
        room = room_of(name)
        if room < 0 or Path(name).suffix not in CPP:
            continue
        for number, _, included in includes(root / name):
            if room_of(included) > room:
                yield (f"{name}:{number}: experiments/{ROOMS[room]} may not include {included}. "
                       f"The order is: {', '.join(ROOMS)}.")


def unit_of(name: str) -> str:
    """x.h, x.cpp and x-inl.h are one unit."""
    return re.sub(r"(-inl)?\.(h|cpp)$", "", name)


def check_cycles(root: Path, names: list[str]):
    units: dict[str, set[str]] = {}
    for name in names:
        if Path(name).suffix in {".h", ".cpp"} and name.split("/")[0] in ALL:
            found = {unit_of(included) for _, quote, included in includes(root / name) if quote == '"'}
            units.setdefault(unit_of(name), set()).update(found - {unit_of(name)})
    for first in sorted(units):
        reached, waiting = {}, [(first, [first])]
        while waiting:
            unit, path = waiting.pop()
            for other in sorted(units.get(unit, ())):
                if other == first and first == min(path):
                    yield f"{' -> '.join([*path, first])}: these units include each other. Move what one needs of the other."
                    waiting = []
                    break
                if other not in reached:
                    reached[other] = True
                    waiting.append((other, [*path, other]))


def allowed(folder: str) -> str:
    return ", ".join(sorted(MAY_INCLUDE[folder]))


def check_without_aten(root: Path, names: list[str]):
    for name in names:
        if name.startswith(WITHOUT_ATEN) and Path(name).suffix in CPP:
            if chain := path_to_aten(root, name, set()):
                yield f"{name}: includes ATen ({' -> '.join(chain)}). {Path(name).parent} does without it."


def check_float64(root: Path, names: list[str]):
    for name in names:
        folder = name.split("/")[0]
        if folder not in ALL or Path(name).suffix not in CPP or name in FLOAT64_FILES:
            continue
        for number, line in enumerate((root / name).read_text(errors="replace").splitlines(), 1):
            if FOLLOWS_ITS_INPUT not in line and (match := FLOAT64.search(line.split("//")[0])):
                yield f"{name}:{number}: {match[0]} makes a float64 tensor. Compute it in core/linalg, on the CPU."


def path_to_aten(root: Path, name: str, seen: set[str]) -> list[str]:
    """The includes that lead from `name` to a header of ATen, empty if there are none."""
    seen.add(name)
    for _, _, included in includes(root / name):
        if ATEN.match(included):
            return [included]
        if included not in seen and (root / included).is_file():
            if chain := path_to_aten(root, included, seen):
                return [included] + chain
    return []


def check_registries(root: Path, names: list[str]):
    for folder, table, macro in REGISTRIES:
        files_there = {Path(n).stem for n in names if re.fullmatch(rf"{folder}/\w+\.cpp", n)}
        listed = listed_in(root / table, macro)
        for stem in sorted(files_there - listed):
            yield f"{folder}/{stem}.cpp: not listed in {table}. Add X({stem}) to {macro}."
        for stem in sorted(listed - files_there):
            yield f"{table}: lists X({stem}), but {folder}/{stem}.cpp is not there. Add the file or remove the line."


def listed_in(table: Path, macro: str) -> set[str]:
    """The names x of the lines X(x) of `#define ...macro...(X) \\`; empty without the file."""
    text = table.read_text() if table.is_file() else ""
    body = re.search(rf"#define\s+\w*{macro}\w*\(X\)((?:.*\\\n)*.*)", text)
    return set(re.findall(r"\bX\(\s*(\w+)", body[1])) if body else set()


def check_words(root: Path, names: list[str]):
    for name in names:
        data = (root / name).read_bytes()
        if b"\0" in data:
            continue
        for number, line in enumerate(data.decode(errors="replace").splitlines(), 1):
            if name in INDEX_FILES:
                line = line.replace(INDEX_ADDRESS, "")
            for pattern, fault in FORBIDDEN:
                if match := pattern.search(line):
                    yield f"{name}:{number}: {match[0]} {fault}. Remove it."


def check(root: Path) -> list[str]:
    """Every violation in the checkout at `root`, one line each."""
    names = files(root)
    return [line for part in (check_includes, check_rooms, check_cycles, check_without_aten, check_float64, check_registries, check_words)
            for line in part(root, names)]


if __name__ == "__main__":
    violations = check(Path(__file__).resolve().parent.parent)
    print("\n".join(violations) if violations else "layers: ok")
    sys.exit(bool(violations))
