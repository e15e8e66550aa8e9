// LDLQ by blocks of columns (Chee, Cai, Kuleshov and De Sa 2023, arXiv 2307.13304; blocks as in QuIP#, Tseng et al.
// 2024, arXiv 2402.04396): 16 columns are coded together, from left to right, and their errors E are spread over the
// columns to the right, W_rest −= E U_BB⁻¹ U_B,rest with (H + damping)⁻¹ = Uᵀ U. For one column at a time this is GPTQ
// without act_order. Inside a block errors are not spread: the codes of a block may depend on each other, which is what
// formats that look at neighbouring codes need.
#include <ATen/ATen.h>

#include "quant/columns/column_encoder.h"
#include "quant/columns/hessian_factor.h"
#include "quant/method.h"

namespace quant {

namespace {

constexpr int64_t kBlock = 16;  // columns

struct Ldlq : Method {
  double damp = 0.01;

  std::string summary() const override {
    return "blocks of 16 columns from left to right, the error of each spread over the later ones by the Hessian";
  }
  void keys(core::Keys& k) override {
    k.key("damp", damp, "added to the Hessian's diagonal, as a share of its mean; times ten as long as it is singular",
          {0, 1});
  }
  Needs needs() const override { return {.hessian = true}; }
  bool feeds_errors_back() const override { return true; }
  std::vector<Order> accepts() const override { return {Order::elementwise, Order::sequence}; }

  std::vector<Quantized> quantize(core::BlockContext&, const std::vector<Target>& targets) const override {
    std::vector<Quantized> all;
    HessianFactor factor;
    for (const Target& target : targets) {
      if (!factor.h.defined() || !factor.h.is_same(target.inputs.hessian)) factor = factor_of(target.inputs);
      const at::Tensor w = target.slot->linear().weight().to(at::kFloat);  // [O, I]
      all.push_back(named(target.slot->path(), [&]() -> Quantized {
        if (!factor.u.defined()) return {round_to_nearest(w, *target.format, target.inputs), factor.reason, {}};
        return {spread(w, *target.format, target.inputs, factor.u), {}, factor.note};
      }));
    }
    return all;
  }

 private:
  HessianFactor factor_of(const Statistics& x) const {
    if (std::string reason = unusable(x); !reason.empty()) return {.h = x.hessian, .reason = std::move(reason)};
    return factorized(x, natural_order(x.hessian.size(0)), damp);
  }

  // u: [I, I]
  static Encoded spread(const at::Tensor& w, const WeightFormat& format, const Statistics& x, const at::Tensor& u) {
    const int64_t O = w.size(0), I = w.size(1);
    Parameters parameters = format.fit(w, x);
    TORCH_CHECK(kBlock % column_block(format) == 0, "columns are coded ", column_block(format), " together");
    const EncodeColumns encode = encoder_of(format, parameters, O, I);
    const at::Tensor rest = w.cpu().clone(), codes = at::empty({O, I}, rest.options().dtype(at::kByte));
    for (int64_t first = 0; first < I; first += kBlock) {
      const int64_t last = std::min(first + kBlock, I);
      const at::Tensor block = rest.slice(1, first, last).contiguous();  // W_B: [O, n]
      const EncodedColumns found = encode(block, first);
      codes.slice(1, first, last).copy_(found.codes);
      if (last == I) break;
      const at::Tensor rows = u.slice(0, first, last);
      const at::Tensor scaled = at::linalg_solve_triangular(rows.slice(1, first, last), block - found.levels,
                                                            /*upper=*/true, /*left=*/false);  // E U_BB⁻¹
      rest.slice(1, last).addmm_(scaled, rows.slice(1, last), 1, -1);
    }
    return {codes.to(w.device()), std::move(parameters)};
  }
};

}  // namespace

core::Polymorphic<Method> make_ldlq() { return Ldlq{}; }

}  // namespace quant
