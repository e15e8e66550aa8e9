#include "core/plan_stream.h"

#include <algorithm>
#include <set>

#include "core/batches.h"

namespace core {

bool runs(const Plan& plan, int64_t block) {
  return std::any_of(plan.begin(), plan.end(), [&](const Step& step) { return step.block == block; });
}

int64_t end_of_run(const Plan& plan, int64_t step) {
  int64_t end = step;
  while (end < static_cast<int64_t>(plan.size()) && plan[end].block == plan[step].block) ++end;
  return end;
}

bool runs_in_one_go(const Plan& plan) {
  std::set<int64_t> seen;
  for (int64_t step = 0; step < static_cast<int64_t>(plan.size()); step = end_of_run(plan, step)) {
    if (!seen.insert(plan[step].block).second) return false;
  }
  return true;
}

void PlanStream::advance(int64_t step, bool in_order, bool all_experts) {
  const Plan& plan = model_.plan();
  const int64_t batches = hidden_.batches();
  if (batches == 0) return;
  const auto given = kept_.find(plan[step].kv);
  KeptKeys* kept = nullptr;
  if (last_reader(plan, step) > step)
    kept = &kept_.emplace(step, KeptKeys{HiddenStore(batches), HiddenStore(batches)}).first->second;
  const auto run = [&](int64_t i) {
    KeyValues in, out;
    if (given != kept_.end()) in = {given->second.k.get(i), given->second.v.get(i)};
    const Pass pass{.step = step,
                    .spans = spans_ != nullptr ? &spans_->at(i) : nullptr,
                    .given = in.k.defined() ? &in : nullptr,
                    .kept = kept != nullptr ? &out : nullptr,
                    .all_experts = all_experts};
    hidden_.put(i, model_.run(plan[step], hidden_.get(i), pass));
    if (kept == nullptr) return;
    kept->k.put(i, out.k);
    kept->v.put(i, out.v);
  };
  if (in_order) {
    for (int64_t i = 0; i < batches; ++i) run(i);
  } else {
    for_each_batch(batches, hidden_.get(0).numel(), run);
  }
  if (given != kept_.end() && last_reader(plan, given->first) == step) kept_.erase(given);
}

}  // namespace core
