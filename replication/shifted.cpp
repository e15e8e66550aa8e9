#include "replication/shifted.h"

#include <ATen/ATen.h>

#include "core/error.h"

namespace replication {

namespace {

// At 2 bits, for weights of variance 1: those of the study, and what tools/window_codes.py finds for 4 replicas.
const std::vector<std::vector<float>>& tables() {
  static const std::vector<std::vector<float>> all{
      {-1.356f, -.405f, .430f, 1.376f, .359f, -.501f, .566f, -.379f},
      {-.342f, -1.196f, .351f, 1.222f, .471f, -.497f, -.441f, .503f, -.561f, .163f, .539f, -.106f},
      {-1.239f, -.355f, .350f, 1.201f, -.296f, .387f, -.490f, .400f,  //
       .359f, -.182f, .132f, -.309f, -.187f, .562f, -.480f, .105f},
  };
  return all;
}

}  // namespace

at::Tensor shifted_features(int64_t bits, int64_t replicas) {
  const int64_t K = int64_t{1} << bits, windows = int64_t{1} << (bits * replicas);
  at::Tensor features = at::zeros({windows, replicas * K}, at::kFloat);
  auto* to = features.mutable_data_ptr<float>();
  for (int64_t window = 0; window < windows; ++window) {
    for (int64_t r = 0; r < replicas; ++r) to[(window * replicas + r) * K + (window >> (bits * r) & (K - 1))] = 1;
  }
  return features;
}

WindowFamily shifted(int64_t bits, int64_t replicas, const std::string& path) {
  const auto known = static_cast<int64_t>(tables().size()) + 1;
  core::require(bits == 2 && replicas >= 2 && replicas <= known,
                "{}: shifted has tables for 2 bits and 2 to {} replicas, not for {} bits and {} replicas. "
                "tools/window_codes.py finds more.",
                path, known, bits, replicas);
  return {"shifted", bits * replicas, shifted_features(bits, replicas), "tables", tables()[replicas - 2], {}};
}

}  // namespace replication
