// Coordinate descent on what calibration inputs see of a quantized weight, tr(Δ H Δᵀ) with Δ = W − Ŵ and H the mean of
// x xᵀ plus a little of its diagonal, from codes that a method has chosen. A round finds
//   - the scales of the groups for the codes, by least squares in every row;
//   - the codes for the scales: blocks of columns in turn, which the format chooses together, nearest to Ŵ_B + (Δ H)_B
//   / λ
//     with λ the mean of the diagonal of H_BB. Of single columns this is the exact minimum over what all others leave
//     (QuantEase, Behdin et al. 2023, arXiv 2309.01885, algorithm 1; CDQuant, Nair and Suggala 2024, arXiv 2406.17542);
//     the rows of a block that are coded together keep their codes where it would raise the error.
// The error never rises, up to the rounding of scales to their dtype.
#pragma once

#include "quant/grids/weight_format.h"

namespace quant {

// w: [O, I] float32; x.hessian: finite. Scales stay as they are where the format cannot take others
// (WeightFormat::rescaled).
Refined descended(const at::Tensor& w, const WeightFormat& format, Encoded encoded, const Statistics& x,
                  int64_t rounds);

}  // namespace quant
