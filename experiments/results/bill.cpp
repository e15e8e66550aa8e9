#include "experiments/results/bill.h"

#include "core/io/hash.h"
#include "quant/quantized_linear.h"

namespace experiments {

Bill bill_of(core::Model& model, core::BlockSource& source, int64_t cache_bytes) {
  Bill bill{.all = core::bill_of_ends(model), .covered = {}, .code_hash = {}};
  int64_t once = model.head().out_features() * model.head().in_features();  // MACs
  core::Hasher codes;
  const auto add = [&](const core::Slot& slot) {
    const auto* linear = dynamic_cast<const quant::QuantizedLinear*>(&slot.linear());
    if (linear == nullptr) return;
    codes.update(slot.path() + " " + linear->codes().hash() + "\n");
    if (slot.role() != core::Role::embed_tokens) bill.covered += slot.cost();
  };
  for (int64_t i = 0; i < model.shape().layers; ++i) {
    source.load(model, i);
    bill.all += core::bill_of_block(model, i, cache_bytes);
    for (core::Slot* slot : model.block(i).slots()) {
      once += slot->out_features() * slot->in_features();
      add(*slot);
    }
    for (core::Block* replica : model.replicas(i))
      bill.covered.parameter_bits += core::storage_of(*replica).parameter_bits;
    source.release(model, i);
  }
  add(model.embedding());
  add(model.head());
  if (bill.all.code_bits > 0) bill.code_hash = codes.hex();
  bill.mac_multiplier = static_cast<double>(bill.all.macs) / static_cast<double>(once);
  for (const core::Step& step : model.plan()) {
    if (step.kv == core::Step::kOwn)
      bill.kv_bytes += 2 * model.shape().kv_heads * model.shape().head_width * kKvTokens * 2;
  }
  return bill;
}

}  // namespace experiments
