// Row × column scales (S3): every weight has a scale of its own, the sum of R products of a row's and a column's,
//   ŵ = s_g ∘ c(Q) ∘ Σ_r a_r b_rᵀ,  c(k) = k − (2^b − 1) / 2,
// with s = 1 unless group_scale asks for one per group. As a product, Σ_r diag(a_r) c(Q) diag(b_r) x: the codes are
// used R times, on inputs and outputs that are scaled differently. Related: LoRDS (arXiv 2601.22716).
//
// Fit: codes to the nearest and ridge least squares for a given b, then for b given a, in turn; the best of all rounds
// stays. After the method has chosen the codes one more round of least squares, weighted by diag H.
#include <ATen/ATen.h>

#include "core/error.h"
#include "quant/grids/draws.h"
#include "quant/grids/make_format.h"
#include "quant/grids/scale_format.h"
#include "replication/strategy.h"

namespace replication {

namespace {

using quant::Parameters;

// a: [O, R], b: [I, R].
struct ScaleFactors {
  at::Tensor a, b;
  at::Tensor product() const { return at::mm(a, b.t()); }  // [O, I]
};

// For every row of `levels` the coefficients of a weighted ridge regression on R columns that all rows share:
// min_a Σ_j h_j (w_oj − c_oj Σ_r a_or b_jr)² + λ Σ_r a_or², λ = 1e-6 Σ_j h_j c_oj². w, c: [O, I]; b: [I, R]; h: [I] or
// [O, I] -> [O, R].
at::Tensor ridge(const at::Tensor& w, const at::Tensor& c, const at::Tensor& b, const at::Tensor& h) {
  const int64_t R = b.size(1);
  const at::Tensor energy = h * c * c;                                                     // [O, I]
  const at::Tensor pairs = (b.unsqueeze(2) * b.unsqueeze(1)).reshape({b.size(0), R * R});  // [I, R²]
  const at::Tensor normal = at::mm(energy, pairs).reshape({-1, R, R});                     // [O, R, R]
  const at::Tensor right = at::mm(h * w * c, b).unsqueeze(-1);                             // [O, R, 1]
  const at::Tensor damping = (energy.sum(1) * 1e-6 + 1e-30).reshape({-1, 1, 1}) * at::eye(R, b.options());
  return at::linalg_solve(normal + damping, right).squeeze(-1);
}

// The R leading singular vectors of a matrix of magnitudes [O, I], by subspace iteration from drawn numbers.
ScaleFactors leading(const at::Tensor& magnitude, int64_t R, const quant::Place& place) {
  constexpr int kRounds = 4, kMore = 4;
  const int64_t k = std::min({R + kMore, magnitude.size(0), magnitude.size(1)});
  const at::Tensor start = quant::normal_draw(place, "row_column", 0, magnitude.size(1), k).to(magnitude.device());
  at::Tensor basis = std::get<0>(at::linalg_qr(at::mm(magnitude, start)));  // [O, k]
  for (int i = 0; i < kRounds; ++i) {
    const at::Tensor columns = std::get<0>(at::linalg_qr(at::mm(magnitude.t(), basis)));
    basis = std::get<0>(at::linalg_qr(at::mm(magnitude, columns)));
  }
  const auto [u, s, vt] = at::linalg_svd(at::mm(basis.t(), magnitude), /*full_matrices=*/false);
  return {at::mm(basis, u.slice(1, 0, R)) * s.slice(0, 0, R), vt.slice(0, 0, R).t().contiguous()};
}

class RowColumnFormat : public quant::ElementFormat {
 public:
  RowColumnFormat(const quant::WeightConfig& weight, quant::Place place, int64_t replicas, int64_t iterations,
                  bool group_scale, core::Node description)
      : ElementFormat(weight, std::move(place)),
        replicas_(replicas),
        iterations_(iterations),
        group_scale_(group_scale),
        description_(std::move(description)),
        scale_format_(weight, /*is_signed=*/true) {}

  std::string name() const override { return "row_column"; }
  int64_t groups(int64_t in_features) const override {
    return group_scale_ && config().group_size > 0 ? in_features / config().group_size : 1;
  }
  core::Node replication() const override { return description_; }
  int64_t macs(int64_t O, int64_t I) const override { return replicas_ * (O * I + O + I); }

  Parameters layout(int64_t O, int64_t I) const override {
    Parameters all;
    all.push_back(
        {"row_scale", {}, core::Kind::row_scale, scale_format_.bits(), {O, replicas_}, scale_format_.dtype()});
    all.push_back(
        {"column_scale", {}, core::Kind::column_scale, scale_format_.bits(), {I, replicas_}, scale_format_.dtype()});
    if (group_scale_) {
      for (quant::Parameter& p : scale_format_.layout({O, groups(I)})) all.push_back(std::move(p));
    }
    return all;
  }

