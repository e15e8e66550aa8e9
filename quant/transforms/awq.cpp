// The scales of AWQ (Lin, Tang, Tang, Yang, Dang and Han 2023, arXiv 2306.00978): columns whose inputs are large are
// scaled up before rounding, f_j = mean |x_j|^α, with the α of a grid whose rounded weights leave the parent's output
// closest to what it was (section 3.2, equations 4 and 5). f is normalized by sqrt(max f · min f), as in its code.
//
// Different here: linears without a module around them are judged by tr(ΔHΔᵀ), which is the same sum over all tokens
// without running any; query heads that share a value head share their factors, where the code leaves such an o_proj
// out.
#include <ATen/ATen.h>
#include <fmt/core.h>

#include "quant/linear/swapped.h"
#include "quant/method.h"
#include "quant/stage/fold.h"
#include "quant/transform.h"

namespace quant {

namespace {

struct AwqTransform : Transform {
  int64_t grid = 20, tokens = 4096;
  bool duo_scaling = false;

  std::string summary() const override {
    return "columns with large inputs are scaled up by what a search on the parent's output finds (AWQ's scales)";
  }
  void keys(core::Keys& k) override {
    k.key("grid", grid, "exponents alpha = i/grid, i < grid, of f = mean|x|^alpha that are tried", {1, 1000});
    k.key("duo_scaling", duo_scaling,
          "divide f by mean|w|^(1 - alpha), w relative to its group's largest, as AutoAWQ and llm-compressor do");
    k.key("tokens", tokens, "calibration tokens on which a parent's output is compared, in whole batches",
          {1, 1 << 30});
  }
  bool reads_grid() const override { return true; }

  Needs needs(const InputGroup& group) const override {
    const bool quantized = std::any_of(group.consumers.begin(), group.consumers.end(),
                                       [](const Consumer& c) { return c.format != nullptr; });
    if (!quantized) return {};
    Needs needs{.hessian = !group.parent, .mean_abs = true};
    for (const Consumer& c : group.consumers) {
      if (c.format) needs = needs | c.format->needs();
    }
    return needs;
  }
  int64_t sample_tokens(const InputGroup& group) const override { return group.parent ? tokens : 0; }

  Factors factors(const InputGroup& group) const override {
    const at::Tensor x = tied(group.producer, group.inputs.mean_abs);
    const at::Tensor w = duo_scaling ? tied(group.producer, mean_weight(group)) : at::Tensor();
    std::vector<at::Tensor> outputs;  // of the parent, in full precision
    if (group.parent) {
      for (const at::Tensor& sample : group.samples) outputs.push_back(group.parent(sample));
    }
    Factors best;
    double least = std::numeric_limits<double>::infinity(), unscaled = least;
    for (int64_t i = 0; i < grid; ++i) {
      const double alpha = static_cast<double>(i) / static_cast<double>(grid);
      const at::Tensor f =
          normalized(duo_scaling ? at::pow(x, alpha) / (at::pow(w, 1 - alpha) + kLeast) : at::pow(x, alpha));
      const double loss = group.parent ? loss_of_parent(group, f, outputs, least) : loss_of_linears(group, f);
      if (i == 0) unscaled = loss;
      if (!(loss < least)) continue;
      least = loss;
      best = {f, fmt::format("alpha {:g}", alpha)};
    }
    if (best.values.defined() && unscaled > 0) best.note += fmt::format(", loss x {:.3f}", least / unscaled);
    return best;
  }

 private:
  static constexpr double kLeast = 1e-4;  // of a factor

  static at::Tensor normalized(const at::Tensor& f) {
    const at::Tensor bounded = f.clamp_min(kLeast);
    return bounded / at::sqrt(bounded.max() * bounded.min());
  }

  // Mean |w| per column, each relative to the largest of its group: [I].
  static at::Tensor mean_weight(const InputGroup& group) {
    at::Tensor sum;
    int64_t rows = 0;
    for (const Consumer& c : group.consumers) {
      const at::Tensor w = c.slot->linear().weight().to(at::kFloat).abs();
      const int64_t groups = c.format ? c.format->groups(w.size(1)) : 1;
      const at::Tensor parts = w.reshape({w.size(0), groups, -1});
      const at::Tensor relative = (parts / (parts.amax(-1, /*keepdim=*/true) + 1e-6)).reshape(w.sizes()).sum(0);
      sum = sum.defined() ? sum + relative : relative;
      rows += w.size(0);
    }
    return sum / static_cast<double>(rows);
  }

  // What the weight becomes when it is scaled, rounded and scaled back: Q(w ∘ f) / f.
  static at::Tensor rounded(const at::Tensor& w, const WeightFormat& format, const Statistics& x, const at::Tensor& f) {
    const Encoded encoded = round_to_nearest(w * f, format, x.divided(f));
    return format.decode(encoded.codes, encoded.parameters) / f;
  }

  // Σ over tokens of ‖y − ŷ‖², the parent's outputs; at least `enough` if it is not below that.
  static double loss_of_parent(const InputGroup& group, const at::Tensor& f, const std::vector<at::Tensor>& outputs,
                               double enough) {
    Swapped candidates;
    for (const Consumer& c : group.consumers) {
      if (!c.format) continue;
      const core::Linear& linear = c.slot->linear();
      const at::Tensor w = linear.weight();
      const at::Tensor candidate = rounded(w.to(at::kFloat), *c.format, group.inputs, f).to(w.scalar_type());
      candidates.put(*c.slot, std::make_shared<core::DenseLinear>(candidate, linear.bias(), /*stored_bits=*/0));
    }
    double loss = 0;
    for (size_t i = 0; i < outputs.size() && loss < enough; ++i) {
      const at::Tensor error = group.parent(group.samples[i]).to(at::kFloat) - outputs[i].to(at::kFloat);
      loss += at::sum(at::square(error)).item<double>();
    }
    return loss;
  }

  // Σ tr(ΔHΔᵀ): the same per token, of the linears' own outputs.
  static double loss_of_linears(const InputGroup& group, const at::Tensor& f) {
    double loss = 0;
    for (const Consumer& c : group.consumers) {
      if (!c.format) continue;
      const at::Tensor w = c.slot->linear().weight().to(at::kFloat);
      const at::Tensor error = rounded(w, *c.format, group.inputs, f) - w;
      loss += at::sum(at::mm(error, group.inputs.hessian) * error).item<double>();
    }
    return loss;
  }
};

}  // namespace

core::Polymorphic<Transform> make_awq_transform() { return AwqTransform{}; }

}  // namespace quant
