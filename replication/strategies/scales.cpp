// R affine dequantizers on the codes of one linear, averaged: ŵ = mean_r s_r (k − z_r), each on its own groups. The
// codes are those that the method chose for the plain grid; replica 0 keeps the parameters that came with them, replica
// r = 1 … R−1 is fitted by least squares (weighted by diag H) to R W − Σ_{q≠r} D_q, in order, one sweep; a replica that
// is not fitted yet counts as a copy of replica 0. The options of a replica are applied to what was fitted.
//
// Affine replicas of the same codes *are* one affine grid on the common refinement of their groups, scale mean s_r and
// zero mean(s_r z_r) / mean s_r. They are fused into it (collapse) unless they differ in noise: then the format is an
// ordinary grid of one product, and what remains of the replicas is the freedom of finer groups.
//
// Replicas that differ in how their inputs are quantized keep one weight: W mean_r g_r(x) is one product too, with
// inputs that are averaged (quant/grids/activation.h). With own_codes every replica codes the weight itself, in its own
// range and rounding: R sets of codes, billed as such, which are no replicas of one another and none are fused.
#include <ATen/ATen.h>

#include "core/error.h"
#include "quant/grids/draws.h"
#include "quant/grids/make_format.h"
#include "quant/linear/quantized_linear.h"
#include "replication/affine_fit.h"
#include "replication/affine_replicas.h"
#include "replication/strategy.h"

namespace replication {

namespace {

using quant::Parameters;
using quant::WeightConfig;

struct Scales : LinearStrategy {
  std::vector<Replica> replicas = std::vector<Replica>(2);
  bool collapse = true, own_codes = false;

  std::string summary() const override { return "affine dequantizers on one set of codes, averaged inside the linear"; }
  void keys(core::Keys& k) override {
    k.list("replicas", replicas, "one map per replica; {}: as the plain grid");
    k.key("collapse", collapse, "replace the replicas by the one affine grid that they are, where they are one");
    k.key("own_codes", own_codes,
          "every replica codes the weight itself, and as many code bits are stored; methods rtn and ldlq");
  }
  void check() const override {
    core::require(!replicas.empty(), "{}: the list is empty. Give one map per replica, e.g. [{{}}, {{offset: 0.5}}].",
                  where("replicas"));
    core::require(!replicas.front().given("group_size"),
                  "{}: replica 0 has the groups for which the codes are chosen. Set quant.weight.group_size.",
                  replicas.front().where("group_size"));
    for (const Replica& replica : replicas) {
      for (const char* key : {"rounding", "clip"}) {
        core::require(own_codes || !replica.given(key),
                      "{} needs other codes than replica 0 has. Remove it, or set own_codes: true, which stores {} "
                      "times the code bits.",
                      replica.where(key), replicas.size());
      }
      core::require(
          replica.fit || !replica.given("group_size"),
          "{}: with fit: false it has the parameters, and so the groups, of replica 0. Remove one of the two.",
          replica.where("group_size"));
    }
    if (differ_in_inputs()) check_inputs();
  }
  std::vector<Rung> ladder() const override {
    constexpr double kJitter = 0.03;
    const auto rung = [&](double jitter) {
      std::vector<core::Node> list{core::make_map()};
      for (size_t r = 1; r < replicas.size(); ++r)
        list.push_back(core::make_map({{"fit", core::make_bool(false)}, {"jitter", core::make_number(jitter)}}));
      return core::make_map({{"replicas", core::make_list(std::move(list))}, {"collapse", core::make_bool(false)}});
    };
    return {{"identical", rung(0)}, {"jittered", rung(kJitter)}, {"averaged", rung(kJitter), /*averaged=*/true}};
  }
  std::string refuses_average() const override {
    if (own_codes) return "own_codes: true is given, and codes have no mean";
    if (collapses()) return "its replicas are fused to one grid already. Set scales.collapse: false";
    const bool differ = std::any_of(replicas.begin(), replicas.end(), [](const Replica& r) {
      return r.given("group_size") || r.given("offset") || r.given("noise");
    });
    return differ ? "replicas with groups, offset or noise of their own have no mean on the plain grid" : "";
  }
  void average(core::Block& block, const std::vector<core::Block*>& /*replicas*/) const override {
    for (core::Slot* slot : block.slots()) {
      const auto* linear = dynamic_cast<const quant::QuantizedLinear*>(&slot->linear());
      const auto* apart = linear == nullptr ? nullptr : dynamic_cast<const ReplicaFormat*>(&linear->format());
      if (apart == nullptr) continue;
      const auto plain = quant::make_format(apart->config(), slot->path(), slot->in_features(), apart->place().seed);
      slot->put(linear->with(plain, apart->replicas().mean(linear->parameters())));
    }
  }
  bool collapses() const override {
    if (differ_in_inputs()) return true;
    return collapse && !own_codes &&
           std::all_of(replicas.begin(), replicas.end(), [](const Replica& r) { return r.noise == 0; });
  }
  quant::Needs needs() const override { return {.mean_square = replicas.size() > 1}; }
  std::vector<quant::ActivationReplica> inputs() const override {
    std::vector<quant::ActivationReplica> all;
    if (!differ_in_inputs()) return all;
    for (const Replica& replica : replicas) all.push_back(replica.activation);
    return all;
  }