  Parameters fit(const at::Tensor& w, const quant::Statistics&) const override {
    const int64_t O = w.size(0), I = w.size(1);
    Parameters best = layout(O, I);
    set_group_scales(best, w);
    const at::Tensor target = w / group_scales(best, O, I), even = at::ones({I}, w.options());
    ScaleFactors factors = initial(target);
    double least = std::numeric_limits<double>::infinity();
    for (int64_t i = 0;; ++i) {
      Parameters trial = best;
      set(trial, factors);
      const quant::Encoded encoded = encode(w, std::move(trial));
      const double loss = at::sum(at::square(w - decode(encoded.codes, encoded.parameters))).item<double>();
      if (loss < least) {
        least = loss;
        best = encoded.parameters;
      }
      if (i == iterations_) return best;
      factors = refitted(w, scaled_levels(encoded.codes, best), factors, even);
    }
  }

  quant::Encoded encode(const at::Tensor& w, Parameters parameters) const override {
    const at::Tensor codes = element_grid(parameters, w.size(0), w.size(1)).encode(w);
    return {codes, std::move(parameters)};
  }
  at::Tensor decode(const at::Tensor& codes, const Parameters& p) const override {
    return scaled_levels(codes, p) * at::mm(p.at("row_scale"), p.at("column_scale").t());
  }

  std::optional<quant::PackedForm> packed_form(const Parameters& p, int64_t O, int64_t I) const override {
    const at::Tensor& rows = p.at("row_scale");
    const at::Tensor scale = group_scale_ ? scale_format_.scale(p).contiguous() : at::ones({O, 1}, rows.options());
    return quant::PackedForm{{.scale = scale,
                              .shift = at::full_like(scale, middle()),
                              .group_size = I / scale.size(1),
                              .top = top(),
                              .table = {},
                              .dither = {}},
                             rows,
                             p.at("column_scale")};
  }

  // Every weight is a group of its own. A scale that is nearly 0 codes nothing: it is kept away from 0 here.
  quant::ElementGrid element_grid(const Parameters& p, int64_t O, int64_t I) const override {
    at::Tensor scale = at::mm(p.at("row_scale"), p.at("column_scale").t()) * group_scales(p, O, I);
    const at::Tensor least = (at::square(scale).mean(1, /*keepdim=*/true).sqrt() * 1e-6).clamp_min(1e-30);
    scale = at::where(scale.abs() < least, at::where(scale < 0, -least, least), scale);
    return {.scale = scale.contiguous(),
            .shift = at::full({O, I}, middle(), scale.options()),
            .group_size = 1,
            .top = top(),
            .table = {},
            .dither = {}};
  }

  // The factors that are best for these codes. h: [I], what an error of a column counts.
  Parameters refit(const at::Tensor& w, const at::Tensor& codes, Parameters parameters, const at::Tensor& h) const {
    set(parameters,
        refitted(w, scaled_levels(codes, parameters), {parameters.at("row_scale"), parameters.at("column_scale")}, h));
    return parameters;
  }

  // ScaleFactors of the first product stay.
  Parameters jittered(Parameters parameters, double jitter) const {
    if (jitter == 0 || replicas_ == 1) return parameters;
    for (const char* name : {"row_scale", "column_scale"}) {
      at::Tensor& factors = parameters.at(name);  // [O, R] or [I, R]
      const at::Tensor draw =
          quant::normal_draw(place(), std::string("jitter of ") + name, 0, factors.size(0), replicas_ - 1);
      at::Tensor factor = at::ones_like(factors);
      factor.slice(1, 1).add_(draw.to(factors.device()), jitter);
      factors = scale_format_.rounded(factors * factor);
    }
    return parameters;
  }

 private:
  int64_t top() const { return (int64_t{1} << config().bits) - 1; }
  double middle() const { return static_cast<double>(top()) / 2; }

  // s_g ∘ c(Q).
  at::Tensor scaled_levels(const at::Tensor& codes, const Parameters& p) const {
    return (codes.to(at::kFloat) - middle()) * group_scales(p, codes.size(0), codes.size(1));
  }
  // [O, I], or the number 1.
  at::Tensor group_scales(const Parameters& p, int64_t O, int64_t I) const {
    if (!group_scale_) return at::ones({1, 1}, p.at("row_scale").options());
    const at::Tensor scale = scale_format_.scale(p);  // [O, G]
    return scale.unsqueeze(-1).expand({O, groups(I), I / groups(I)}).reshape({O, I});
  }

  void set(Parameters& parameters, const ScaleFactors& factors) const {
    parameters.at("row_scale") = scale_format_.rounded(factors.a);
    parameters.at("column_scale") = scale_format_.rounded(factors.b);
  }
  // Root mean square of every group.
  void set_group_scales(Parameters& parameters, const at::Tensor& w) const {
    set(parameters, {at::ones({w.size(0), replicas_}, w.options()), at::ones({w.size(1), replicas_}, w.options())});
    if (!group_scale_) return;
    const at::Tensor rms = at::square(w.reshape({w.size(0), groups(w.size(1)), -1})).mean(-1).sqrt();
    for (const quant::Parameter& p : scale_format_.stored(rms.clamp_min(1e-20))) parameters.at(p.name) = p.tensor;
  }

