// R affine dequantizers on the codes of one linear, averaged: ŵ = mean_r s_r (k − z_r), each on its own groups. The
// codes are those that the method chose for the plain grid; replica 0 keeps the parameters that came with them, replica
// r = 1 … R−1 is fitted by least squares (weighted by diag H) to R W − Σ_{q≠r} D_q, in order, one sweep; a replica that
// is not fitted yet counts as a copy of replica 0. The options of a replica are applied to what was fitted.
//
// Affine replicas of the same codes *are* one affine grid on the common refinement of their groups, scale mean s_r and
// zero mean(s_r z_r) / mean s_r. They are fused into it (collapse) unless they differ in noise: then the decoder is an
// ordinary grid of one product, and what remains of the replicas is the freedom of finer groups.
//
// Replicas that differ in how their inputs are quantized keep one weight: W mean_r g_r(x) is one product too, with
// inputs that are averaged (quant/activation.h). With own_codes every replica codes the weight itself, in its own range
// and rounding: R sets of codes, billed as such, which are no replicas of one another and none are fused.
#include <ATen/ATen.h>

#include <numeric>

#include "core/error.h"
#include "quant/affine.h"
#include "quant/draws.h"
#include "replication/affine_fit.h"
#include "replication/config.h"

namespace replication {

namespace {

using quant::Parameters;
using quant::WeightConfig;

// How one replica differs from the plain grid.
struct Replica : core::Section {
  int64_t group_size = 64;
  double scale = 1.0;
  double zero_point = 0.0;
  double offset = 0.0;
  double noise = 0.0;
  quant::ActivationReplica activation;
  std::string rounding = "nearest";
  double clip = 1.0;
  bool fit = true;
  double jitter = 0.0;

  void keys(core::Keys& k) override {
    k.key("group_size", group_size, "weights of a row that share this replica's scale; default: quant.weight's",
          {-1, 65536})
        .only_if_given();
    k.key("scale", scale, "factor on the fitted scales", {-16, 16});
    k.key("zero_point", zero_point, "added to the fitted zero points, in steps; zero_point: float only", {-256, 256});
    k.key("offset", offset, "added to the offset of quant.weight, in steps", {-256, 256});
    k.key("noise", noise, "standard deviation of this replica's own noise, in steps of its scale", {0, 16});
    k.section("activation", activation,
              "how its inputs are quantized; with it replicas share one weight, so that nothing else may differ")
        .only_if_given();
    k.key("rounding", rounding, "own_codes only; default: quant.weight's", {"nearest", "stochastic"}).only_if_given();
    k.key("clip", clip, "own_codes only; default: quant.weight's", {0, 1, /*low_open=*/true}).only_if_given();
    k.key("fit", fit, "least squares to what the other replicas leave; false: the parameters of replica 0");
    k.key("jitter", jitter, "standard deviation of a random factor 1 + jitter * N(0,1) on every scale", {0, 0.5});
  }
  // A key by which its weight differs from that of others; empty: by none.
  std::string weight_override() const {
    if (given("group_size")) return "group_size";
    if (scale != 1) return "scale";
    if (zero_point != 0) return "zero_point";
    if (offset != 0) return "offset";
    if (!fit) return "fit";
    if (jitter != 0) return "jitter";
    return noise != 0 ? "noise" : "";
  }

  WeightConfig grouped(const WeightConfig& base) const {
    WeightConfig own = base;
    if (given("group_size")) own.group_size = group_size;
    return own;
  }
  WeightConfig config(const WeightConfig& base) const {
    WeightConfig own = grouped(base);
    if (given("rounding")) own.rounding = rounding;
    if (given("clip")) own.clip = clip;
    own.offset += offset;
    return own;
  }
};

std::string numbered(const std::string& name, size_t r) { return r == 0 ? name : fmt::format("{}_{}", name, r); }

class ReplicaDecoder : public quant::Decoder {
 public:
  ReplicaDecoder(const WeightConfig& weight, quant::Place place, std::vector<Replica> replicas, int64_t in_features,
                 core::Node description)
      : Decoder(weight, place),
        replicas_(std::move(replicas)),
        in_features_(in_features),
        description_(std::move(description)) {
    for (const Replica& replica : replicas_) {
      quant::Place own = place;  // codes that are rounded at random are so independently
      if (!grids_.empty()) own.path += fmt::format(" replica {}", grids_.size());
      grids_.push_back(std::make_shared<quant::AffineGrid>(replica.config(weight), own));
    }
  }

