// A linear of a sidecar as the operator of ggml keeps it (replicas.h): the codes once, in the layout of the kernels,
// and the sets of parameters of its block and of the replicas of the block.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "quant/kernels/product.h"

struct refrain_replicas {
  quant::kernels::Layout layout;
  const quant::kernels::Kernel* kernel = nullptr;
  std::vector<uint32_t> words;                 // the codes, rows in the order of the output
  std::vector<int64_t> numbers;                // of the replica, per set
  std::vector<std::vector<std::byte>> values;  // of each set, which points here
  std::vector<quant::kernels::Parameters> sets;
};

namespace exports {

// Errors (UserError): those of replicas.h.
std::unique_ptr<refrain_replicas> read_replicas(const std::string& sidecar, const std::string& module);

}  // namespace exports
