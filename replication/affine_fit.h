// The affine parameters with which given codes come closest to a weight.
#pragma once

#include "quant/grids/affine.h"

namespace replication {

// What the inputs say about the columns: their mean squares, all ones where they are not known. w: [O, I] -> [I], and a
// column without inputs counts a little.
at::Tensor column_weights(const at::Tensor& w, const quant::Statistics& x);

// Parameters of `grid` for codes [O, I] with least Σ h (ŵ − target)², scale and zero of every group in turn; rounded as
// they are stored. target: [O, I] float32; h: [I], positive.
quant::Parameters fitted(const quant::AffineGrid& grid, const at::Tensor& codes, const at::Tensor& target,
                         const at::Tensor& h);

}  // namespace replication
