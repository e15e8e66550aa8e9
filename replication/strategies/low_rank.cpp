// A low-rank branch beside the codes (S5): ŵ = D(codes) + B A with A [r, I] and B [O, r]. Not replication but the
// control that replication must beat: the same bits, no second use of the codes. Init as in LQER (Zhang, Cheng,
// Constantinides and Zhao 2024, arXiv 2402.02446) by the singular vectors of the residual, here weighted by the whole
// Hessian: with H = L Lᵀ the best rank-r B A for tr(ΔHΔᵀ) is the truncated SVD of (W − D) L, times L⁻¹.
#include <ATen/ATen.h>

#include "core/error.h"
#include "quant/columns/hessian_factor.h"
#include "quant/grids/draws.h"
#include "quant/grids/make_format.h"
#include "quant/grids/scale_format.h"
#include "replication/strategy.h"

namespace replication {

namespace {

class LowRankFormat : public quant::ElementFormat {
 public:
  LowRankFormat(std::shared_ptr<const quant::ElementFormat> base, int64_t rank, core::Node description)
      : ElementFormat(base->config(), base->place()),
        base_(std::move(base)),
        rank_(rank),
        description_(std::move(description)) {}

  std::string name() const override { return "low_rank"; }
  int64_t groups(int64_t in_features) const override { return base_->groups(in_features); }
  quant::Needs needs() const override { return base_->needs(); }
  core::Node replication() const override { return description_; }
  int64_t macs(int64_t O, int64_t I) const override { return base_->macs(O, I) + rank_ * (O + I); }

  quant::Parameters fit(const at::Tensor&, const quant::Statistics&) const override {
    TORCH_CHECK(false, "low_rank refines; methods encode for its grid");
  }
  quant::Encoded encode(const at::Tensor&, quant::Parameters) const override {
    TORCH_CHECK(false, "low_rank refines; methods encode for its grid");
  }
  at::Tensor decode(const at::Tensor& codes, const quant::Parameters& p) const override {
    return base_->decode(codes, p) + at::mm(p.at("low_rank_b"), p.at("low_rank_a"));
  }
  quant::Parameters layout(int64_t O, int64_t I) const override {
    quant::Parameters all = base_->layout(O, I);
    const quant::ScaleFormat scale_format(config(), /*is_signed=*/true);
    all.push_back({"low_rank_a", {}, core::Kind::low_rank, scale_format.bits(), {rank_, I}, scale_format.dtype()});
    all.push_back({"low_rank_b", {}, core::Kind::low_rank, scale_format.bits(), {O, rank_}, scale_format.dtype()});
    return all;
  }
  quant::ElementGrid element_grid(const quant::Parameters& p, int64_t O, int64_t I) const override {
    return base_->element_grid(p, O, I);  // of the codes; noise is in steps of their scale
  }
  std::optional<quant::PackedForm> packed_form(const quant::Parameters& p, int64_t O, int64_t I) const override {
    std::optional<quant::PackedForm> form = base_->packed_form(p, O, I);
    if (form) form->a = p.at("low_rank_a"), form->b = p.at("low_rank_b");
    return form;
  }

