#include "replication/own_parameters.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "quant/grids/draws.h"
#include "quant/linear/quantized_linear.h"

namespace replication {

namespace {

at::Tensor jittered(const quant::Parameter& scale, double jitter, const quant::Place& place) {
  const at::Tensor flat = scale.tensor.reshape({scale.tensor.size(0), -1});
  const at::Tensor draw = quant::normal_draw(place, "jitter of " + scale.name, 0, flat.size(0), flat.size(1));
  const at::Tensor factor = (1 + jitter * draw).to(scale.tensor.device()).reshape(scale.tensor.sizes());
  return (scale.tensor * factor).to(scale.stored_dtype).to(at::kFloat);
}

}  // namespace

void give_own_parameters(core::Block& block, core::Block& replica, double jitter, uint64_t seed) {
  const std::vector<core::Slot*> from = block.slots(), to = replica.slots();
  for (size_t i = 0; i < from.size(); ++i) {
    const auto* original = dynamic_cast<const quant::QuantizedLinear*>(&from[i]->linear());
    if (original == nullptr) continue;
    quant::Parameters parameters = original->parameters();
    for (quant::Parameter& p : parameters) {
      const bool scales = p.kind == core::Kind::scale || p.kind == core::Kind::row_scale;
      p.tensor = scales && jitter > 0 ? jittered(p, jitter, {to[i]->path(), seed}) : p.tensor.clone();
    }
    auto own = original->with(original->shared_format(), std::move(parameters));
    own->share_codes(original->codes_of().empty() ? from[i]->path() : original->codes_of());
    to[i]->put(std::move(own));
  }
}

void give_own_norms(core::Block& replica) {
  for (const auto& module : replica.modules(/*include_self=*/false)) {
    if (auto* norm = dynamic_cast<core::RmsNorm*>(module.get())) norm->own();
  }
}

namespace {

// Of the same tensor in several places, as it is stored.
at::Tensor mean_of(const std::vector<at::Tensor>& all, core::Kind kind, at::ScalarType stored) {
  at::Tensor sum = at::zeros_like(all.front(), at::kFloat);
  for (const at::Tensor& one : all) sum.add_(one.detach().to(at::kFloat));
  const at::Tensor mean = sum / static_cast<double>(all.size());
  return core::is_codes(kind) ? at::round(mean).to(at::kByte) : mean.to(stored).to(all.front().scalar_type());
}

std::shared_ptr<quant::QuantizedLinear> mean_of(const std::vector<const quant::QuantizedLinear*>& linears) {
  quant::Parameters parameters = linears.front()->parameters();
  for (quant::Parameter& p : parameters) {
    std::vector<at::Tensor> all;
    for (const auto* linear : linears) all.push_back(linear->parameters().at(p.name));
    p.tensor = mean_of(all, p.kind, p.stored_dtype);
  }
  auto mean = linears.front()->with(linears.front()->shared_format(), std::move(parameters));
  if (mean->input() == nullptr) return mean;
  quant::Parameters of_input = mean->input()->parameters();
  for (size_t i = 0; i < of_input.size(); ++i) {
    std::vector<at::Tensor> all;
    for (const auto* linear : linears) all.push_back(linear->input()->parameters()[i].tensor);
    of_input[i].tensor = mean_of(all, of_input[i].kind, at::kFloat);
  }
  if (!of_input.empty()) {
    auto input = mean->input()->with(std::move(of_input));
    mean = linears.front()->with(mean->shared_format(), mean->parameters());
    mean->quantize_input(std::move(input));
  }
  return mean;
}

std::vector<core::RmsNorm*> norms_of(core::Block& block) {
  std::vector<core::RmsNorm*> all;
  for (const auto& module : block.modules(/*include_self=*/false)) {
    if (auto* norm = dynamic_cast<core::RmsNorm*>(module.get())) all.push_back(norm);
  }
  return all;
}

}  // namespace

void average_parameters(core::Block& block, const std::vector<core::Block*>& replicas) {
  const at::NoGradGuard no_gradient;
  const std::vector<core::Slot*> slots = block.slots();
  for (size_t i = 0; i < slots.size(); ++i) {
    std::vector<const quant::QuantizedLinear*> linears{
        dynamic_cast<const quant::QuantizedLinear*>(&slots[i]->linear())};
    if (linears.front() == nullptr) continue;
    for (core::Block* replica : replicas)  // one that has none of its own counts as what it shares
      linears.push_back(&dynamic_cast<const quant::QuantizedLinear&>(replica->slots()[i]->linear()));
    auto mean = mean_of(linears);
    for (core::Block* replica : replicas) replica->slots()[i]->unload();
    slots[i]->put(std::move(mean));
  }
  const std::vector<core::RmsNorm*> norms = norms_of(block);
  for (size_t i = 0; i < norms.size(); ++i) {
    std::vector<at::Tensor> weights{norms[i]->weight()};
    for (core::Block* replica : replicas) weights.push_back(norms_of(*replica)[i]->weight());
    const bool own = std::any_of(weights.begin(), weights.end(), [&](const auto& w) { return !w.is_same(weights[0]); });
    if (own) at::Tensor(weights[0]).copy_(mean_of(weights, core::Kind::norm, weights[0].scalar_type()));
    for (core::Block* replica : replicas) norms_of(*replica)[i]->unload();
  }
}

}  // namespace replication