  std::string name() const override { return "scales"; }
  quant::Order order() const override { return quant::Order::elementwise; }
  int64_t groups(int64_t in_features) const override { return grids_.front()->groups(in_features); }
  core::Node replication() const override { return description_; }
  int64_t macs(int64_t O, int64_t I) const override { return O * I * static_cast<int64_t>(size()); }

  Parameters fit(const at::Tensor&, const quant::Statistics&) const override {
    TORCH_CHECK(false, "scales refines; methods encode for its grid");
  }
  quant::Encoded encode(const at::Tensor&, Parameters) const override {
    TORCH_CHECK(false, "scales refines; methods encode for its grid");
  }
  Parameters layout(int64_t O, int64_t I) const override {
    Parameters all;
    for (size_t r = 0; r < size(); ++r) add(all, grids_[r]->layout(O, I), r);
    return all;
  }
  at::Tensor decode(const at::Tensor& codes, const Parameters& parameters) const override {
    at::Tensor sum;
    for (size_t r = 0; r < size(); ++r) {
      at::Tensor w = grids_[r]->decode(codes_of(codes, r), of(parameters, r));
      if (replicas_[r].noise > 0) w = w + noise(parameters, r, codes);
      sum = sum.defined() ? sum + w : w;
    }
    return sum / static_cast<double>(size());
  }
  // Of the mean: its scale and shift on the common refinement of the groups.
  quant::ElementGrid element_grid(const Parameters& parameters, int64_t O, int64_t I) const override {
    const int64_t S = refinement();
    at::Tensor scale, product;  // mean s_r, mean s_r shift_r: [O, I / S]
    for (size_t r = 0; r < size(); ++r) {
      const quant::ElementGrid grid = grids_[r]->element_grid(of(parameters, r), O, I);
      const at::Tensor s = grid.scale.repeat_interleave(grid.group_size / S, 1) / static_cast<double>(size());
      const at::Tensor p = s * grid.shift.repeat_interleave(grid.group_size / S, 1);
      scale = scale.defined() ? scale + s : s;
      product = product.defined() ? product + p : p;
    }
    return {.scale = scale.contiguous(),
            .shift = (product / scale).contiguous(),
            .group_size = S,
            .top = (int64_t{1} << config().bits) - 1,
            .table = {},
            .dither = {}};
  }

  size_t size() const { return grids_.size(); }
  const quant::AffineGrid& grid(size_t r) const { return *grids_[r]; }
  const Replica& replica(size_t r) const { return replicas_[r]; }

  // Columns of the largest group that all replicas' groups are made of.
  int64_t refinement() const {
    int64_t S = 0;
    for (const auto& grid : grids_) S = std::gcd(S, in_features_ / grid->groups(in_features_));
    return S;
  }

  static void add(Parameters& all, Parameters own, size_t r) {
    for (quant::Parameter& p : own) {
      p.name = numbered(p.name, r);
      all.push_back(std::move(p));
    }
  }
  // Those of replica r, under their own names.
  Parameters of(const Parameters& all, size_t r) const {
    Parameters own = grids_[r]->layout(1, in_features_);  // for the names
    for (quant::Parameter& p : own) {
      p.tensor = all.at(numbered(p.name, r));
      p.shape = p.tensor.sizes().vec();
    }
    return own;
  }

 protected:
  virtual at::Tensor codes_of(const at::Tensor& codes, size_t) const { return codes; }  // of replica r

