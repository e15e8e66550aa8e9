#include "core/side_by_side.h"

#include <ATen/ATen.h>

namespace core {

namespace {

// One slot's linear of every replica. Inputs are of all of them, [R · B, ..., I], or, behind the norm that they share,
// one for all, [B, ..., I]; outputs are [R · B, ..., O].
class Beside : public Linear {
 public:
  explicit Beside(std::vector<const Slot*> slots)
      : Linear(slots.front()->out_features(), slots.front()->in_features()), slots_(std::move(slots)) {}

  at::Tensor forward(const at::Tensor& x) override {
    std::vector<Linear*> all;
    for (const Slot* slot : slots_) all.push_back(&slot->linear());
    const int64_t inputs = reads_norm(slots_.front()->role()) ? 1 : std::ssize(slots_);
    return all.front()->forward_beside(all, x.unflatten(0, {inputs, -1})).flatten(0, 1);
  }
  at::Tensor weight() const override { return slots_.front()->linear().weight(); }
  at::Tensor bias() const override { return slots_.front()->linear().bias(); }
  std::vector<State> state() const override { return {}; }  // the replicas' own
  Cost cost() const override { return {}; }

 private:
  std::vector<const Slot*> slots_;
};

// Σ_r gate_r · branch_r / R.
at::Tensor mean(const std::vector<at::Tensor>& branches, const std::vector<Block*>& replicas, Gate& (Block::*gate)()) {
  at::Tensor sum;
  for (size_t r = 0; r < replicas.size(); ++r) {
    const at::Tensor one = (replicas[r]->*gate)().forward(branches[r]);
    sum = r == 0 ? one : sum + one;
  }
  return sum / std::ssize(replicas);
}

}  // namespace

SideBySide::SideBySide(std::vector<Block*> replicas, std::shared_ptr<Block> joint)
    : replicas_(std::move(replicas)), joint_(std::move(joint)), has_experts_(joint_->mixture() != nullptr) {
  std::vector<std::vector<Loadable*>> parts;  // [replica][part]
  for (Block* replica : replicas_) parts.push_back(loadables(*replica));
  const std::vector<Loadable*> joined = loadables(*joint_);
  for (size_t i = 0; i < joined.size(); ++i) {
    joined[i]->share(*parts.front().at(i));
    if (dynamic_cast<const RmsNorm*>(joined[i]) != nullptr) {
      std::vector<const RmsNorm*>& all = norms_.emplace_back();
      for (const auto& of_replica : parts) all.push_back(dynamic_cast<const RmsNorm*>(of_replica.at(i)));
    }
    auto* slot = dynamic_cast<Slot*>(joined[i]);
    if (slot == nullptr || makes_keys(slot->role())) continue;  // those of the first replica
    std::vector<const Slot*>& all = slots_.emplace_back();
    for (const auto& of_replica : parts) all.push_back(dynamic_cast<const Slot*>(of_replica.at(i)));
    slot->put(std::make_shared<Beside>(all));
  }
}

bool SideBySide::joins() const {
  for (const auto& norms : norms_) {
    for (const RmsNorm* norm : norms) {
      if (!norm->weight().is_same(norms.front()->weight())) return false;
    }
  }
  for (const auto& slots : slots_) {
    const std::shared_ptr<Linear>& first = slots.front()->pointer();
    if (first != nullptr && first->reads_once_beside(slots.back()->linear())) return true;
  }
  return false;
}

std::vector<at::Tensor> SideBySide::attention(const at::Tensor& x, const Pass& pass, bool joins) {
  if (joins) return joint_->attention(x, pass).chunk(std::ssize(replicas_), 0);
  KeyValues own;
  Pass first = pass, others = pass;
  if (first.kept == nullptr) first.kept = &own;
  if (others.given == nullptr) others.given = first.kept;
  others.kept = nullptr;
  std::vector<at::Tensor> all;
  for (Block* replica : replicas_) all.push_back(replica->attention(x, all.empty() ? first : others));
  return all;
}

std::vector<at::Tensor> SideBySide::mlp(const at::Tensor& h, const Pass& pass, bool joins) {
  if (joins && !has_experts_) return joint_->mlp(h, pass).chunk(std::ssize(replicas_), 0);
  std::vector<at::Tensor> all;
  for (Block* replica : replicas_) all.push_back(replica->mlp(h, pass));
  return all;
}

at::Tensor SideBySide::forward(const at::Tensor& x, const Pass& pass) {
  const bool joins = this->joins();
  const at::Tensor h = x + mean(attention(x, pass, joins), replicas_, &Block::attention_gate);  // 1. [B, T, D]
  return h + mean(mlp(h, pass, joins), replicas_, &Block::mlp_gate);                            // 2. [B, T, D]
}

}  // namespace core
