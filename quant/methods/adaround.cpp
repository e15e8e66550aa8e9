// AdaRound (Nagel, Amjad, van Baalen, Louizos and Blankevoort 2020, arXiv 2004.10568): every weight takes the level
// below or above it, whichever lets the outputs of its linear change least. The choice is relaxed to ŵ = l + h(V) (u −
// l) with the levels l ≤ w ≤ u and the rectified sigmoid h(V) = clamp(σ(V)(ζ − γ) + γ, 0, 1), ζ = 1.1, γ = −0.1, and V
// follows Adam on
//   ‖Wx − Ŵx‖² + λ Σ (1 − |2h − 1|^β)                                                              (paper, eq. 21-24)
// in which β falls from 20 to 2 along a cosine, as in the authors' code (AIMET), after a warm-up without the second
// term; in the end h is rounded.
//
// Different from the paper: the first term is taken over all calibration tokens at once, tr(ΔHΔᵀ) with H = mean of x
// xᵀ, so no token is stored and no step sees another sample; rows are independent then, and each is scaled so that
// rounding to nearest costs 1 per weight, which gives λ the same meaning in every linear. A weight beyond the last
// level chooses between the last two. A row for which rounding to nearest costs less is rounded to nearest.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cmath>
#include <numbers>

#include "core/error.h"
#include "quant/columns/hessian_factor.h"
#include "quant/method.h"

namespace quant {

namespace {

constexpr double kZeta = 1.1, kGamma = -0.1;
constexpr int64_t kWeightsLearnedAtOnce = 1 << 20;  // whose variables are held at a time

// The levels around every weight: codes `below` and `below` + 1, and where between them it lies.
struct Between {
  at::Tensor below;     // [O, I] uint8, at most top − 1
  at::Tensor fraction;  // [O, I] in [0, 1]
};

Between between(const at::Tensor& w, const ElementGrid& grid) {
  const at::Tensor x = w.reshape({w.size(0), grid.scale.size(1), grid.group_size}) / grid.scale.unsqueeze(-1);
  at::Tensor below, fraction;
  if (grid.table.empty()) {
    const at::Tensor position = x + grid.shift.unsqueeze(-1);
    below = at::floor(position).clamp(0, grid.top - 1);
    fraction = position - below;
  } else {
    const at::Tensor levels = at::tensor(grid.table, x.options());
    below = (at::bucketize(x, levels, /*out_int32=*/false, /*right=*/true) - 1).clamp(0, grid.top - 1);
    const at::Tensor low = levels.index({below}), gap = levels.index({below + 1}) - low;
    fraction = at::where(gap > 0, (x - low) / gap, at::zeros_like(x));
  }
  return {below.to(at::kByte).reshape(w.sizes()), fraction.clamp(0, 1).reshape(w.sizes())};
}

// δHδᵀ per row: [O, I] -> [O].
at::Tensor row_errors(const at::Tensor& delta, const at::Tensor& hessian) {
  return (at::mm(delta, hessian) * delta).sum(-1);
}

// Adam (Kingma and Ba 2015, arXiv 1412.6980) on one tensor.
class Adam {
 public:
  Adam(const at::Tensor& x, double lr) : lr_(lr), mean_(at::zeros_like(x)), square_(at::zeros_like(x)) {}

  void step(at::Tensor& x, const at::Tensor& gradient) {
    constexpr double kMean = 0.9, kSquare = 0.999, kSmall = 1e-8;
    ++steps_;
    mean_.mul_(kMean).add_(gradient, 1 - kMean);
    square_.mul_(kSquare).addcmul_(gradient, gradient, 1 - kSquare);
    const double mean_bias = 1 - std::pow(kMean, steps_), square_bias = 1 - std::pow(kSquare, steps_);
    x.addcdiv_(mean_, at::sqrt(square_ / square_bias).add_(kSmall), -lr_ / mean_bias);
  }

 private:
  double lr_;
  int64_t steps_ = 0;
  at::Tensor mean_, square_;
};

struct AdaRound : Method {
  int64_t iterations = 1000;
  double lr = 0.01;
  double lambda = 10;
  double warm_up = 0.2;
  std::vector<double> beta{20, 2};

  std::string summary() const override {
    return "each weight up or down so that the outputs of its linear change least, by a relaxation that hardens";
  }
  void keys(core::Keys& k) override {
    k.key("iterations", iterations, "steps of Adam; 0: round to nearest", {0, 1000000});
    k.key("lr", lr, "rate of Adam", {0, 10, /*low_open=*/true});
    k.key("lambda", lambda, "cost of an undecided weight, in the mean cost of a weight that is rounded to nearest",
          {0, 1e6});
    k.key("warm_up", warm_up, "share of the steps in which undecided weights cost nothing", {0, 1});
    k.key("beta", beta, "first and last exponent of that cost; it falls along a cosine after the warm-up", {1, 1000});
  }
  void check() const override {
    core::require(beta.size() == 2, "{} needs two numbers, the first and the last exponent, not {}.", where("beta"),
                  beta.size());
  }
  Needs needs() const override { return {.hessian = true}; }
  std::string refuses(const WeightFormat& format, int64_t, int64_t) const override {
    return format.config().rounding == "nearest"
               ? ""
               : "it chooses the rounding itself. Set quant.weight.rounding: nearest.";
  }