 private:
  at::Tensor noise(const Parameters& parameters, size_t r, const at::Tensor& codes) const {
    const int64_t O = codes.size(0), I = codes.size(1);
    const quant::ElementGrid grid = grids_[r]->element_grid(of(parameters, r), O, I);
    const at::Tensor draw = quant::normal_draw(place(), "noise", r, O, I).to(codes.device());
    return draw * grid.scale.repeat_interleave(grid.group_size, 1) * replicas_[r].noise;
  }

  std::vector<Replica> replicas_;
  std::vector<std::shared_ptr<quant::AffineGrid>> grids_;
  int64_t in_features_;
  core::Node description_;
};

// Factor and shift of a replica, on parameters that are then stored as they are.
Parameters overridden(Parameters own, const Replica& replica) {
  for (quant::Parameter& p : own) {
    const auto stored = [&](const at::Tensor& x) { return x.to(p.stored_dtype).to(at::kFloat); };
    if (p.name == "scale" && replica.scale != 1) p.tensor = stored(p.tensor * replica.scale);
    if (p.name == "zero_point" && replica.zero_point != 0) p.tensor = stored(p.tensor + replica.zero_point);
  }
  return own;
}

// Every replica with codes of its own, the first in the lowest bits of what is stored: R b bits. The codes of a weight
// are chosen together, so that methods treat them as those of a sequence.
class OwnCodesDecoder : public ReplicaDecoder {
 public:
  using ReplicaDecoder::ReplicaDecoder;

  quant::Order order() const override { return quant::Order::sequence; }
  int64_t code_bits() const override { return config().bits * static_cast<int64_t>(size()); }
  quant::Needs needs() const override {
    quant::Needs all;
    for (size_t r = 0; r < size(); ++r) all = all | grid(r).needs();
    return all;
  }
  Parameters fit(const at::Tensor& w, const quant::Statistics& x) const override {
    Parameters all;
    for (size_t r = 0; r < size(); ++r) add(all, overridden(grid(r).fit(w, x), replica(r)), r);
    return all;
  }
  quant::Encoded encode(const at::Tensor& w, Parameters parameters) const override {
    return {encode_columns(w, parameters, 0, w.size(1)).codes, std::move(parameters)};
  }
  quant::EncodedColumns encode_columns(const at::Tensor& w, const Parameters& parameters, int64_t first,
                                       int64_t in_features) const override {
    const at::Tensor x = w.cpu(), codes = at::zeros_like(x, at::kByte), sum = at::zeros_like(x);
    for (size_t r = 0; r < size(); ++r) {
      const quant::ElementGrid part =
          grid(r).element_grid(of(parameters, r), w.size(0), in_features).columns(first, w.size(1));
      const at::Tensor own = part.encode(x);
      codes.bitwise_or_(own.bitwise_left_shift(shift(r)));
      sum.add_(part.decode(own));
    }
    return {codes.to(w.device()), (sum / static_cast<double>(size())).to(w.device())};
  }

 protected:
  at::Tensor codes_of(const at::Tensor& codes, size_t r) const override {
    return codes.bitwise_right_shift(shift(r)).bitwise_and((int64_t{1} << config().bits) - 1);
  }

 private:
  int64_t shift(size_t r) const { return config().bits * static_cast<int64_t>(r); }
};

struct Scales : Strategy {
  std::vector<Replica> replicas = std::vector<Replica>(2);
  bool collapse = true, own_codes = false, average = false;