 private:
  std::shared_ptr<const quant::ElementFormat> base_;
  int64_t rank_;
  core::Node description_;
};

struct RankFactors {
  at::Tensor a, b;  // [r, I], [O, r]
  std::string note = {};
};

struct Root {
  at::Tensor l;              // [I, I], lower triangular
  std::string missing = {};  // why it is the identity; empty: it is not
};

// H + damping = L Lᵀ.
Root square_root(const quant::Statistics& x, const at::Tensor& like) {
  constexpr double kDamp = 0.01;  // of the mean of diag H, as in gptq
  const int64_t I = like.size(1);
  if (std::string reason = quant::unusable(x); !reason.empty()) return {at::eye(I, like.options()), std::move(reason)};
  const at::Tensor h = x.hessian.to(like.options());
  const at::Tensor added = at::eye(I, like.options()) * (h.diagonal().mean() * kDamp + 1e-20);
  const auto [l, info] = at::linalg_cholesky_ex(h + added);
  if (info.item<int>() != 0) return {at::eye(I, like.options()), "the Hessian is singular"};
  return {l};
}

// The truncated SVD of residual [O, I] under the Hessian, its singular values shared evenly by both factors.
RankFactors by_svd(const at::Tensor& residual, const quant::Statistics& x, int64_t rank) {
  const Root root_of_h = square_root(x, residual);
  const auto [u, s, vt] = at::linalg_svd(at::mm(residual, root_of_h.l), /*full_matrices=*/false);
  const at::Tensor root = s.slice(0, 0, rank).sqrt();
  const at::Tensor b = u.slice(1, 0, rank) * root;                    // [O, r]
  const at::Tensor right = root.unsqueeze(1) * vt.slice(0, 0, rank);  // [r, I], of A L
  const std::string& missing = root_of_h.missing;
  return {at::linalg_solve_triangular(root_of_h.l, right, /*upper=*/false, /*left=*/false), b,
          missing.empty() ? "" : "low_rank without the Hessian: " + missing};
}

// B = 0, so that nothing changes before training; A = N(0, 1/I).
RankFactors by_zero(const at::Tensor& residual, int64_t rank, const quant::Place& place) {
  const int64_t I = residual.size(1);
  const at::Tensor a = quant::normal_draw(place, "low_rank", 0, rank, I) / std::sqrt(static_cast<double>(I));
  return {a.to(residual.device()), at::zeros({residual.size(0), rank}, residual.options())};
}

struct LowRank : LinearStrategy {
  int64_t rank = 4;
  std::string init = "svd";

  std::string summary() const override { return "a low-rank branch B A beside the codes: the control of all others"; }
  void keys(core::Keys& k) override {
    k.key("rank", rank, "columns of B and rows of A", {1, 4096});
    k.key("init", init, "svd: of what the codes leave of the weight, weighted by the Hessian; zero: B = 0",
          {"svd", "zero"});
  }
  quant::Needs needs() const override { return {.hessian = init == "svd"}; }

  std::shared_ptr<const quant::WeightFormat> initial_format(const quant::WeightConfig& weight,
                                                            const quant::Place& place,
                                                            const Shape& shape) const override {
    return quant::make_format(weight, place.path, shape.in_features, place.seed);
  }
  std::shared_ptr<const quant::WeightFormat> format(const quant::WeightConfig& weight, const quant::Place& place,
                                                    const Shape& shape) const override {
    core::require(rank <= std::min(shape.out_features, shape.in_features),
                  "{}: low_rank: rank {} exceeds a weight of {} × {}. Lower replication.low_rank.rank.", place.path,
                  rank, shape.out_features, shape.in_features);
    return std::make_shared<LowRankFormat>(quant::make_format(weight, place.path, shape.in_features, place.seed), rank,
                                           description("low_rank", *this));
  }

  quant::Refined refine(const at::Tensor& w, quant::Encoded encoded, const quant::Statistics& x,
                        const quant::WeightFormat& initial_format, const quant::WeightFormat& format) const override {
    const at::Tensor residual = w - initial_format.decode(encoded.codes, encoded.parameters);
    const RankFactors found = init == "svd" ? by_svd(residual, x, rank) : by_zero(residual, rank, format.place());
    const quant::ScaleFormat scale_format(format.config(), /*is_signed=*/true);
    quant::Parameters all = format.layout(w.size(0), w.size(1));
    for (quant::Parameter& p : encoded.parameters) all.at(p.name) = p.tensor;
    all.at("low_rank_a") = scale_format.rounded(found.a);
    all.at("low_rank_b") = scale_format.rounded(found.b);
    return {{std::move(encoded.codes), std::move(all)}, found.note};
  }
};

}  // namespace

core::Polymorphic<Strategy> make_low_rank() { return LowRank{}; }

}  // namespace replication
