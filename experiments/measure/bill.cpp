#include "experiments/measure/bill.h"

#include "core/io/hash.h"
#include "core/nn/prefix.h"
#include "core/plan_stream.h"
#include "quant/linear/quantized_linear.h"
#include "replication/config.h"

namespace experiments {

namespace {

// What a covered linear counts, here and on a matrix of 4096 × 4096, of which each of its weights is as many.
void add_covered(Bill& bill, const core::Slot& slot) {
  constexpr int64_t kWidth = 4096;
  const auto linear = slot.in_memory();
  const auto* coded = dynamic_cast<const quant::QuantizedLinear*>(linear.get());
  if (coded == nullptr) return;
  const core::Cost cost = slot.cost();
  bill.covered += cost;
  const int64_t of_inputs = cost.parameter_bits - quant::parameter_bits(coded->parameters());
  bill.parameters_at_4096 += static_cast<double>(slot.out_features() * slot.in_features()) *
                             (replication::parameters_per_weight(coded->format(), kWidth) +
                              static_cast<double>(of_inputs) / (kWidth * kWidth));
}

// Keys and values in front of every text count for the linears, whatever their shapes.
void add_prefix(Bill& bill, core::Block& block) {
  for (const auto& module : block.modules()) {
    if (const auto* prefix = dynamic_cast<const core::Prefix*>(module.get()))
      bill.covered.parameter_bits += prefix->cost().parameter_bits;
  }
}

// What a replica of a block has of its own.
void add_replica(Bill& bill, core::Block& replica) {
  Bill own;
  for (core::Slot* slot : replica.slots()) {
    if (slot->filled()) add_covered(own, *slot);
  }
  bill.covered.parameter_bits += core::storage_of(replica).parameter_bits;
  bill.parameters_at_4096 += own.parameters_at_4096;
}

// A block that no step runs stores nothing; its weights stay among those that the bits are counted for.
void add_removed(Bill& bill, double& once, core::Block& block) {
  for (const core::Slot* slot : block.slots()) {
    const int64_t weights = slot->out_features() * slot->in_features();
    once += slot->token_fraction() * static_cast<double>(weights);
    bill.all.weights += weights;
    if (slot->role() != core::Role::router && slot->role() != core::Role::shared_expert_gate)
      bill.covered.weights += weights;
  }
}

}  // namespace

Bill bill_of(core::Model& model, core::BlockSource& source, int64_t cache_bytes) {
  Bill bill{.all = core::bill_of_embedding_and_head(model), .covered = {}, .code_hash = {}};
  auto once = static_cast<double>(model.head().out_features() * model.head().in_features());  // MACs
  core::Hasher codes;
  const auto add_codes = [&](const core::Slot& slot) {
    const auto linear = slot.in_memory();
    if (const auto* coded = dynamic_cast<const quant::QuantizedLinear*>(linear.get()))
      codes.update(slot.path() + " " + coded->codes().hash() + "\n");
  };
  for (int64_t i = 0; i < model.shape().layers; ++i) {
    if (!core::runs(model.plan(), i)) {
      add_removed(bill, once, model.block(i));
      continue;
    }
    source.load(model, i);
    bill.all += core::bill_of_block(model, i, cache_bytes);
    for (core::Slot* slot : model.block(i).slots()) {
      once += slot->token_fraction() * static_cast<double>(slot->out_features() * slot->in_features());
      add_covered(bill, *slot);
      add_codes(*slot);
    }
    add_prefix(bill, model.block(i));
    for (core::Block* replica : model.replicas(i)) add_replica(bill, *replica);
    source.release(model, i);
  }
  add_covered(bill, model.head());
  if (bill.covered.weights > 0) bill.parameters_at_4096 /= static_cast<double>(bill.covered.weights);
  add_codes(model.embedding());
  add_codes(model.head());
  if (bill.all.code_bits > 0) bill.code_hash = codes.hex();
  bill.mac_multiplier = static_cast<double>(bill.all.macs) / once;
  for (const core::Step& step : model.plan()) {
    if (step.kv == core::Step::kOwn && step.only != core::Half::feed_forward)
      bill.kv_bytes += 2 * model.shape().kv_heads * model.shape().head_width * kKvTokens * 2;
  }
  return bill;
}

}  // namespace experiments
