#include "experiments/programs/machine_model.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "core/config/keys.h"
#include "core/error.h"
#include "quant/grids/draws.h"
#include "quant/linear/quantized_linear.h"
#include "quant/method.h"
#include "replication/config.h"

namespace experiments {

namespace {

// A linear of which only the bill exists.
class PricedLinear : public core::Linear {
 public:
  PricedLinear(const core::Slot& slot, core::Cost cost)
      : Linear(slot.out_features(), slot.in_features()), cost_(cost) {}
  at::Tensor forward(const at::Tensor&) override { TORCH_CHECK(false, "a priced linear computes nothing"); }
  at::Tensor weight() const override { TORCH_CHECK(false, "a priced linear has no weight"); }
  at::Tensor bias() const override { return {}; }
  std::vector<core::State> state() const override { return {}; }
  core::Cost cost() const override { return cost_; }

 private:
  core::Cost cost_;
};

core::Cost dense(const core::Slot& slot) {
  const int64_t weights = slot.out_features() * slot.in_features();
  return {.weights = weights, .dense_bits = 16 * weights, .macs = weights, .bytes_read = 2 * weights};
}

// sets: of scales. Of a replica the codes are the block's.
core::Cost coded(const core::Slot& slot, const Pricing& pricing, int64_t sets, bool replica) {
  const int64_t weights = slot.out_features() * slot.in_features();
  const int64_t groups = slot.out_features() * ((slot.in_features() + pricing.group_size - 1) / pricing.group_size);
  const int64_t codes = pricing.bits * weights, scales = 16 * sets * groups;
  return {.weights = weights,
          .code_bits = replica ? 0 : codes,
          .parameter_bits = scales,
          .macs = weights,
          .bytes_read = (codes + scales) / 8};
}

bool stays_dense(core::Role role) { return role == core::Role::router || role == core::Role::shared_expert_gate; }

void fill(core::Block& block, const Pricing& pricing, bool replica) {
  const int64_t sets = pricing.kind == kLinear ? pricing.replicas : 1;
  for (core::Slot* slot : block.slots()) {
    if (replica && stays_dense(slot->role())) continue;  // shared
    slot->put(std::make_shared<PricedLinear>(
        *slot, stays_dense(slot->role()) ? dense(*slot) : coded(*slot, pricing, sets, replica)));
  }
}

core::Plan plan_of(const Pricing& pricing, int64_t layers) {
  core::Plan plan;
  for (int64_t i = 0; i < layers; ++i) {
    const auto first = static_cast<int64_t>(plan.size());
    plan.push_back({.block = i, .parallel = pricing.kind == kParallel ? pricing.replicas : 1});
    for (int64_t r = 1; r < pricing.replicas && pricing.kind == kDepth; ++r)
      plan.push_back({.block = i, .replica = r, .kv = first});
  }
  return plan;
}

}  // namespace

Price price_of(core::Model& model, const Pricing& pricing, int64_t context, int64_t cache_bytes) {
  const core::Shape& shape = model.shape();
  model.follow(plan_of(pricing, shape.layers));
  model.embedding().put(std::make_shared<PricedLinear>(model.embedding(), dense(model.embedding())));
  model.head().put(shape.tied ? model.embedding().pointer()
                              : std::make_shared<PricedLinear>(model.head(), dense(model.head())));
  for (int64_t i = 0; i < shape.layers; ++i) {
    fill(model.block(i), pricing, /*replica=*/false);
    for (core::Block* replica : model.replicas(i)) fill(*replica, pricing, /*replica=*/true);
  }
  core::Cost blocks;
  for (int64_t i = 0; i < shape.layers; ++i) blocks += core::bill_of_block(model, i, cache_bytes);
  const core::Cost ends = core::bill_of_embedding_and_head(model);
  Price price{.coded_bytes = blocks.bytes_read, .other_bytes = ends.bytes_read, .coded_macs = blocks.macs};
  price.kv_bytes = static_cast<int64_t>(model.plan().size()) * 2 * shape.kv_heads * shape.head_width * context * 2;
  for (const core::Cost& cost : {blocks, ends})
    price.file_bytes += (cost.code_bits + cost.parameter_bits + cost.dense_bits) / 8;
  return price;
}

Prediction predict(const Price& price, const Machine& machine) {
  Prediction p;
  p.memory_seconds = static_cast<double>(price.coded_bytes) / machine.bandwidth;
  p.compute_seconds = static_cast<double>(price.coded_macs) * machine.seconds_per_weight.value_or(0);
  p.token_seconds = std::max(p.memory_seconds, p.compute_seconds) +
                    static_cast<double>(price.other_bytes + price.kv_bytes) / machine.bandwidth;
  return p;
}

namespace {

// `scales` without its fusion is R sets of scales on one set of codes.
std::shared_ptr<quant::QuantizedLinear> measured_linear(const Pricing& pricing, int64_t rows, int64_t columns) {
  const quant::Place place{"machine", 1};
  replication::ReplicationConfig config;
  std::string text = "{}";
  if (pricing.kind == kLinear && pricing.replicas > 1) {
    for (int64_t r = 1; r < pricing.replicas; ++r) text += ", {}";
    text = fmt::format("{{strategy: scales, scales: {{replicas: [{}], collapse: false}}}}", text);
  }
  core::bind(core::parse_yaml(text, "machine"), config, "replication");
  quant::WeightConfig weight;
  weight.bits = pricing.bits;
  weight.group_size = pricing.group_size;
  weight.symmetry = "midrise";
  weight.range = "minmax";  // the time does not depend on it
  core::Slot slot(place.path, core::Role::up_proj, rows, columns, /*has_bias=*/false);
  const quant::Coding coding = replication::coding_of(config)(slot, weight, place.seed);
  const at::Tensor w = quant::normal_draw(place, "weights", 0, rows, columns);
  const quant::Statistics x{.hessian = at::eye(columns), .mean_square = at::ones({columns})};
  quant::Encoded encoded = quant::round_to_nearest(w, *coding.format, x);
  if (coding.refinement) encoded = coding.refinement->refine(w, std::move(encoded), x).encoded;
  return std::make_shared<quant::QuantizedLinear>(coding.refinement ? coding.refinement->format() : coding.format,
                                                  std::move(encoded), at::Tensor(), 0, at::kFloat);
}

}  // namespace

double kernel_seconds_per_weight(const Pricing& pricing) {
  using Clock = std::chrono::steady_clock;
  const int64_t rows = 16384;  // so many that waking the threads takes no part of the time
  const int64_t columns = std::max<int64_t>(1, 1024 / pricing.group_size) * pricing.group_size;
  const c10::InferenceMode inference;
  const auto linear = measured_linear(pricing, rows, columns);
  linear->run_packed(
      {.precision = quant::kernels::Precision::integer});  // without a kernel the decoded weight is timed
  std::vector<std::shared_ptr<quant::QuantizedLinear>> replicas;
  std::vector<core::Linear*> all{linear.get()};
  for (int64_t r = 1; r < pricing.replicas && pricing.kind == kParallel; ++r) {
    replicas.push_back(linear->with(linear->shared_format(), linear->parameters()));
    replicas.back()->run_packed({.precision = quant::kernels::Precision::integer});
    all.push_back(replicas.back().get());
  }
  const int64_t R = std::ssize(all);
  const at::Tensor x = quant::normal_draw({"machine", 1}, "inputs", 0, R, columns).unsqueeze(1);  // [R, 1, I]
  double best = 1e30;
  const auto end = Clock::now() + std::chrono::milliseconds(300);
  do {
    const auto start = Clock::now();
    R == 1 ? linear->forward(x) : linear->forward_beside(all, x);
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
  } while (Clock::now() < end);
  return best / static_cast<double>(R * rows * columns);
}

}  // namespace experiments
