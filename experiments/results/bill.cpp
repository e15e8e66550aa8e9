#include "experiments/results/bill.h"

#include "core/io/hash.h"
#include "quant/quantized_linear.h"

namespace experiments {

Bill bill_of(core::Model& model, core::BlockSource& source) {
  Bill bill{.all = core::bill_of_ends(model), .covered = {}, .code_hash = {}};
  const std::vector<int64_t> runs = core::runs_of(model.plan, model.shape().layers);
  int64_t once = model.head().out_features() * model.head().in_features();  // MACs
  core::Hasher codes;
  const auto add_codes = [&](const core::Slot& slot) {
    if (const auto* linear = dynamic_cast<const quant::QuantizedLinear*>(&slot.linear()))
      codes.update(slot.path() + " " + linear->codes().hash() + "\n");
  };
  for (int64_t i = 0; i < model.shape().layers; ++i) {
    source.load(model, i);
    bill.all += core::bill_of_block(model.block(i), runs[i]);
    for (core::Slot* slot : model.block(i).slots()) {
      once += slot->out_features() * slot->in_features();
      if (const core::Cost cost = slot->linear().cost(); cost.code_bits > 0) bill.covered += cost;
      add_codes(*slot);
    }
    source.release(model, i);
  }
  if (const core::Cost head = model.head().cost(); head.code_bits > 0) bill.covered += head;
  add_codes(model.embedding());
  add_codes(model.head());
  if (bill.all.code_bits > 0) bill.code_hash = codes.hex();
  bill.mac_multiplier = static_cast<double>(bill.all.macs) / static_cast<double>(once);
  return bill;
}

}  // namespace experiments
