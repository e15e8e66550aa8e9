#include "core/sampling.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "core/error.h"

namespace core {

namespace {

struct Candidate {
  double probability;  // not normalized
  int64_t index;
  bool operator<(const Candidate& other) const {
    return std::pair(probability, -index) < std::pair(other.probability, -other.index);
  }
};

}  // namespace

int64_t sample(std::span<const float> logits, const Sampling& sampling, Random& random) {
  const auto top = std::max_element(logits.begin(), logits.end());
  require(top != logits.end() && std::isfinite(*top),
          "the logits are not finite. The quantized model is broken, or float16 overflows.");
  if (sampling.temperature == 0) return top - logits.begin();
  // 1. exp((logit − largest) / temperature), in double
  std::vector<Candidate> heap(logits.size());
  double sum = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    heap[i] = {std::exp((static_cast<double>(logits[i]) - *top) / sampling.temperature), static_cast<int64_t>(i)};
    require(std::isfinite(heap[i].probability), "the logit of token {} is not a number. The quantized model is broken.",
            i);
    sum += heap[i].probability;
  }
  // 2. from the likeliest down until they have top_p of the sum; most of the heap is never sorted
  std::make_heap(heap.begin(), heap.end());
  auto end = heap.end();
  double kept = 0;
  while (end != heap.begin() && (kept == 0 || kept < sampling.top_p * sum)) {
    std::pop_heap(heap.begin(), end);
    kept += (--end)->probability;
  }
  // 3. one of them, likeliest first
  double left = random.uniform() * kept;
  for (auto candidate = heap.end(); candidate != end;) {
    left -= (--candidate)->probability;
    if (left < 0) return candidate->index;
  }
  return end->index;
}

}  // namespace core