  // In steps that suit a normal distribution (Max 1960), for what is left when group scales are taken out.
  ScaleFactors initial(const at::Tensor& w) const {
    const double step = kSteps[config().bits];
    if (replicas_ > 1) {
      constexpr double kRmsByMean = 1.2533;  // sqrt(π / 2), of a normal distribution
      ScaleFactors found = leading(w.abs() * kRmsByMean, replicas_, place());
      return {found.a * step, found.b};
    }
    const at::Tensor squares = at::square(w);
    const at::Tensor all = squares.mean().sqrt().clamp_min(1e-30);
    return {squares.mean(1).sqrt().unsqueeze(1) * step, (squares.mean(0).sqrt() / all).unsqueeze(1)};
  }

  static ScaleFactors refitted(const at::Tensor& w, const at::Tensor& c, const ScaleFactors& from,
                               const at::Tensor& h) {
    const at::Tensor a = ridge(w, c, from.b, h);
    const at::Tensor b = ridge(w.t(), c.t(), a, at::ones({w.size(0)}, w.options()));  // h is one number per row of wᵀ
    return balanced({a, b});
  }
  // The same products with columns of b of mean square 1, so that both fit the dtype in which they are stored.
  static ScaleFactors balanced(const ScaleFactors& factors) {
    const at::Tensor size = at::square(factors.b).mean(0).sqrt().clamp_min(1e-30);
    return {factors.a * size, factors.b / size};
  }

  // Best uniform steps for a normal distribution of variance 1, by bits.
  static constexpr double kSteps[] = {0, 1.596, 0.996, 0.586, 0.335, 0.188, 0.1041, 0.0568, 0.0308};

  int64_t replicas_, iterations_;
  bool group_scale_;
  core::Node description_;
  quant::ScaleFormat scale_format_;
};

struct RowColumn : LinearStrategy {
  int64_t replicas = 1, iterations = 15;
  bool group_scale = false;
  double jitter = 0.0;

  std::string summary() const override { return "scales that are a sum of products of a row's and a column's"; }
  void keys(core::Keys& k) override {
    k.key("replicas", replicas, "products in the sum", {1, 64});
    k.key("iterations", iterations, "rounds of rounding and least squares", {0, 1000});
    k.key("group_scale", group_scale, "one more scale per group of quant.weight.group_size, times the sum");
    k.key(
         "jitter", jitter,
         "standard deviation of a random factor 1 + jitter * N(0,1) on the scales of all products but the first, where "
         "training begins",
         {0, 0.5})
        .only_if_given();
  }
  quant::Needs needs() const override { return {.mean_square = true}; }
  std::vector<std::string> unread() const override {
    return {"symmetry", "zero_point", "offset", "range", "clip", "rounding", "codebook"};
  }

  std::shared_ptr<const quant::WeightFormat> initial_format(const quant::WeightConfig& weight,
                                                            const quant::Place& place,
                                                            const Shape& shape) const override {
    return format(weight, place, shape);
  }
  std::shared_ptr<const quant::WeightFormat> format(const quant::WeightConfig& weight, const quant::Place& place,
                                                    const Shape& shape) const override {
    core::require(group_scale || weight.group_size == -1,
                  "{}: row_column has no scale per group. Set quant.weight.group_size: -1, or row_column.group_scale: "
                  "true.",
                  place.path);
    core::require(group_scale || weight.scale_bits == 0,
                  "{}: row_column's factors are stored in scale_dtype, and there are no group scales to be two-level. "
                  "Remove {}.",
                  place.path, weight.where("scale_bits"));
    core::require(weight.group_size != 0, "{}: row_column has no scale for the whole matrix. Set group_size: -1.",
                  place.path);
    core::require(replicas <= std::min(shape.out_features, shape.in_features),
                  "{}: row_column: {} replicas exceed a weight of {} × {}. Lower replication.row_column.replicas.",
                  place.path, replicas, shape.out_features, shape.in_features);
    quant::make_format(weight, place.path, shape.in_features, place.seed);  // checks the group size
    return std::make_shared<RowColumnFormat>(weight, place, replicas, iterations, group_scale,
                                             description("row_column", *this));
  }

  quant::Refined refine(const at::Tensor& w, quant::Encoded encoded, const quant::Statistics& x,
                        const quant::WeightFormat&, const quant::WeightFormat& format) const override {
    const auto& own = dynamic_cast<const RowColumnFormat&>(format);
    const bool known =
        x.tokens > 0 && at::isfinite(x.mean_square).all().item<bool>() && x.mean_square.any().item<bool>();
    const at::Tensor h = known ? x.mean_square.to(w.options()) : at::ones({w.size(1)}, w.options());
    Parameters found = own.jittered(own.refit(w, encoded.codes, std::move(encoded.parameters), h), jitter);
    return {{std::move(encoded.codes), std::move(found)}, known ? "" : "row_column without the inputs' mean square"};
  }
};

}  // namespace

core::Polymorphic<Strategy> make_row_column() { return RowColumn{}; }

}  // namespace replication
