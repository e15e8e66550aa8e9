// AWQ (Lin et al. 2023, arXiv 2306.00978) as its code runs it: the scales (quant/transforms/awq.cpp), then the clipping
// of every group's range that changes the output least, then rounding to nearest. Queries and keys are not clipped.
//
// The error of a group's part of the output, which the code measures on 512 tokens, is ΔHΔᵀ with the group's own block
// of H: all tokens, none run again.
#include <ATen/ATen.h>

#include <cmath>

#include "quant/columns/hessian_factor.h"
#include "quant/grids/range_search.h"
#include "quant/method.h"
#include "quant/transform.h"

namespace quant {

namespace {

struct Awq : Method {
  core::Polymorphic<Transform> scales = make_transforms().at("awq");
  bool clip = true;
  int64_t clip_grid = 20;
  double max_shrink = 0.5;

  std::string summary() const override {
    return "columns scaled by what a search on the parent's output finds, ranges clipped likewise, then rounded";
  }
  void keys(core::Keys& k) override {
    scales->keys(k);
    k.key("clip", clip, "search for the clipping of ranges too");
    k.key("clip_grid", clip_grid, "fractions p = 1 - i/clip_grid of a group's range that are tried", {1, 1000});
    k.key("max_shrink", max_shrink, "for i < clip_grid * max_shrink", {0, 1, /*low_open=*/true});
  }
  std::shared_ptr<const Transform> transform() const override { return scales.share(); }
  Needs needs() const override { return {.hessian = clip}; }

  std::vector<Quantized> quantize(core::BlockContext&, const std::vector<Target>& targets) const override {
    std::vector<Quantized> all;
    for (const Target& target : targets) {
      const at::Tensor w = target.slot->linear().weight().to(at::kFloat);  // [O, I]
      all.push_back(named(target.slot->path(), [&]() -> Quantized {
        if (!clips(target)) return {round_to_nearest(w, *target.format, target.inputs)};
        const std::string reason = unusable(target.inputs);
        if (!reason.empty()) return {round_to_nearest(w, *target.format, target.inputs), reason};
        const at::Tensor clipped = best_clipped(w, *target.format, target.inputs);
        const Parameters parameters = target.format->fit(clipped, target.inputs);
        return {target.format->encode(clipped, parameters)};
      }));
    }
    return all;
  }

 private:
  bool clips(const Target& target) const {
    const core::Role role = target.slot->role();
    return clip && role != core::Role::q_proj && role != core::Role::k_proj;
  }

  // The range [lo, hi] · p, or [−α, α] · p with α = max |w|: the two sides apart where few levels make that worth it.
  static Range sides(const at::Tensor& groups, const WeightConfig& config) {
    const Range range = Range::of(groups);
    const bool apart = config.symmetry == "asymmetric" && config.codebook == "uniform" && config.bits <= 3;
    return apart ? range : Range{-range.largest(), range.largest()};
  }

  // w: [O, I], each group within the fraction of its range that is best.
  at::Tensor best_clipped(const at::Tensor& w, const WeightFormat& format, const Statistics& x) const {
    const int64_t O = w.size(0), I = w.size(1), G = format.groups(I), S = I / G;
    const at::Tensor groups = w.reshape({O, G, S});
    const Range range = sides(groups, format.config());
    // The blocks of H on its diagonal: [G, S, S].
    const at::Tensor blocks = x.hessian.reshape({G, S, G, S}).diagonal(0, 0, 2).permute({2, 0, 1}).contiguous();
    const auto clipped = [&](const at::Tensor& p) {
      const Range part = range.scaled(p);
      return at::clamp(groups, part.lo.unsqueeze(-1), part.hi.unsqueeze(-1)).reshape({O, I});
    };
    const auto loss = [&](const at::Tensor& candidate) {  // [O, G]
      const Encoded encoded = round_to_nearest(candidate, format, x);
      const at::Tensor error =
          (format.decode(encoded.codes, encoded.parameters) - w).reshape({O, G, S}).transpose(0, 1);
      const at::Tensor found = (at::bmm(error, blocks) * error).sum(-1).t();
      return format.config().group_size == 0 ? found.sum(0, /*keepdim=*/true).expand({O, G}) : found;
    };
    at::Tensor best = at::ones({O, G}, w.options()), least = loss(clipped(best));
    const auto candidates = static_cast<int64_t>(std::ceil(static_cast<double>(clip_grid) * max_shrink - 1e-9));
    for (int64_t i = 1; i < candidates; ++i) {
      const double p = 1 - static_cast<double>(i) / static_cast<double>(clip_grid);
      const at::Tensor found = loss(clipped(at::full({O, G}, p, w.options())));
      const at::Tensor better = found < least;
      best = at::where(better, at::full({}, p, w.options()), best);
      least = at::where(better, found, least);
    }
    return clipped(best);
  }
};

}  // namespace

core::Polymorphic<Method> make_awq() { return Awq{}; }

}  // namespace quant
