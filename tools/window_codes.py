#!/usr/bin/env python3
"""Searches the constants of the codes in which a window of symbols decides the weight (replication/window_decoder.h).

    .venv/bin/python tools/window_codes.py shifted --bits 2 --replicas 4
    .venv/bin/python tools/window_codes.py parity_sign --bits 1 --replicas 2 --window-bits 12

A decoder is level[window] = Σ_i θ_i F[window, i] (replication/shifted.cpp, replication/parity_sign.cpp). For given F its
θ is found on i.i.d. N(0, 1) by Lloyd's alternation: the cheapest symbols by exact Viterbi, then least squares for θ.
Starts are drawn from the seed; the best of all is measured on samples of its own and printed as the line that
replication/ holds. For parity_sign the masks are drawn too: all are tried on few samples, the best ones on many.
"""

import argparse

import numpy as np

LENGTH = 1024  # of a training sequence; each starts in state 0


def viterbi(level, bits, x):
    """Symbols of least Σ (x_t − level[window_t])². level: [2^L], x: [N, T] -> windows [N, T]."""
    symbols, states = 1 << bits, len(level) >> bits
    level = level.astype(np.float32).reshape(symbols, states // symbols, symbols)  # window = (oldest, middle, newest)
    n, length = x.shape
    cost = np.full((n, states), 1e30, np.float32)
    cost[:, 0] = 0
    oldest = np.empty((length, n, states), np.uint8)
    for t in range(length):
        step = x[:, t, None, None].astype(np.float32)
        before = cost.reshape(n, symbols, states // symbols, 1)
        best = before[:, 0] + (step - level[0]) ** 2
        origin = np.zeros(best.shape, np.uint8)
        for o in range(1, symbols):
            found = before[:, o] + (step - level[o]) ** 2
            better = found < best
            best = np.where(better, found, best)
            origin[better] = o
        cost = best.reshape(n, states)
        cost -= cost.min(1, keepdims=True)
        oldest[t] = origin.reshape(n, states)
    windows = np.empty((n, length), np.int64)
    state, row = cost.argmin(1), np.arange(n)
    for t in range(length - 1, -1, -1):
        windows[:, t] = oldest[t, row, state].astype(np.int64) * states + state
        state = windows[:, t] >> bits
    return windows


def relative_error(features, theta, bits, x):
    """Σ (x − x')² / Σ x², and the windows chosen."""
    level = features @ theta
    windows = viterbi(level, bits, x)
    return float(((x - level[windows]) ** 2).sum() / (x ** 2).sum()), windows


def refit(features, windows, x):
    """Least squares for θ, with a little ridge: the tables of `shifted` hold a free constant each."""
    used = features[windows.ravel()]
    normal = used.T @ used
    ridge = 1e-6 * np.trace(normal) / len(normal)
    return np.linalg.solve(normal + ridge * np.eye(len(normal)), used.T @ x.ravel())


def lloyd(features, theta, bits, x, rounds):
    """The best (error, θ) of so many rounds, fewer once nothing is gained."""
    best, last = (np.inf, theta), np.inf
    for i in range(rounds):
        error, windows = relative_error(features, theta, bits, x)
        if error < best[0]:
            best = (error, theta)
        if i > 6 and last - error < 1e-5:
            break
        last = error
        theta = refit(features, windows, x)
    return best


# ---- the families ----


def shifted_features(bits, replicas):
    windows, symbols = np.arange(1 << (bits * replicas)), 1 << bits
    features = np.zeros((len(windows), replicas * symbols))
    for r in range(replicas):
        features[windows, r * symbols + (windows >> (bits * r) & symbols - 1)] = 1
    return features


def parity_features(bits, window_bits, masks):
    windows, top = np.arange(1 << window_bits), (1 << bits) - 1
    columns = []
    for r, mask in enumerate(masks):
        odd = np.array([int(w).bit_count() & 1 for w in windows & mask])
        columns.append(((windows >> (bits * r) & top) - top / 2) * (1 - 2 * odd))
    return np.stack(columns, 1)


def unit_step(bits):
    """The step with which a uniform code has variance 1."""
    return 1 / np.sqrt((4.0 ** bits - 1) / 12)


def shifted_start(rng, bits, replicas):
    codes = np.arange(1 << bits) - ((1 << bits) - 1) / 2
    tables = []
    for r in range(replicas):
        sign = rng.choice([-1, 1], len(codes)) if r > 0 else 1
        tables.append(unit_step(bits) * 0.6 ** r * (codes + 0.3 * rng.standard_normal(len(codes))) * sign)
    return np.concatenate(tables)


def samples(rng, count):
    return rng.standard_normal((max(1, count // LENGTH), LENGTH))


def search_shifted(args):
    rng = np.random.default_rng(args.seed)
    features, x = shifted_features(args.bits, args.replicas), samples(rng, args.train)
    best = (np.inf, None)
    for start in range(args.restarts):
        found = lloyd(features, shifted_start(rng, args.bits, args.replicas), args.bits, x, args.rounds)
        print(f"start {start}: {found[0]:.5f}", flush=True)
        best = min(best, found, key=lambda pair: pair[0])
    theta = centred(best[1], args.bits).round(3)
    report(args, features, theta)
    print("{" + ", ".join(f"{v:.3f}f" for v in theta) + "},")


def centred(theta, bits):
    """The same levels with later tables of mean 0: what all windows share belongs to the first."""
    tables = theta.reshape(-1, 1 << bits).copy()
    means = tables[1:].mean(1)
    tables[1:] -= means[:, None]
    tables[0] += means.sum()
    return tables.ravel()


def search_parity(args):
    rng = np.random.default_rng(args.seed)
    few, many = samples(rng, args.train // 8), samples(rng, args.train)
    tried = []
    for draw in range(args.restarts):
        masks = [int(m) for m in rng.integers(0, 1 << args.window_bits, args.replicas)]
        features = parity_features(args.bits, args.window_bits, masks)
        theta = unit_step(args.bits) * np.full(args.replicas, 1 / np.sqrt(args.replicas))
        tried.append((*lloyd(features, theta, args.bits, few, 4), masks))
    tried.sort(key=lambda found: found[0])
    best = (np.inf, None, None)
    for error, theta, masks in tried[: args.keep]:
        features = parity_features(args.bits, args.window_bits, masks)
        found = lloyd(features, theta, args.bits, many, args.rounds)
        print(f"masks {[hex(m) for m in masks]}: {error:.5f}, then {found[0]:.5f}", flush=True)
        best = min(best, (*found, masks), key=lambda f: f[0])
    theta, masks = best[1].round(3), best[2]
    report(args, parity_features(args.bits, args.window_bits, masks), theta)
    print(f"{{{args.bits}, {args.replicas}, {args.window_bits}, {{{', '.join(hex(m) for m in masks)}}}, "
          f"{{{', '.join(f'{a:.3f}f' for a in theta)}}}}},")


def report(args, features, theta):
    rng = np.random.default_rng([args.seed, 1])  # samples that the search has not seen
    error = np.mean([relative_error(features, theta, args.bits, samples(rng, args.test // 8))[0] for _ in range(8)])
    print(f"relative error on {args.test} other samples: {error:.4f} (bound {4.0 ** -args.bits:.4f})")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    families = parser.add_subparsers(required=True)
    shifted = families.add_parser("shifted")
    shifted.set_defaults(search=search_shifted, restarts=16)
    parity = families.add_parser("parity_sign")
    parity.add_argument("--window-bits", type=int, default=12, help="L, a multiple of bits")
    parity.add_argument("--keep", type=int, default=8, help="masks that are tried on all samples")
    parity.set_defaults(search=search_parity, restarts=200)
    for family in (shifted, parity):
        family.add_argument("--bits", type=int, default=2)
        family.add_argument("--replicas", type=int, default=2)
        family.add_argument("--restarts", type=int, help="starts, or draws of masks")
        family.add_argument("--rounds", type=int, default=30)
        family.add_argument("--train", type=int, default=65536, help="samples of the search")
        family.add_argument("--test", type=int, default=262144, help="samples of the figure that is printed")
        family.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.search(args)


if __name__ == "__main__":
    main()
