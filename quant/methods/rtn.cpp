// Round to nearest: every weight takes the closest level of its group's grid. The baseline that other methods must
// beat.
#include "quant/method.h"

namespace quant {

namespace {

struct Rtn : LinearMethod {
  std::string summary() const override { return "round to nearest: every weight takes the closest level of its grid"; }
  std::vector<Order> accepts() const override { return {Order::elementwise, Order::sequence}; }
  Encoded quantize(const at::Tensor& w, const WeightFormat& format, const Statistics& x) const override {  // w: [O, I]
    return round_to_nearest(w, format, x);
  }
};

}  // namespace

core::Polymorphic<Method> make_rtn() { return Rtn{}; }

}  // namespace quant
