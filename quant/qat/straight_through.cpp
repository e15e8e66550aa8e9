#include "quant/qat/straight_through.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "quant/grids/scale_format.h"

namespace quant {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct StraightThrough : torch::autograd::Function<StraightThrough> {
  static at::Tensor forward(AutogradContext*, const at::Tensor&, const at::Tensor& rounded) { return rounded.clone(); }
  static variable_list backward(AutogradContext*, const variable_list& gradient) { return {gradient[0], at::Tensor()}; }
};

}  // namespace

at::Tensor straight_through(const at::Tensor& exact, const at::Tensor& rounded) {
  return StraightThrough::apply(exact, rounded);
}

Parameters as_stored(const WeightFormat& format, const Parameters& parameters) {
  const ScaleFormat scale_format(format.config(), /*is_signed=*/true);
  Parameters stored = parameters;
  for (Parameter& p : stored) {
    if (core::is_codes(p.kind)) continue;
    const at::Tensor exact = p.tensor.detach();
    p.tensor = straight_through(p.tensor, p.kind == core::Kind::scale ? scale_format.rounded_scale(exact)
                                                                      : exact.to(p.stored_dtype).to(at::kFloat));
  }
  return stored;
}

}  // namespace quant