  std::string summary() const override { return "affine dequantizers on one set of codes, averaged inside the linear"; }
  void keys(core::Keys& k) override {
    k.list("replicas", replicas, "one map per replica; {}: as the plain grid");
    k.key("collapse", collapse, "replace the replicas by the one affine grid that they are, where they are one");
    k.key("own_codes", own_codes,
          "every replica codes the weight itself, and as many code bits are stored; methods rtn and ldlq");
    k.key("average", average, "average the parameters of all replicas back to one on the plain grid");
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
      core::require(
          !average || !(replica.given("group_size") || replica.given("offset") || replica.given("noise")),
          "{}: replicas with groups, offset or noise of their own have no mean on the plain grid. Remove them.",
          where("average"));
    }
    core::require(!(own_codes && average), "{}: own_codes is given too, and codes have no mean. Keep one of them.",
                  where("average"));
    if (differ_in_inputs()) check_inputs();
  }
  std::vector<std::pair<std::string, core::Node>> ladder() const override {
    constexpr double kJitter = 0.03;
    const auto rung = [&](double jitter, bool averaged) {
      std::vector<core::Node> list{core::make_map()};
      for (size_t r = 1; r < replicas.size(); ++r)
        list.push_back(core::make_map({{"fit", core::make_bool(false)}, {"jitter", core::make_number(jitter)}}));
      return core::make_map({{"replicas", core::make_list(std::move(list))},
                             {"collapse", core::make_bool(false)},
                             {"average", core::make_bool(averaged)}});
    };
    return {{"identical", rung(0, false)}, {"jittered", rung(kJitter, false)}, {"averaged", rung(kJitter, true)}};
  }
  bool collapses() const override {
    if (differ_in_inputs()) return true;
    return collapse && !own_codes && !average &&
           std::all_of(replicas.begin(), replicas.end(), [](const Replica& r) { return r.noise == 0; });
  }
  quant::Needs needs() const override { return {.mean_square = replicas.size() > 1}; }
  std::vector<quant::ActivationReplica> inputs() const override {
    std::vector<quant::ActivationReplica> all;
    if (!differ_in_inputs()) return all;
    for (const Replica& replica : replicas) all.push_back(replica.activation);
    return all;
  }

  std::shared_ptr<const quant::Decoder> encoder(const WeightConfig& weight, const quant::Place& place,
                                                const Shape& shape) const override {
    refuse(weight, place.path);
    for (const Replica& replica : replicas)
      quant::make_decoder(replica.config(weight), place.path, shape.in_features, place.seed);  // does it divide?
    if (own_codes || differ_in_inputs()) return nullptr;
    return quant::make_decoder(weight, place.path, shape.in_features, place.seed);
  }
  std::shared_ptr<const quant::Decoder> decoder(const WeightConfig& weight, const quant::Place& place,
                                                const Shape& shape) const override {
    if (differ_in_inputs()) return quant::make_decoder(weight, place.path, shape.in_features, place.seed);
    if (own_codes) {
      const auto bits = weight.bits * static_cast<int64_t>(replicas.size());
      core::require(bits <= 8, "{}: {} sets of {}-bit codes are {} bits a weight, above 8. Use fewer replicas or bits.",
                    place.path, replicas.size(), weight.bits, bits);
      return std::make_shared<OwnCodesDecoder>(weight, place, replicas, shape.in_features,
                                               description("scales", *this));
    }
    if (average) return encoder(weight, place, shape);
    auto unfused =
        std::make_shared<ReplicaDecoder>(weight, place, replicas, shape.in_features, description("scales", *this));
    if (!collapses()) return unfused;
    const int64_t S = unfused->refinement();
    return std::make_shared<quant::AffineGrid>(fused_config(weight, S == shape.in_features ? -1 : S), place);
  }

