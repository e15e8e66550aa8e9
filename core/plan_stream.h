// The hidden states of a text on their way through a model's plan, one step at a time for all of it: with the keys and
// values that a step leaves for later ones.
#pragma once

#include <map>

#include "core/hidden_store.h"
#include "core/model.h"

namespace core {

// Whether some step of the plan runs this block.
bool runs(const Plan& plan, int64_t block);

// Behind the steps that run the same block as this one, one after the other.
int64_t end_of_run(const Plan& plan, int64_t step);

// Whether no block runs again after another one has run.
bool runs_in_one_go(const Plan& plan);

class PlanStream {
 public:
  // hidden: the inputs of the first step; afterwards those of the next one. spans: of every batch, which is then one
  // row; null: rows are sequences. All outlive the stream.
  PlanStream(Model& model, HiddenStore& hidden, const std::vector<Spans>* spans = nullptr)
      : model_(model), hidden_(hidden), spans_(spans) {}

  // Runs a step; every step once, in order. The block is loaded. in_order: batches one after the other, for what looks
  // at them on the way. all_experts: as of Pass.
  void advance(int64_t step, bool in_order = false, bool all_experts = false);

 private:
  struct KeptKeys {  // of one step, of all batches
    HiddenStore k, v;
  };

  Model& model_;
  HiddenStore& hidden_;
  const std::vector<Spans>* spans_;
  std::map<int64_t, KeptKeys> kept_;
};

}  // namespace core
