// A factor on what a linear gives, made part of its parameters: of a gate behind it.
#pragma once

#include <memory>

#include "core/nn/linear.h"

namespace exports {

class Folding {
 public:
  explicit Folding(double factor) : factor_(factor) {}

  // A linear that gives factor · y. Of a quantized one the scales (and minima) are multiplied and rounded to the dtype
  // that they are stored in; where they are stored as integers, those that these are relative to. A linear of another
  // kind is multiplied as a matrix. A factor of 1: the linear itself.
  std::shared_ptr<core::Linear> folded(std::shared_ptr<core::Linear> linear);

  // Of all that were folded, Σ (ŵ − f w)² / Σ (f w)².
  double error() const { return all_ > 0 ? difference_ / all_ : 0; }

 private:
  double factor_;
  double difference_ = 0, all_ = 0;
};

}  // namespace exports
