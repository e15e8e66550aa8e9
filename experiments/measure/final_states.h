// What the KL divergence needs of the full-precision model, without storing logits: its hidden states after the last
// block at every scored position (before the last norm; V / D times smaller than logits), and its own norm and head,
// which turn a chunk of them into logits when they are wanted.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>

#include "core/io/files.h"
#include "core/model.h"

namespace experiments {

// Hidden states [N, S, D] in the compute dtype, S scored positions of each window, as the raw content of one file.
// Different windows may be written and read at the same time.
class FinalStates {
 public:
  struct Shape {
    int64_t windows = 0, scored = 0, width = 0;  // N, S, D
    at::ScalarType dtype = at::kFloat;
  };
  enum class Open { create, read };

  FinalStates(const std::string& file, const Shape& shape, Open how);

  void write(int64_t window, const at::Tensor& states);                // [S, D]; error when the disk is full
  at::Tensor read(int64_t window, int64_t first, int64_t last) const;  // rows [first, last) of S: [·, D], on the CPU

 private:
  int64_t row_bytes() const;

  std::string file_;
  Shape shape_;
  core::Descriptor descriptor_;
};

// Last norm and head of the full-precision model. The head's tensor is shared with the model under measurement when
// that has the very same one, else it is read.
class FinalLayers {
 public:
  FinalLayers(core::Model& measured, const core::Weights& full);
  explicit FinalLayers(core::Model& full);  // the model's own

  at::Tensor logits(const at::Tensor& hidden) const { return head_->forward(norm_->forward(hidden)); }  // -> [..., V]

 private:
  std::shared_ptr<core::RmsNorm> norm_;
  std::shared_ptr<core::Linear> head_;
};

}  // namespace experiments
