// How a plain loop is compiled for vectors. No LibTorch.
#pragma once

// A function marked so is compiled once per instruction set; the best one for this machine is chosen at program start.
// Only g++ on Linux does this reliably, and not under AddressSanitizer; elsewhere the mark is empty.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
#define REFRAIN_SIMD __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define REFRAIN_SIMD
#endif