  std::shared_ptr<const quant::WeightFormat> initial_format(const WeightConfig& weight, const quant::Place& place,
                                                            const Shape& shape) const override {
    refuse(weight, place.path);
    for (const Replica& replica : replicas)
      quant::make_format(replica.config(weight), place.path, shape.in_features, place.seed);  // does it divide?
    if (own_codes || differ_in_inputs()) return nullptr;
    return quant::make_format(weight, place.path, shape.in_features, place.seed);
  }
  std::shared_ptr<const quant::WeightFormat> format(const WeightConfig& weight, const quant::Place& place,
                                                    const Shape& shape) const override {
    if (differ_in_inputs()) return quant::make_format(weight, place.path, shape.in_features, place.seed);
    if (own_codes) {
      const auto bits = weight.bits * static_cast<int64_t>(replicas.size());
      core::require(bits <= 8, "{}: {} sets of {}-bit codes are {} bits a weight, above 8. Use fewer replicas or bits.",
                    place.path, replicas.size(), weight.bits, bits);
      return std::make_shared<OwnCodesFormat>(weight, place, replicas, shape.in_features, description("scales", *this));
    }
    auto unfused =
        std::make_shared<ReplicaFormat>(weight, place, replicas, shape.in_features, description("scales", *this));
    if (!collapses()) return unfused;
    const int64_t S = unfused->replicas().refinement();
    return std::make_shared<quant::AffineGrid>(fused_config(weight, S == shape.in_features ? -1 : S), place);
  }

  quant::Refined refine(const at::Tensor& w, quant::Encoded encoded, const quant::Statistics& x,
                        const quant::WeightFormat& initial_format, const quant::WeightFormat& format) const override {
    const ReplicaFormat unfused(initial_format.config(), initial_format.place(), replicas, w.size(1), {});
    quant::Encoded all{encoded.codes, parameters_of(unfused, w, encoded, x)};
    if (!collapses()) return {std::move(all)};
    const int64_t O = w.size(0), I = w.size(1);
    const quant::ElementGrid mean = unfused.element_grid(all.parameters, O, I);
    core::require(
        at::isfinite(mean.shift).all().item<bool>(),
        "the scales of the replicas cancel, and their mean has no zero point. Change a replica's scale, or set "
        "replication.scales.collapse: false.");
    Parameters one = format.layout(O, I);
    one.at("scale") = mean.scale;
    one.at("zero_point") = mean.shift;
    const at::Tensor before = unfused.decode(all.codes, all.parameters), after = format.decode(all.codes, one);
    const double difference = ((before - after).abs().max() / before.abs().max().clamp_min(1e-30)).item<double>();
    return {{all.codes, std::move(one)},
            fmt::format("collapsed: {} replicas are one grid, fused - unfused {:.1e} of max |w|", replicas.size(),
                        difference)};
  }

