// Half-quadratic quantization (Badri and Shaji 2023, mobiusml.github.io/hqq_blog): without data, the scales of the grid
// stay and every group's zero point, a float, moves to where Σ |w − ŵ|^p is least, p < 1 so that few large errors cost
// less than many small ones. With ŵ = s (k − z) and r = w − ŵ the two halves of a step are
//   e ← shrink(r, β) = sign(r) max(0, |r| − |r|^(p−1) / β)        z ← mean over the group of k − (w − e) / s
// and β ← κ β after each. β is in units of the weights, as in the original code: for weights well below 1 nearly all of
// e is 0, and z follows the mean of r.
//
// Different from the original code: the iterate with the least Σ |r|^p is kept, the start included, instead of the last
// one; the search stops per group, not for the whole tensor, and on this loss instead of mean |r|; z is rounded to the
// dtype in which it is stored at every step, so what is compared is what is saved.
#include <ATen/ATen.h>

#include "quant/method.h"

namespace quant {

namespace {

constexpr int64_t kWeightsSolvedAtOnce = 1 << 18;  // whose temporaries are held at a time

struct Hqq : LinearMethod {
  double lp_norm = 0.7;
  double beta = 10;
  double kappa = 1.01;
  int64_t iterations = 20;
  bool early_stop = true;

  std::string summary() const override {
    return "float zero points that lose least in the p-norm, found without data; the scales stay";
  }
  void keys(core::Keys& k) override {
    k.key("lp_norm", lp_norm, "exponent p of the error that is least: sum of |w - w'|^p", {0, 1, /*low_open=*/true});
    k.key("beta", beta, "weight of the quadratic half, per weight; larger leaves more of the error to the p-norm half",
          {0, core::kInfinity, /*low_open=*/true});
    k.key("kappa", kappa, "factor on beta after each step", {1, 100});
    k.key("iterations", iterations, "steps at most; 0: round to nearest", {0, 100000});
    k.key("early_stop", early_stop, "a group's zero point stays once a step does not lower its error");
  }
  std::string refuses(const WeightFormat& format, int64_t, int64_t) const override {
    const WeightConfig& grid = format.config();
    const bool fits = format.name() == "affine" && grid.symmetry == "asymmetric" && grid.zero_point == "float";
    return fits ? ""
                : "it moves float zero points, and this grid has none. Set quant.weight: {symmetry: asymmetric, "
                  "zero_point: float} and leave codebook: uniform.";
  }

  // w: [O, I]
  Encoded quantize(const at::Tensor& w, const WeightFormat& format, const Statistics& x) const override {
    Parameters parameters = format.fit(w, x);
    const auto zero_point = std::find_if(parameters.begin(), parameters.end(),
                                         [](const Parameter& p) { return p.kind == core::Kind::zero_point; });
    TORCH_CHECK(zero_point != parameters.end(), "hqq needs a float zero point");
    const int64_t rows = zero_point->tensor.size(0);  // O, or 1 when the matrix is one group
    const Grid grid{as_elements(format).element_grid(parameters, w.size(0), w.size(1)).scale.narrow(0, 0, rows),
                    format.config().offset, static_cast<double>((int64_t{1} << format.code_bits()) - 1),
                    zero_point->stored_dtype};
    const at::Tensor groups = w.reshape({rows, zero_point->tensor.size(1), -1}), found = zero_point->tensor.clone();
    const int64_t at_once = std::max<int64_t>(1, kWeightsSolvedAtOnce * rows / w.numel());
    for (int64_t first = 0; first < rows; first += at_once) {
      const int64_t count = std::min(at_once, rows - first);
      found.narrow(0, first, count)
          .copy_(best_zero(groups.narrow(0, first, count), grid.rows(first, count), found.narrow(0, first, count)));
    }
    zero_point->tensor = found;
    return format.encode(w, std::move(parameters));
  }

 private:
  struct Grid {
    at::Tensor scale;  // [O, G]
    double offset, top;
    at::ScalarType zero_dtype;

    Grid rows(int64_t first, int64_t count) const { return {scale.narrow(0, first, count), offset, top, zero_dtype}; }
  };

  // groups: [o, G, S]; scale and zero: [o, G]. The zero points with the least Σ |w − ŵ|^p that the iteration passes.
  at::Tensor best_zero(const at::Tensor& groups, const Grid& grid, const at::Tensor& start) const {
    const at::Tensor s = grid.scale.unsqueeze(-1), steps = groups / s;
    at::Tensor zero = start, best = start, least = at::full_like(start, core::kInfinity);
    at::Tensor moves = at::ones_like(start, at::kBool);  // groups whose search goes on
    double weight = beta;
    for (int64_t i = 0;; ++i) {
      const at::Tensor shift = (zero - grid.offset).unsqueeze(-1);
      const at::Tensor k = at::round(steps + shift).clamp_(0, grid.top);
      const at::Tensor r = groups - (k - shift) * s;
      const at::Tensor magnitude = r.abs();
      const at::Tensor loss = magnitude.pow(lp_norm).sum(-1);
      const at::Tensor better = loss < least;  // never where the zero point is not finite in its dtype
      best = at::where(better, zero, best);
      least = at::where(better, loss, least);
      if (early_stop) moves = moves.logical_and(better);
      if (i == iterations || !moves.any().item<bool>()) return best;
      const at::Tensor e = at::sign(r) * at::relu(magnitude - magnitude.pow(lp_norm - 1) / weight);
      const at::Tensor next = (k - (groups - e) / s).mean(-1) + grid.offset;
      zero = at::where(moves, next.to(grid.zero_dtype).to(at::kFloat), zero);
      weight *= kappa;
    }
  }
};

}  // namespace

core::Polymorphic<Method> make_hqq() { return Hqq{}; }

}  // namespace quant
