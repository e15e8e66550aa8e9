// What a token would cost a model that nobody has loaded, on a machine that need not be here: the bill of its shape
// against a read bandwidth and a kernel's time per weight. The larger of the two counts (roofline; Williams, Waterman
// and Patterson 2009); everything that is not in linears with codes waits for memory. A prediction, not a measurement:
// attention, norms, and whatever the machine does besides are left out.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "core/model.h"

namespace experiments {

// How the linears of all blocks are coded and used.
struct Pricing {
  int64_t bits = 2, group_size = 64;  // codes, and weights that share a float16 scale
  // linear: R sets of scales on one load of the codes; depth: blocks run R times in a row; parallel: R replicas of
  // every block side by side. Of each kind all replicas have scales of their own.
  std::string kind = "linear";
  int64_t replicas = 1;  // R
};
inline constexpr const char *kLinear = "linear", *kDepth = "depth", *kParallel = "parallel";

// Bytes that a generated token reads, and multiply-accumulates of the linears with codes.
struct Price {
  int64_t coded_bytes = 0;  // of the blocks, codes and scales and what else is in them
  int64_t other_bytes = 0;  // of head, embedding and last norm, 16 bits per number
  int64_t kv_bytes = 0;     // of keys and values of the context, 16 bits
  int64_t coded_macs = 0;
  int64_t file_bytes = 0;  // of all that is stored

  int64_t bytes() const { return coded_bytes + other_bytes + kv_bytes; }
};

// model: a skeleton as models::build makes it, which is changed. Router, head and embedding stay in 16 bits. context:
// tokens whose keys and values are read. cache_bytes: as of core::bill_of_block.
Price price_of(core::Model& model, const Pricing& pricing, int64_t context, int64_t cache_bytes);

struct Machine {
  double bandwidth = 0;  // bytes per second that all threads together read
  // Of the kernel, all threads together, codes at hand; none: not counted.
  std::optional<double> seconds_per_weight = {};
};

struct Prediction {
  double memory_seconds = 0, compute_seconds = 0;  // of the blocks, each as if the other cost nothing
  double token_seconds = 0;

  double tokens_per_s() const { return 1 / token_seconds; }
};
Prediction predict(const Price& price, const Machine& machine);

// Seconds per weight of the linear that these bits, groups and replicas make, for one token, measured here with all
// threads of LibTorch on codes that lie in the cache: the best of many products. Side by side (kind parallel) every
// replica has an input of its own, and the time is that of one weight of one replica.
double kernel_seconds_per_weight(const Pricing& pricing);

}  // namespace experiments