 private:
  bool differ_in_inputs() const {
    return std::any_of(replicas.begin(), replicas.end(), [](const Replica& r) { return r.given("activation"); });
  }
  void check_inputs() const {
    core::require(!own_codes && collapse,
                  "{}: replicas that differ in activation share codes and weight, and only their inputs are averaged. "
                  "Remove `{}`.",
                  where(own_codes ? "own_codes" : "collapse"), own_codes ? "own_codes" : "collapse");
    for (const Replica& replica : replicas) {
      const std::string key = replica.weight_override();
      core::require(key.empty(), "{}: replicas that differ in activation share one weight. Remove `{}`.",
                    replica.where(key), key);
    }
  }
  void refuse(const WeightConfig& weight, const std::string& path) const {
    core::require(
        weight.codebook == "uniform" && weight.group_size != 0 && weight.scale_bits == 0 && !weight.stores_minimum(),
        "{}: scales averages affine grids with one level of scales per row. Use codebook: uniform, scale_bits: "
        "0, a group_size other than 0 and zero_point: int or float.",
        path);
    const bool floats = weight.symmetry == "asymmetric" && weight.zero_point == "float";
    for (const Replica& replica : replicas)
      core::require(floats || replica.zero_point == 0,
                    "{} shifts a zero point, which this grid {}. Use zero_point: float.", replica.where("zero_point"),
                    weight.symmetry == "asymmetric" ? "stores as an integer" : "has not");
  }

  // What a mean of affine grids is: scales and zeros of float32 on smaller groups.
  static WeightConfig fused_config(const WeightConfig& weight, int64_t group_size) {
    WeightConfig one;
    one.bits = weight.bits;
    one.group_size = group_size;
    one.zero_point = "float";
    one.scale_dtype = "float32";
    one.noise = weight.noise;
    return one;
  }

  Parameters parameters_of(const ReplicaFormat& unfused, const at::Tensor& w, const quant::Encoded& encoded,
                           const quant::Statistics& x) const {
    const ReplicaGrids& replicas = unfused.replicas();
    const auto R = static_cast<double>(replicas.size());
    const at::Tensor h = column_weights(w, x);
    std::vector<Parameters> own;
    const at::Tensor plain =
        quant::AffineGrid(unfused.config(), unfused.place()).decode(encoded.codes, encoded.parameters);
    std::vector<at::Tensor> weights(replicas.size(), plain);  // as fitted so far
    for (size_t r = 0; r < replicas.size(); ++r) {
      if (r == 0 || !replicas.replica(r).fit) {
        own.push_back(with_offset(replicas.grid(r), encoded.parameters, w));
        continue;
      }
      at::Tensor target = w * R;
      for (size_t q = 0; q < replicas.size(); ++q)
        if (q != r) target = target - weights[q];
      const quant::AffineGrid grid(replicas.replica(r).grouped(unfused.config()), unfused.place());
      const Parameters found = fitted(grid, encoded.codes, target, h);
      weights[r] = grid.decode(encoded.codes, found);
      own.push_back(with_offset(replicas.grid(r), found, w));
    }
    Parameters all;
    for (size_t r = 0; r < own.size(); ++r)
      ReplicaGrids::add(all, replicas.replica(r).overridden(jittered(std::move(own[r]), unfused, r)), r);
    return all;
  }

  // The parameters that came with the codes, in the layout of a grid that may have an offset more.
  static Parameters with_offset(const quant::AffineGrid& grid, const Parameters& plain, const at::Tensor& w) {
    Parameters all = grid.layout(w.size(0), w.size(1));
    for (quant::Parameter& p : all)
      p.tensor = p.name == "offset" ? at::full({1}, grid.config().offset, w.options()) : plain.at(p.name);
    return all;
  }

  static Parameters jittered(Parameters own, const ReplicaFormat& unfused, size_t r) {
    const double jitter = unfused.replicas().replica(r).jitter;
    if (jitter == 0) return own;
    at::Tensor& scale = own.at("scale");
    const at::Tensor draw = quant::normal_draw(unfused.place(), "jitter", r, scale.size(0), scale.size(1));
    const quant::ScaleFormat scale_format(unfused.config(), /*is_signed=*/true);
    scale = scale_format.rounded_scale(scale * (1 + jitter * draw.to(scale.device())));
    return own;
  }
};

}  // namespace

core::Polymorphic<Strategy> make_scales() { return Scales{}; }

}  // namespace replication