  std::vector<Quantized> quantize(core::BlockContext&, const std::vector<Target>& targets) const override {
    std::vector<Quantized> all;
    for (const Target& target : targets) {
      const at::Tensor w = target.slot->linear().weight().to(at::kFloat);  // [O, I]
      all.push_back(named(target.slot->path(), [&] { return rounded(w, as_elements(*target.format), target.inputs); }));
    }
    return all;
  }

 private:
  Quantized rounded(const at::Tensor& w, const ElementFormat& format, const Statistics& x) const {
    Encoded nearest = round_to_nearest(w, format, x);
    if (std::string reason = unusable(x); !reason.empty()) return {std::move(nearest), std::move(reason), {}};
    const ElementGrid grid = format.element_grid(nearest.parameters, w.size(0), w.size(1));
    const at::Tensor codes = nearest.codes.clone();
    const int64_t at_once = std::max<int64_t>(1, kWeightsLearnedAtOnce / w.size(1));
    int64_t improved = 0;
    for (int64_t first = 0; first < w.size(0); first += at_once) {
      const int64_t count = std::min(at_once, w.size(0) - first);
      const auto rows = [&](const at::Tensor& t) { return t.defined() ? t.narrow(0, first, count) : t; };
      const ElementGrid part{rows(grid.scale), rows(grid.shift), grid.group_size, grid.top, grid.table, {}};
      improved += round_rows(rows(w), part, x.hessian, rows(codes));
    }
    nearest.codes = codes;
    return {std::move(nearest), {}, fmt::format("{} of {} rows changed", improved, w.size(0))};
  }

  // w: [o, I]; codes: [o, I], of rounding to nearest, replaced where others are better. How many rows that are.
  int64_t round_rows(const at::Tensor& w, const ElementGrid& grid, const at::Tensor& h, at::Tensor codes) const {
    const Between around = between(w, grid);
    const at::Tensor error = row_errors(w - grid.decode(codes), h);
    const at::Tensor up = learned(w, grid, around, h, error);
    const at::Tensor found = around.below + up.to(at::kByte);
    const at::Tensor better = row_errors(w - grid.decode(found), h) < error;  // [o]
    codes.copy_(at::where(better.unsqueeze(-1), found, codes));
    return better.sum().item<int64_t>();
  }

  // Which weights go up: [o, I], bool. error: of rounding to nearest, [o].
  at::Tensor learned(const at::Tensor& w, const ElementGrid& grid, const Between& around, const at::Tensor& h,
                     const at::Tensor& error) const {
    const at::Tensor low = grid.decode(around.below), gap = grid.decode(around.below + 1) - low, below = w - low;
    // 2 over what a weight costs on average when it is rounded to nearest: [o, 1]
    const at::Tensor factor = 2.0 * w.size(1) / error.clamp_min(1e-30).unsqueeze(-1);
    at::Tensor v = at::logit((around.fraction - kGamma) / (kZeta - kGamma));  // h(V) = the fraction
    Adam adam(v, lr);
    const double warm = warm_up * static_cast<double>(iterations);
    for (int64_t i = 0; i < iterations; ++i) {
      const at::Tensor sigmoid = at::sigmoid(v), stretched = sigmoid * (kZeta - kGamma) + kGamma;
      const at::Tensor up = stretched.clamp(0, 1);
      at::Tensor gradient = at::mm(below - gap * up, h).mul_(gap).mul_(-factor);  // of the first term, by h(V)
      if (static_cast<double>(i) >= warm && lambda > 0) {
        const double done = (static_cast<double>(i) - warm) / (static_cast<double>(iterations) - warm);
        const double exponent = beta[1] + 0.5 * (beta[0] - beta[1]) * (1 + std::cos(done * std::numbers::pi));
        const at::Tensor side = 2 * up - 1;
        gradient.sub_(side.abs().pow(exponent - 1).mul_(at::sign(side)), 2 * lambda * exponent);
      }
      const at::Tensor inside = (stretched >= 0).logical_and(stretched <= 1);
      gradient.mul_(sigmoid * (1 - sigmoid) * (kZeta - kGamma)).mul_(inside);
      adam.step(v, gradient);
    }
    return v >= 0;  // h(V) ≥ 1/2
  }
};

}  // namespace

core::Polymorphic<Method> make_adaround() { return AdaRound{}; }

}  // namespace quant
