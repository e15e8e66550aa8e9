// What the KL divergence needs of the full-precision model, without storing logits: its hidden states after the last
// block at every scored position (before the last norm; V / D times smaller than logits), and its own norm and head,
// which turn a chunk of them into logits when they are wanted.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>

#include "core/model.h"

namespace experiments {

// Hidden states [N, S, D] in the compute dtype, S scored positions of each window, as the raw content of one file.
// Different windows may be written and read at the same time.
class FinalStates {
 public:
  // A new file, or (open) one that is complete; errors are one line, naming the file.
  static FinalStates create(const std::string& file, int64_t windows, int64_t scored, int64_t width,
                            at::ScalarType dtype);
  static FinalStates open(const std::string& file, int64_t windows, int64_t scored, int64_t width,
                          at::ScalarType dtype);
  ~FinalStates();
  FinalStates(FinalStates&& other) noexcept;
  FinalStates& operator=(FinalStates&&) = delete;
  FinalStates(const FinalStates&) = delete;

  int64_t bytes() const { return windows_ * scored_ * row_bytes(); }
  void write(int64_t window, const at::Tensor& states);                        // [S, D]
  at::Tensor read(int64_t window, int64_t first, int64_t last) const;          // rows [first, last) of S: [·, D], CPU

 private:
  FinalStates(int descriptor, std::string file, int64_t windows, int64_t scored, int64_t width, at::ScalarType dtype);
  int64_t row_bytes() const;

  int descriptor_;
  std::string file_;
  int64_t windows_, scored_, width_;
  at::ScalarType dtype_;
};

// Last norm and head as they were loaded; what a stage puts into the model later is not seen here. The head's tensor is
// shared with the model, the norm's is a copy.
class FinalLayers {
 public:
  FinalLayers() = default;
  FinalLayers(core::Model& loaded, const core::Weights& weights);

  at::Tensor logits(const at::Tensor& hidden) const { return head_->forward(norm_->forward(hidden)); }  // -> [..., V]

 private:
  std::shared_ptr<core::RmsNorm> norm_;
  std::shared_ptr<core::Linear> head_;
};

}  // namespace experiments
