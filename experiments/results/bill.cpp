#include "experiments/results/bill.h"

#include "core/io/hash.h"
#include "quant/quantized_linear.h"
#include "replication/config.h"

namespace experiments {

namespace {

// What a covered linear counts, here and on a matrix of 4096 × 4096, of which each of its weights is as many.
void add_covered(Bill& bill, const core::Linear& linear) {
  constexpr int64_t kWidth = 4096;
  const core::Cost cost = linear.cost();
  if (cost.code_bits == 0) return;
  bill.covered += cost;
  if (const auto* coded = dynamic_cast<const quant::QuantizedLinear*>(&linear)) {
    const int64_t of_inputs = cost.parameter_bits - quant::parameter_bits(coded->parameters());
    bill.parameters_at_4096 +=
        static_cast<double>(cost.weights) * (replication::parameters_per_weight(coded->decoder(), kWidth) +
                                             static_cast<double>(of_inputs) / (kWidth * kWidth));
  }
}

}  // namespace

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
      add_covered(bill, slot->linear());
      add_codes(*slot);
    }
    source.release(model, i);
  }
  add_covered(bill, model.head().linear());
  if (bill.covered.weights > 0) bill.parameters_at_4096 /= static_cast<double>(bill.covered.weights);
  add_codes(model.embedding());
  add_codes(model.head());
  if (bill.all.code_bits > 0) bill.code_hash = codes.hex();
  bill.mac_multiplier = static_cast<double>(bill.all.macs) / static_cast<double>(once);
  return bill;
}

}  // namespace experiments
