// Moving a factor of the inputs of linears from the inputs into the weights: (x / f) (f ∘ W)ᵀ = x Wᵀ. Who makes the
// inputs divides by f, so that the model computes what it did and no operation is added.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "core/model.h"

namespace quant {

// Whether the producer can divide its outputs: it is a norm or a linear.
bool can_fold(const core::Producer& producer);

// Columns that come from one channel of the producer (query heads that share a value head) get the mean of theirs.
// columns: [I] -> [I].
at::Tensor tied(const core::Producer& producer, const at::Tensor& columns);

// Multiplies the input columns of the consumers by f and divides the producer's channels by it. f: [I] > 0, tied.
// consumers: every reader of the producer's output, dense; the results are stored in the compute dtype.
void fold(const core::Producer& producer, const std::vector<core::Slot*>& consumers, const at::Tensor& f);

}  // namespace quant
