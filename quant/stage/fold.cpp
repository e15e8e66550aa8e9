#include "quant/stage/fold.h"

#include <ATen/ATen.h>

namespace quant {

namespace {

// Columns of a producer's consumers by the channel that they come from: [I] -> [K, heads_per_kv, C], or [I, 1, 1].
at::Tensor by_channel(const core::Producer& producer, const at::Tensor& columns) {
  if (producer.head_width == 0) return columns.reshape({-1, 1, 1});
  return columns.reshape({-1, producer.heads_per_kv, producer.head_width});
}

void put(core::Slot& slot, const at::Tensor& weight, const at::Tensor& bias) {
  const auto bits = static_cast<int64_t>(weight.element_size()) * 8;
  slot.put(std::make_shared<core::DenseLinear>(weight.contiguous(), bias, bits));
}

}  // namespace

bool can_fold(const core::Producer& producer) { return producer.norm != nullptr || producer.slot != nullptr; }

at::Tensor tied(const core::Producer& producer, const at::Tensor& columns) {
  const at::Tensor grouped = by_channel(producer, columns);
  return grouped.mean(1, /*keepdim=*/true).expand(grouped.sizes()).reshape({-1});
}

void fold(const core::Producer& producer, const std::vector<core::Slot*>& consumers, const at::Tensor& f) {
  TORCH_CHECK(can_fold(producer), "nothing can take a factor of these inputs");
  for (core::Slot* slot : consumers) {
    const at::Tensor w = slot->linear().weight();
    put(*slot, (w.to(at::kFloat) * f).to(w.scalar_type()), slot->linear().bias());
  }
  const at::Tensor channels = by_channel(producer, f).select(1, 0).reshape({-1});  // [P]
  if (producer.norm != nullptr) {
    producer.norm->divide(channels);
    return;
  }
  const core::Linear& linear = producer.slot->linear();
  const at::Tensor w = linear.weight(), bias = linear.bias();
  TORCH_CHECK(channels.numel() == w.size(0), "a factor of ", channels.numel(), " channels for ", w.size(0));
  put(*producer.slot, (w.to(at::kFloat) / channels.unsqueeze(1)).to(w.scalar_type()),
      bias.defined() ? (bias.to(at::kFloat) / channels).to(bias.scalar_type()) : bias);
}

}  // namespace quant
