#include "experiments/run/runtime.h"

#include <spdlog/spdlog.h>

#include "quant/linear/quantized_linear.h"

namespace experiments {

namespace {

quant::Execution execution_of(const RuntimeConfig& config) {
  return {config.rounds_inputs() ? quant::kernels::Precision::integer : quant::kernels::Precision::real, config.rows};
}

}  // namespace

void PackedSource::load(core::Model& model, int64_t block) {
  inner_->load(model, block);
  for (core::Slot* slot : model.block(block).slots()) pack(*slot);
  for (core::Block* replica : model.replicas(block)) {
    for (core::Slot* slot : replica->slots()) pack(*slot);
  }
}

void PackedSource::pack(core::Slot& slot) {
  if (!config_.is_packed() || !slot.filled()) return;
  const std::shared_ptr<core::Linear> pointer = slot.in_memory();
  auto* linear = dynamic_cast<quant::QuantizedLinear*>(pointer.get());
  if (linear == nullptr || linear->packed() != nullptr) return;
  const std::string reason = linear->run_packed(execution_of(config_));
  reasons_[slot.path()] = reason;
  if (!reason.empty()) {
    if (said_.insert(reason).second) spdlog::warn("{} (and what is like it) runs dense: {}", slot.path(), reason);
  } else if (kernel_.empty()) {
    kernel_ = linear->packed()->kernel().name;
    spdlog::info(
        "packed products run with the kernel {}{}", kernel_,
        kernel_ == "reference" ? ": plain C++, slow; this CPU has no other, or REFRAIN_KERNEL asks for it" : "");
  }
  if (linear == slot.pointer().get()) return;
  const auto packed = [in_file = slot.pointer(), execution = execution_of(config_)] {
    const std::shared_ptr<core::Linear> read = dynamic_cast<const core::FiledLinear&>(*in_file).read();
    dynamic_cast<quant::QuantizedLinear&>(*read).run_packed(execution);
    return read;
  };
  slot.put(std::make_shared<core::FiledLinear>(slot.out_features(), slot.in_features(), packed));
}

Json PackedSource::report() const {
  if (!config_.is_packed()) return {{"linears", config_.linears}};
  Json dense = Json::array();
  for (const auto& [path, reason] : reasons_) {
    if (!reason.empty()) dense.push_back({{"module", path}, {"reason", reason}});
  }
  return {{"linears", config_.linears},
          {"rows", config_.rows},
          {"kernel", kernel_.empty() ? Json(nullptr) : Json(kernel_)},
          {"packed", reasons_.size() - dense.size()},
          {"dense", dense}};
}

}  // namespace experiments
