"""One optimizer step of training quantization parameters: Refrain's (bench/train_step.cpp) beside plain PyTorch.

Both run one qwen3 block (width 2048, ffn 6144, 16 heads) with 2-bit codes in groups of 64 on 2,048 tokens, in float32, with
fused attention, scales and float zero points as the only leaves beside the input, AdamW. Plain PyTorch keeps codes as
int8, dequantizes to a dense weight in every forward pass, and leaves the rest to autograd. The two alternate; medians
are printed. `cpu` compares processor seconds, which hardly feel other processes. Memory is the peak of resident memory above the level before the step; freed tensors go back to the system
at once in both (MALLOC_MMAP_THRESHOLD_).

    cmake --build build --target bench_train_step && .venv/bin/python bench/train_step.py
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "MALLOC_MMAP_THRESHOLD_": "4194304", "MALLOC_TRIM_THRESHOLD_": "4194304"}
WIDTH, FFN, HEADS, TOKENS, GROUP = 2048, 6144, 16, 2048, 64


def peer(repetitions, threads):
    """Runs in a process of its own; prints one JSON line."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.set_num_threads(threads)

    class Linear(nn.Module):
        def __init__(self, outputs, inputs):
            super().__init__()
            self.register_buffer("codes", torch.randint(0, 4, (outputs, inputs), dtype=torch.int8))
            self.scale = nn.Parameter(torch.full((outputs, inputs // GROUP, 1), 0.02))
            self.zero = nn.Parameter(torch.full((outputs, inputs // GROUP, 1), 1.5))

        def forward(self, x):
            grouped = self.codes.view(self.codes.shape[0], -1, GROUP)
            return F.linear(x, ((grouped.float() - self.zero) * self.scale).view(self.codes.shape))

    class Norm(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.register_buffer("weight", torch.ones(width))

        def forward(self, x):
            return F.rms_norm(x, (x.shape[-1],), self.weight, 1e-6)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v, self.o = (Linear(WIDTH, WIDTH) for _ in range(4))
            self.gate, self.up, self.down = Linear(FFN, WIDTH), Linear(FFN, WIDTH), Linear(WIDTH, FFN)
            self.norm1, self.norm2 = Norm(WIDTH), Norm(WIDTH)
            self.q_norm, self.k_norm = Norm(WIDTH // HEADS), Norm(WIDTH // HEADS)
            angle = torch.outer(torch.arange(TOKENS).float(), 10000.0 ** -(torch.arange(0, 128, 2).float() / 128))
            self.register_buffer("cos", angle.cos()[:, None])
            self.register_buffer("sin", angle.sin()[:, None])

        def rotate(self, x):
            a, b = x.chunk(2, -1)
            return torch.cat((a * self.cos - b * self.sin, b * self.cos + a * self.sin), -1)

        def forward(self, x):
            h = self.norm1(x)
            heads = (*x.shape[:2], HEADS, -1)
            q = self.rotate(self.q_norm(self.q(h).view(heads))).transpose(1, 2)
            k = self.rotate(self.k_norm(self.k(h).view(heads))).transpose(1, 2)
            v = self.v(h).view(heads).transpose(1, 2)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x.shape)
            x = x + self.o(mixed)
            h = self.norm2(x)
            return x + self.down(F.silu(self.gate(h)) * self.up(h))

    def resident():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def peak():
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("no VmHWM")

    block, x = Block(), torch.randn(1, TOKENS, WIDTH, requires_grad=True)
    target = torch.randn(1, TOKENS, WIDTH)
    adam = torch.optim.AdamW(block.parameters(), lr=1e-4, weight_decay=0)

    def step():
        adam.zero_grad()
        x.grad = None
        F.mse_loss(block(x), target).backward()
        adam.step()

    step()
    seconds, cpu, peaks = [], [], []
    for _ in range(repetitions):
        Path("/proc/self/clear_refs").write_text("5")
        before, start, used = resident(), time.perf_counter(), time.process_time()
        step()
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - used)
        peaks.append(peak() - before)
    ms, cpu_ms = 1000 * statistics.median(seconds), 1000 * statistics.median(cpu)
    print(json.dumps({"ms": ms, "cpu_ms": cpu_ms, "peak_MB": max(peaks) / 1e6}))


def plain(a):
    command = [sys.executable, __file__, "--peer", "--repetitions", str(a.repetitions), "--threads", str(a.threads)]
    run = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


def refrain(a):
    """{recompute: {"ms", "cpu_ms", "peak_MB"}}"""
    environment = os.environ | ENVIRONMENT | {"OMP_NUM_THREADS": str(a.threads)}
    run = subprocess.run([ROOT / "build/bin/bench_train_step", "--benchmark_format=json"], env=environment,
                         capture_output=True, text=True, check=True)
    found = {}
    for entry in json.loads(run.stdout)["benchmarks"]:
        found["recompute:1" in entry["name"]] = {
            "ms": entry["real_time"], "cpu_ms": entry["cpu_time"], "peak_MB": entry["peak_MB"]}
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="each runs both once")
    parser.add_argument("--repetitions", type=int, default=3, help="steps of plain PyTorch in a round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.peer:
        return peer(a.repetitions, a.threads)
    rows = {"plain PyTorch": [], "Refrain": [], "Refrain, recompute": []}
    for _ in range(a.rounds):
        rows["plain PyTorch"].append(plain(a))
        ours = refrain(a)
        rows["Refrain"].append(ours[False])
        rows["Refrain, recompute"].append(ours[True])
    median = {name: {k: statistics.median(r[k] for r in runs) for k in ("ms", "cpu_ms", "peak_MB")} for name, runs in rows.items()}
    base = median["plain PyTorch"]
    print("| step | seconds | time | cpu | peak MB | memory |\n|---|---|---|---|---|---|")
    for name, m in median.items():
        print(f"| {name} | {m['ms'] / 1000:.2f} | {m['ms'] / base['ms']:.2f} | "
              f"{m['cpu_ms'] / base['cpu_ms']:.2f} | {m['peak_MB']:.0f} | "
              f"{m['peak_MB'] / base['peak_MB']:.2f} |")
    return None


if __name__ == "__main__":
    main()
