// Hidden states of all windows of a text between two blocks, in batches of fixed shape. Different batches may be read
// and written at the same time.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace core {

class HiddenStore {
 public:
  explicit HiddenStore(int64_t batches) : batches_(batches) {}

  int64_t batches() const { return static_cast<int64_t>(batches_.size()); }
  const at::Tensor& get(int64_t batch) const { return batches_.at(batch); }  // [B, T, D]
  void put(int64_t batch, at::Tensor hidden) { batches_.at(batch) = std::move(hidden); }

 private:
  std::vector<at::Tensor> batches_;
};

}  // namespace core
