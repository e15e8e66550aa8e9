// Weights per second and core of the Viterbi encoder, beside the plain scalar loop that anyone would write first,
// compiled without vector instructions. 2 bits, tiles of 256 weights.
#include "replication/viterbi.h"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <vector>

#include "core/random.h"

namespace {

constexpr int64_t kTile = 256;

std::vector<float> numbers(int64_t count, const char* purpose) {
  core::Random random(1, "bench", purpose);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(4 * random.uniform() - 2);
  return values;
}

__attribute__((noinline, optimize("no-tree-vectorize"))) void scalar(const replication::Trellis& trellis,
                                                                     const float* x, uint8_t* codes) {
  const int64_t k = trellis.bits, K = int64_t{1} << k, states = int64_t{1} << (trellis.window_bits - k);
  static std::vector<float> cost, next;
  static std::vector<uint8_t> oldest;
  cost.assign(states, 1e30f), next.resize(states), oldest.resize(kTile * states);
  cost[0] = 0;
  for (int64_t t = 0; t < kTile; ++t) {
    uint8_t* from = oldest.data() + t * states;
    for (int64_t s = 0; s < states; ++s) {
      const float error = x[t] - trellis.level[s];
      next[s] = cost[s / K] + error * error;
      from[s] = 0;
    }
    for (int64_t o = 1; o < K; ++o) {
      const float *level = trellis.level + o * states, *before = cost.data() + o * (states / K);
      for (int64_t s = 0; s < states; ++s) {
        const float error = x[t] - level[s], found = before[s / K] + error * error;
        if (found < next[s]) next[s] = found, from[s] = static_cast<uint8_t>(o);
      }
    }
    std::swap(cost, next);
  }
  int64_t state = std::min_element(cost.begin(), cost.end()) - cost.begin();
  for (int64_t t = kTile - 1; t >= 0; --t) {
    codes[t] = static_cast<uint8_t>(state % K);
    state = (oldest[t * states + state] * states + state) >> k;
  }
}

template <class Encode>
void run(benchmark::State& state, const Encode& encode) {
  const int64_t window_bits = state.range(0);
  const std::vector<float> level = numbers(int64_t{1} << window_bits, "level"), x = numbers(kTile, "x");
  std::vector<uint8_t> codes(kTile);
  const replication::Trellis trellis{2, window_bits, level.data()};
  for (auto _ : state) {
    encode(trellis, x.data(), codes.data());
    benchmark::DoNotOptimize(codes.data());
  }
  state.SetItemsProcessed(state.iterations() * kTile);
}

void scalar_loop(benchmark::State& state) { run(state, scalar); }
void vectorised(benchmark::State& state) {  // one sequence: one thread
  run(state, [](const replication::Trellis& trellis, const float* x, uint8_t* codes) {
    replication::viterbi(trellis, x, 1, kTile, codes);
  });
}

BENCHMARK(scalar_loop)->Arg(4)->Arg(6)->Arg(8)->Arg(12)->Arg(16);
BENCHMARK(vectorised)->Arg(4)->Arg(6)->Arg(8)->Arg(12)->Arg(16);

}  // namespace
