// How fast a model reads and writes, as llama-bench measures it: one sequence, a warm-up, repetitions with mean and
// standard deviation, tokenizing and sampling left out; and how near that is to what the memory allows.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/model.h"
#include "experiments/measure/measure.h"

namespace experiments {

struct LatencyConfig : Measure {
  std::vector<int64_t> contexts{64};
  int64_t generate = 64;
  int64_t repetitions = 5;

  void keys(core::Keys& k) override;
  void check() const override;
  void check_context(const core::Shape& shape) const;  // UserError when a context and what is generated do not fit

  int version() const override { return 2; }
  bool decodes() const override { return true; }
  bool measures_full_precision() const override { return false; }
  Prepared prepare(Texts& texts) const override;
  std::vector<Column> columns() const override;
  DetailTable details() const override;
};

// Of repetitions: mean and sample standard deviation (0 of a single one).
struct Timing {
  double mean = 0, sd = 0;
};
Timing timing_of(const std::vector<double>& values);

// With a prompt of `context` tokens.
struct LatencyAt {
  int64_t context = 0;
  Timing ttft_ms;              // from the prompt to the first token
  Timing prompt_tokens_per_s;  // of the prompt
  Timing tokens_per_s;         // of those that are generated behind the first
};

struct Latency {
  std::vector<LatencyAt> at;     // in the order of `contexts`
  double read_bandwidth = 0;     // bytes per second, of this machine with as many threads, just before
  int64_t peak_rss_bytes = 0;    // most resident memory while tokens were read and written
  double load_average = 0;       // of the last minute, at the beginning
  std::optional<double> others;  // cores that other processes kept busy meanwhile, on average
};

// Holds a lock of this machine and user, so that two measurements do not disturb each other; waits for it with a log
// line. The blocks must be loaded. Prompts are random tokens of the seed.
Latency measure_latency(core::Model& model, const LatencyConfig& config, uint64_t seed);

}  // namespace experiments
