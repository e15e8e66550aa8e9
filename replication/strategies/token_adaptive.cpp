// Token-adaptive scales (S4): E pairs of scale vectors on one set of codes, mixed by a gate that looks at the token,
//   g = softmax(W_r x),  y = (Σ_e g_e a_e) ∘ Q (( Σ_e g_e b_e) ∘ x),
// with Q the weight that the codes and their grid give. One product, and the only replicas of scales that are no single
// grid. BinaryMoS (Jo et al. 2024, arXiv 2406.12311) does this with 1-bit codes. Before training a_e, b_e are 1 and W_r
// is 0, up to a little noise that lets the experts part: the linear computes about what the plain grid does.
//
// Quantized inputs are what the gate sees, and what b_e scales.
#include <ATen/ATen.h>

#include "quant/grids/draws.h"
#include "quant/grids/make_format.h"
#include "quant/grids/scale_format.h"
#include "replication/strategy.h"

namespace replication {

namespace {

// Σ_e g_e v_e for each token: exactly 1 where all v are 1, whatever the sum of g was rounded to. g: [..., E]; v: [n,
// E].
at::Tensor mixed(const at::Tensor& g, const at::Tensor& v) { return at::linear(g, v - 1) + 1; }  // [..., n]

class TokenAdaptiveFormat : public quant::ElementFormat {
 public:
  TokenAdaptiveFormat(std::shared_ptr<const quant::ElementFormat> base, int64_t experts, core::Node description)
      : ElementFormat(base->config(), base->place()),
        base_(std::move(base)),
        experts_(experts),
        description_(std::move(description)) {}

  std::string name() const override { return "token_adaptive"; }
  int64_t groups(int64_t in_features) const override { return base_->groups(in_features); }
  quant::Needs needs() const override { return base_->needs(); }
  core::Node replication() const override { return description_; }
  int64_t macs(int64_t O, int64_t I) const override { return base_->macs(O, I) + experts_ * (O + 2 * I); }

  quant::Parameters fit(const at::Tensor&, const quant::Statistics&) const override {
    TORCH_CHECK(false, "token_adaptive refines; methods encode for its grid");
  }
  quant::Encoded encode(const at::Tensor&, quant::Parameters) const override {
    TORCH_CHECK(false, "token_adaptive refines; methods encode for its grid");
  }
  // Q alone.
  at::Tensor decode(const at::Tensor& codes, const quant::Parameters& p) const override {
    return base_->decode(codes, p);
  }
  bool is_weight() const override { return false; }
  at::Tensor product(const at::Tensor& x, const quant::Multiply& multiply, const at::Tensor& bias,
                     const quant::Parameters& p) const override {
    const at::Tensor wide = x.to(at::kFloat);
    const at::Tensor gate = at::softmax(at::linear(wide, p.at("token_gate")), -1);             // [..., E]
    const at::Tensor scaled = (wide * mixed(gate, p.at("column_scale"))).to(x.scalar_type());  // [..., I]
    const at::Tensor y = multiply(scaled).to(at::kFloat) * mixed(gate, p.at("row_scale"));     // [..., O]
    return (bias.defined() ? y + bias : y).to(x.scalar_type());
  }
  quant::Parameters layout(int64_t O, int64_t I) const override {
    quant::Parameters all = base_->layout(O, I);
    const quant::ScaleFormat scale_format(config(), /*is_signed=*/true);
    const auto add = [&](const char* name, core::Kind kind, const std::vector<int64_t>& shape) {
      all.push_back({name, {}, kind, scale_format.bits(), shape, scale_format.dtype()});
    };
    add("token_gate", core::Kind::token_gate, {experts_, I});
    add("row_scale", core::Kind::row_scale, {O, experts_});
    add("column_scale", core::Kind::column_scale, {I, experts_});
    return all;
  }
  quant::ElementGrid element_grid(const quant::Parameters& p, int64_t O, int64_t I) const override {
    return base_->element_grid(p, O, I);  // of the codes; noise is in steps of their scale
  }
  std::optional<quant::PackedForm> packed_form(const quant::Parameters& p, int64_t O, int64_t I) const override {
    return base_->packed_form(p, O, I);  // Q
  }

 private:
  std::shared_ptr<const quant::ElementFormat> base_;
  int64_t experts_;
  core::Node description_;
};

struct TokenAdaptive : LinearStrategy {
  int64_t experts = 4;
  double spread = 0.02, gate_spread = 0.01;

  std::string summary() const override { return "row and column scales that a gate mixes for every token"; }
  void keys(core::Keys& k) override {
    k.key("experts", experts, "pairs of a row's and a column's scales, and outputs of the gate", {2, 64});
    k.key("spread", spread, "standard deviation of the scales around 1 before training; 0: the experts are equal",
          {0, 1});
    k.key("gate_spread", gate_spread, "standard deviation of the gate's weights around 0 before training", {0, 1});
  }

  std::shared_ptr<const quant::WeightFormat> initial_format(const quant::WeightConfig& weight,
                                                            const quant::Place& place,
                                                            const Shape& shape) const override {
    return quant::make_format(weight, place.path, shape.in_features, place.seed);
  }
  std::shared_ptr<const quant::WeightFormat> format(const quant::WeightConfig& weight, const quant::Place& place,
                                                    const Shape& shape) const override {
    return std::make_shared<TokenAdaptiveFormat>(quant::make_format(weight, place.path, shape.in_features, place.seed),
                                                 experts, description("token_adaptive", *this));
  }

  quant::Refined refine(const at::Tensor& w, quant::Encoded encoded, const quant::Statistics&,
                        const quant::WeightFormat&, const quant::WeightFormat& format) const override {
    const int64_t O = w.size(0), I = w.size(1);
    const quant::ScaleFormat scale_format(format.config(), /*is_signed=*/true);
    const auto drawn = [&](uint64_t step, int64_t rows, int64_t columns, double mean, double deviation) {
      const at::Tensor noise = quant::normal_draw(format.place(), "token_adaptive", step, rows, columns);
      return scale_format.rounded(noise * deviation + mean).to(w.device());
    };
    quant::Parameters all = format.layout(O, I);
    for (quant::Parameter& p : encoded.parameters) all.at(p.name) = p.tensor;
    all.at("row_scale") = drawn(0, O, experts, 1, spread);
    all.at("column_scale") = drawn(1, I, experts, 1, spread);
    all.at("token_gate") = drawn(2, experts, I, 0, gate_spread);
    return {{std::move(encoded.codes), std::move(all)}, "errors are of the codes, without the experts"};
  }
};

}  // namespace

core::Polymorphic<Strategy> make_token_adaptive() { return TokenAdaptive{}; }

}  // namespace replication
