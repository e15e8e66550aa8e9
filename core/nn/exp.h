// An exponential for loops that a compiler turns into vectors; the library's would be a call per element.
#pragma once

#include <bit>
#include <cstdint>

namespace core {

// exp(x) to about 2 units in the last place: x = n ln 2 + r with |r| ≤ ln 2 / 2, exp(r) by its Taylor polynomial of
// degree 7 (next term below 6e-9), 2^n through the exponent bits. Clamped to ±87; NaN stays NaN.
[[gnu::always_inline]] inline float exp_for_loops(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 87.0f ? 87.0f : x;
  constexpr float kRound = 12582912.0f;  // 1.5 · 2^23: adding it rounds to an integer, which then lies in the low bits
  const float shifted = x * 1.44269504f + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;  // ln 2 in two parts, the first exact in few bits
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const auto exponent = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kRound) + 127;
  return p * std::bit_cast<float>(exponent << 23);
}

}  // namespace core
