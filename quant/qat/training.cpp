#include "quant/qat/training.h"

#include <ATen/ATen.h>

#include <map>

#include "core/io/hash.h"

namespace quant {

namespace {

using core::Kind;

double mean_magnitude(const at::Tensor& x) { return x.detach().abs().mean().item<double>(); }
double rms(const at::Tensor& x) { return at::square(x.detach()).mean().sqrt().item<double>(); }

// The quantized linears below a module, in order of registration.
void collect(torch::nn::Module& module, std::vector<core::Slot*>& slots) {
  if (auto* slot = dynamic_cast<core::Slot*>(&module)) {
    if (slot->filled() && dynamic_cast<QuantizedLinear*>(&slot->linear()) != nullptr) slots.push_back(slot);
    return;
  }
  for (const auto& child : module.children()) collect(*child, slots);
}

// Of a factor of B A that is 0, so that a step of lr changes the weight by about lr of its rms.
double unit_of_zero_factor(const core::Linear& linear, const at::Tensor& factor) {
  for (const core::State& other : linear.state()) {
    if (other.kind != Kind::low_rank || other.tensor.is_same(factor)) continue;
    const double rank = static_cast<double>(std::min(other.tensor.size(0), other.tensor.size(1)));
    return rms(linear.weight()) / std::max(1e-12, std::sqrt(rank) * rms(other.tensor));
  }
  return 1;
}

double unit_of(const core::State& state, const core::Linear* linear, const CodeTraining& codes) {
  if (state.kind == Kind::weight) return codes.rate;
  if (state.kind == Kind::zero_point || state.kind == Kind::offset || state.kind == Kind::activation_zero_point)
    return 1;
  const double size = mean_magnitude(state.tensor);
  if (size > 0) return size;
  return state.kind == Kind::low_rank && linear != nullptr ? unit_of_zero_factor(*linear, state.tensor) : 1;
}

}  // namespace

Training::Training(const std::vector<torch::nn::Module*>& modules, const std::set<Kind>& kinds,
                   const FormatFactory& format_factory, const CodeTraining& codes) {
  std::vector<core::Slot*> slots;
  for (torch::nn::Module* module : modules) collect(*module, slots);
  std::map<const core::Linear*, size_t> known;        // places in held_
  std::map<const void*, const TrainedLinear*> owner;  // of parameters
  for (core::Slot* slot : slots) {
    const auto [place, is_new] = known.emplace(&slot->linear(), held_.size());
    if (!is_new) {
      held_[place->second].slots.push_back(slot);
      continue;
    }
    const auto& from = dynamic_cast<const QuantizedLinear&>(slot->linear());
    auto trained = std::make_shared<TrainedLinear>(from, kinds.contains(Kind::zero_point), format_factory,
                                                   step_in_training_, codes);
    for (const core::State& state : trained->state()) owner[state.tensor.unsafeGetTensorImpl()] = trained.get();
    held_.push_back({{slot}, slot->pointer(), trained});
  }
  for (const Held& held : held_) put(held, held.trained);
  std::set<const void*> seen;
  for (torch::nn::Module* module : modules) {
    for (core::State& state : core::named_state(*module)) {
      const void* id = state.tensor.unsafeGetTensorImpl();
      const auto found = owner.find(id);
      const TrainedLinear* linear = found == owner.end() ? nullptr : found->second;
      const bool trains = state.kind == Kind::weight ? linear != nullptr && codes.trains : kinds.contains(state.kind);
      if (core::is_codes(state.kind) || !trains || !seen.insert(id).second) continue;
      const int64_t bits = linear == nullptr ? 8 * state.tensor.element_size() : linear->stored_bits(state.tensor);
      leaves_.push_back({state.name, state.tensor, state.kind, unit_of(state, linear, codes), bits});
    }
  }
  for (Leaf& leaf : leaves_) leaf.tensor.set_requires_grad(true);
}

Training::~Training() {
  if (finished_) return;
  for (Leaf& leaf : leaves_) leaf.tensor.set_requires_grad(false);
  for (const Held& held : held_) put(held, held.before);
}

void Training::put(const Held& held, const std::shared_ptr<core::Linear>& linear) const {
  for (core::Slot* slot : held.slots) slot->put(linear);
}

int64_t Training::values() const {
  int64_t sum = 0;
  for (const Leaf& leaf : leaves_) sum += leaf.tensor.numel();
  return sum;
}

int64_t Training::stored_bits() const {
  int64_t sum = 0;
  for (const Leaf& leaf : leaves_) sum += leaf.tensor.numel() * leaf.stored_bits;
  return sum;
}

int64_t Training::floated_zeros() const {
  return std::count_if(held_.begin(), held_.end(), [](const Held& held) { return held.trained->floated_zeros(); });
}

std::string Training::code_hash() const {
  core::Hasher hasher;
  for (const Held& held : held_) {
    for (const core::State& state : held.slots.front()->linear().state()) {
      if (state.kind != Kind::codes) continue;
      const at::Tensor bytes = state.tensor.cpu().contiguous();
      hasher.update(held.slots.front()->path());
      hasher.update(bytes.const_data_ptr(), bytes.nbytes());
    }
  }
  return hasher.hex();
}

void Training::finish() {
  step_in_training_->training = false;  // codes of the last iterate, whatever the step was
  for (Leaf& leaf : leaves_) {
    leaf.tensor.set_requires_grad(false);
    leaf.tensor.mutable_grad() = at::Tensor();
  }
  for (Held& held : held_) held.before = held.trained->finished();
  for (const Held& held : held_) put(held, held.before);
  finished_ = true;
}

}  // namespace quant
