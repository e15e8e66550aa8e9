#include "replication/affine_replicas.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <numeric>

#include "quant/grids/draws.h"

namespace replication {

using quant::Parameters;
using quant::WeightConfig;

void Replica::keys(core::Keys& k) {
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

std::string Replica::weight_override() const {
  if (given("group_size")) return "group_size";
  if (scale != 1) return "scale";
  if (zero_point != 0) return "zero_point";
  if (offset != 0) return "offset";
  if (!fit) return "fit";
  if (jitter != 0) return "jitter";
  return noise != 0 ? "noise" : "";
}

WeightConfig Replica::grouped(const WeightConfig& base) const {
  WeightConfig own = base;
  if (given("group_size")) own.group_size = group_size;
  return own;
}

WeightConfig Replica::config(const WeightConfig& base) const {
  WeightConfig own = grouped(base);
  if (given("rounding")) own.rounding = rounding;
  if (given("clip")) own.clip = clip;
  own.offset += offset;
  return own;
}

Parameters Replica::overridden(Parameters own) const {
  for (quant::Parameter& p : own) {
    const auto stored = [&](const at::Tensor& x) { return x.to(p.stored_dtype).to(at::kFloat); };
    if (p.name == "scale" && scale != 1) p.tensor = stored(p.tensor * scale);
    if (p.name == "zero_point" && zero_point != 0) p.tensor = stored(p.tensor + zero_point);
  }
  return own;
}

// ---- ReplicaGrids ----

namespace {

std::string numbered(const std::string& name, size_t r) { return r == 0 ? name : fmt::format("{}_{}", name, r); }

}  // namespace

ReplicaGrids::ReplicaGrids(const WeightConfig& weight, const quant::Place& place, std::vector<Replica> replicas,
                           int64_t in_features)
    : place_(place), replicas_(std::move(replicas)), in_features_(in_features) {
  for (const Replica& replica : replicas_) {
    quant::Place own = place;  // codes that are rounded at random are so independently
    if (!grids_.empty()) own.path += fmt::format(" replica {}", grids_.size());
    grids_.push_back(std::make_shared<quant::AffineGrid>(replica.config(weight), own));
  }
}

Parameters ReplicaGrids::layout(int64_t O, int64_t I) const {
  Parameters all;
  for (size_t r = 0; r < size(); ++r) add(all, grids_[r]->layout(O, I), r);
  return all;
}

at::Tensor ReplicaGrids::decode(const Parameters& parameters,
                                const std::function<at::Tensor(size_t r)>& codes_of) const {
  at::Tensor sum;
  for (size_t r = 0; r < size(); ++r) {
    const at::Tensor codes = codes_of(r);
    at::Tensor w = grids_[r]->decode(codes, of(parameters, r));
    if (replicas_[r].noise > 0) w = w + noise(parameters, r, codes);
    sum = sum.defined() ? sum + w : w;
  }
  return sum / static_cast<double>(size());
}

quant::ElementGrid ReplicaGrids::part(const Parameters& parameters, size_t r, int64_t O, int64_t I) const {
  quant::ElementGrid grid = grids_[r]->element_grid(of(parameters, r), O, I);
  const int64_t S = refinement(), times = grid.group_size / S;
  grid.scale = (grid.scale.repeat_interleave(times, 1) / static_cast<double>(size())).contiguous();
  grid.shift = grid.shift.repeat_interleave(times, 1).contiguous();
  grid.group_size = S;
  grid.dither = at::Tensor();
  return grid;
}

quant::ElementGrid ReplicaGrids::mean_grid(const Parameters& parameters, int64_t O, int64_t I) const {
  quant::ElementGrid mean = part(parameters, 0, O, I);
  at::Tensor product = mean.scale * mean.shift;  // mean s_r shift_r: [O, I / S]
  for (size_t r = 1; r < size(); ++r) {
    const quant::ElementGrid own = part(parameters, r, O, I);
    mean.scale = mean.scale + own.scale;
    product = product + own.scale * own.shift;
  }
  mean.shift = product / mean.scale;
  return mean;
}

int64_t ReplicaGrids::refinement() const {
  int64_t S = 0;
  for (const auto& grid : grids_) S = std::gcd(S, in_features_ / grid->groups(in_features_));
  return S;
}

void ReplicaGrids::add(Parameters& all, Parameters own, size_t r) {
  for (quant::Parameter& p : own) {
    p.name = numbered(p.name, r);
    all.push_back(std::move(p));
  }
}

Parameters ReplicaGrids::of(const Parameters& all, size_t r) const {
  Parameters own = grids_[r]->layout(1, in_features_);  // for the names
  for (quant::Parameter& p : own) {
    p.tensor = all.at(numbered(p.name, r));
    p.shape = p.tensor.sizes().vec();
  }
  return own;
}

Parameters ReplicaGrids::mean(const Parameters& all) const {
  Parameters one = of(all, 0);
  for (quant::Parameter& p : one) {
    at::Tensor sum = at::zeros_like(p.tensor, at::kFloat);
    for (size_t r = 0; r < size(); ++r) sum.add_(of(all, r).at(p.name).to(at::kFloat));
    const at::Tensor mean = sum / static_cast<double>(size());
    p.tensor = core::is_codes(p.kind) ? at::round(mean).to(at::kByte) : mean.to(p.stored_dtype).to(at::kFloat);
  }
  return one;
}

at::Tensor ReplicaGrids::noise(const Parameters& parameters, size_t r, const at::Tensor& codes) const {
  const int64_t O = codes.size(0), I = codes.size(1);
  const quant::ElementGrid grid = grids_[r]->element_grid(of(parameters, r), O, I);
  const at::Tensor draw = quant::normal_draw(place_, "noise", r, O, I).to(codes.device());
  return draw * grid.scale.repeat_interleave(grid.group_size, 1) * replicas_[r].noise;
}

// ---- ReplicaFormat ----

ReplicaFormat::ReplicaFormat(const WeightConfig& weight, const quant::Place& place, std::vector<Replica> replicas,
                             int64_t in_features, core::Node description)
    : ElementFormat(weight, place),
      replicas_(weight, place, std::move(replicas), in_features),
      description_(std::move(description)) {}

Parameters ReplicaFormat::fit(const at::Tensor&, const quant::Statistics&) const {
  TORCH_CHECK(false, "scales refines; methods encode for its grid");
}

quant::Encoded ReplicaFormat::encode(const at::Tensor&, Parameters) const {
  TORCH_CHECK(false, "scales refines; methods encode for its grid");
}

at::Tensor ReplicaFormat::decode(const at::Tensor& codes, const Parameters& parameters) const {
  return replicas_.decode(parameters, [&](size_t) { return codes; });
}

std::optional<quant::PackedForm> ReplicaFormat::packed_form(const Parameters& parameters, int64_t O, int64_t I) const {
  for (size_t r = 0; r < replicas_.size(); ++r) {
    if (replicas_.replica(r).noise > 0) return {};
  }
  quant::PackedForm form{replicas_.part(parameters, 0, O, I)};
  for (size_t r = 1; r < replicas_.size(); ++r) form.further.push_back(replicas_.part(parameters, r, O, I));
  return form;
}

// ---- OwnCodesFormat ----

OwnCodesFormat::OwnCodesFormat(const WeightConfig& weight, const quant::Place& place, std::vector<Replica> replicas,
                               int64_t in_features, core::Node description)
    : SequenceFormat(weight, place),
      replicas_(weight, place, std::move(replicas), in_features),
      description_(std::move(description)) {}

quant::Needs OwnCodesFormat::needs() const {
  quant::Needs all;
  for (size_t r = 0; r < replicas_.size(); ++r) all = all | replicas_.grid(r).needs();
  return all;
}

Parameters OwnCodesFormat::fit(const at::Tensor& w, const quant::Statistics& x) const {
  Parameters all;
  for (size_t r = 0; r < replicas_.size(); ++r)
    ReplicaGrids::add(all, replicas_.replica(r).overridden(replicas_.grid(r).fit(w, x)), r);
  return all;
}

quant::Encoded OwnCodesFormat::encode(const at::Tensor& w, Parameters parameters) const {
  return {encode_columns(w, parameters, 0, w.size(1)).codes, std::move(parameters)};
}

quant::EncodedColumns OwnCodesFormat::encode_columns(const at::Tensor& w, const Parameters& parameters, int64_t first,
                                                     int64_t in_features) const {
  const at::Tensor x = w.cpu(), codes = at::zeros_like(x, at::kByte), sum = at::zeros_like(x);
  for (size_t r = 0; r < replicas_.size(); ++r) {
    const quant::ElementGrid part =
        replicas_.grid(r).element_grid(replicas_.of(parameters, r), w.size(0), in_features).columns(first, w.size(1));
    const at::Tensor own = part.encode(x);
    codes.bitwise_or_(own.bitwise_left_shift(shift(r)));
    sum.add_(part.decode(own));
  }
  return {codes.to(w.device()), (sum / static_cast<double>(replicas_.size())).to(w.device())};
}

at::Tensor OwnCodesFormat::decode(const at::Tensor& codes, const Parameters& parameters) const {
  return replicas_.decode(parameters, [&](size_t r) { return codes_of(codes, r); });
}

at::Tensor OwnCodesFormat::codes_of(const at::Tensor& codes, size_t r) const {
  return codes.bitwise_right_shift(shift(r)).bitwise_and((int64_t{1} << config().bits) - 1);
}

}  // namespace replication