  quant::Refined refine(const at::Tensor& w, quant::Encoded encoded, const quant::Statistics& x,
                        const quant::Decoder& encoder, const quant::Decoder& decoder) const override {
    const ReplicaDecoder unfused(encoder.config(), encoder.place(), replicas, w.size(1), {});
    quant::Encoded all{encoded.codes, parameters_of(unfused, w, encoded, x)};
    if (average) return {{encoded.codes, averaged(unfused, all.parameters, encoded.parameters)}};
    if (!collapses()) return {std::move(all)};
    const int64_t O = w.size(0), I = w.size(1);
    const quant::ElementGrid mean = unfused.element_grid(all.parameters, O, I);
    core::require(
        at::isfinite(mean.shift).all().item<bool>(),
        "the scales of the replicas cancel, and their mean has no zero point. Change a replica's scale, or set "
        "replication.scales.collapse: false.");
    Parameters one = decoder.layout(O, I);
    one.at("scale") = mean.scale;
    one.at("zero_point") = mean.shift;
    const at::Tensor before = unfused.decode(all.codes, all.parameters), after = decoder.decode(all.codes, one);
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
        weight.codebook == "uniform" && weight.group_size != 0 && weight.scale_bits == 0,
        "{}: scales averages affine grids with one level of scales per row. Use codebook: uniform, scale_bits: "
        "0 and a group_size other than 0.",
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

  Parameters parameters_of(const ReplicaDecoder& replicas, const at::Tensor& w, const quant::Encoded& encoded,
                           const quant::Statistics& x) const {
    const auto R = static_cast<double>(replicas.size());
    const at::Tensor h = column_weights(w, x);
    std::vector<Parameters> own;
    const at::Tensor plain =
        quant::AffineGrid(replicas.config(), replicas.place()).decode(encoded.codes, encoded.parameters);
    std::vector<at::Tensor> weights(replicas.size(), plain);  // as fitted so far
    for (size_t r = 0; r < replicas.size(); ++r) {
      if (r == 0 || !replicas.replica(r).fit) {
        own.push_back(with_offset(replicas.grid(r), encoded.parameters, w));
        continue;
      }
      at::Tensor target = w * R;
      for (size_t q = 0; q < replicas.size(); ++q)
        if (q != r) target = target - weights[q];
      const quant::AffineGrid grid(replicas.replica(r).grouped(replicas.config()), replicas.place());
      const Parameters found = fitted(grid, encoded.codes, target, h);
      weights[r] = grid.decode(encoded.codes, found);
      own.push_back(with_offset(replicas.grid(r), found, w));
    }
    Parameters all;
    for (size_t r = 0; r < own.size(); ++r)
      ReplicaDecoder::add(all, overridden(jittered(std::move(own[r]), replicas, r), replicas.replica(r)), r);
    return all;
  }

  // The parameters that came with the codes, in the layout of a grid that may have an offset more.
  static Parameters with_offset(const quant::AffineGrid& grid, const Parameters& plain, const at::Tensor& w) {
    Parameters all = grid.layout(w.size(0), w.size(1));
    for (quant::Parameter& p : all)
      p.tensor = p.name == "offset" ? at::full({1}, grid.config().offset, w.options()) : plain.at(p.name);
    return all;
  }

  static Parameters jittered(Parameters own, const ReplicaDecoder& replicas, size_t r) {
    const double jitter = replicas.replica(r).jitter;
    if (jitter == 0) return own;
    at::Tensor& scale = own.at("scale");
    const at::Tensor draw = quant::normal_draw(replicas.place(), "jitter", r, scale.size(0), scale.size(1));
    const quant::ScaleFormat format(replicas.config(), /*is_signed=*/true);
    scale = format.rounded_scale(scale * (1 + jitter * draw.to(scale.device())));
    return own;
  }

  // The mean over the replicas of every parameter, as one replica stores it. plain: its layout.
  static Parameters averaged(const ReplicaDecoder& replicas, const Parameters& all, Parameters plain) {
    for (quant::Parameter& p : plain) {
      at::Tensor sum = at::zeros_like(p.tensor, at::kFloat);
      for (size_t r = 0; r < replicas.size(); ++r) sum.add_(replicas.of(all, r).at(p.name).to(at::kFloat));
      const at::Tensor mean = sum / static_cast<double>(replicas.size());
      p.tensor = core::is_codes(p.kind) ? at::round(mean).to(at::kByte) : mean.to(p.stored_dtype).to(at::kFloat);
    }
    return plain;
  }
};

}  // namespace

std::shared_ptr<Strategy> make_scales() { return std::make_shared<Scales>(); }

}  // namespace replication
