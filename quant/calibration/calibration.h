// Collecting statistics of the inputs of linears on calibration text: the block runs over all batches with a
// RecordingLinear in the slots of interest. Batches come one after the other, so that sums have one order whatever the
// threads do.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "core/hidden_store.h"
#include "core/model.h"
#include "core/walk.h"
#include "quant/grids/activation.h"
#include "quant/grids/statistics.h"
#include "quant/linear/rotation.h"

namespace quant {

// The calibration text at the block: with propagate_error as the quantized blocks before leave it, else in full
// precision. TORCH_CHECKs that the walk carries it.
const core::HiddenStore& calibration_stream(const core::BlockContext& context, bool propagate_error);

// A slot whose inputs are wanted. Of linears that share an input one is enough.
struct Tap {
  core::Slot* slot;
  Needs needs;
  std::shared_ptr<const InputQuantizer> input = {};  // what the linear's inputs pass through before they are measured
  core::RecordingLinear::Tap watch = {};             // sees every input too, as it is before that
  std::shared_ptr<const Rotation> rotation = {};     // of the inputs, before they pass through `input`
};

// Runs the block over `inputs` (its hidden states, batches of [B, T, D]) and returns the statistics at each tap. The
// slots hold afterwards what they held before, also after an exception. The Hessian is the running mean
// H ← H n/(n+m) + XᵀX / (n+m) over batches of m tokens, in float32.
std::vector<Statistics> collect(core::Block& block, const core::Pass& pass, const core::HiddenStore& inputs,
                                const std::vector<Tap>& taps);

// A block of the full-precision model beside one that is being quantized.
struct FullPrecision {
  const core::HiddenStore& inputs;                                      // of the same batches
  const std::map<core::Slot*, std::shared_ptr<core::Linear>>& linears;  // what the slots of the block held at first
};

// The same, and how the inputs differ from those of the full-precision model (Needs::cross): both run over each batch,
// of which nothing is kept. Experts see the same tokens in both: those that the router of the quantized one sends them.
std::vector<Statistics> collect_beside(core::Block& block, const core::Pass& pass, const core::HiddenStore& inputs,
                                       const FullPrecision& full, const std::vector<Tap>& taps);

// The same as `collect` for the distribution of the inputs, as they are before they are quantized. histograms: an empty
// one per slot.
void collect(core::Block& block, const core::Pass& pass, const core::HiddenStore& inputs,
             const std::vector<core::Slot*>& slots, std::vector<InputHistogram>& histograms);

// The running means of one linear's inputs.
class Accumulator {
 public:
  explicit Accumulator(const Needs& needs) : needs_(needs) {}
  // x: [..., I], any float dtype. full: the same of the full-precision model, where `cross` is asked for.
  void add(const at::Tensor& x, const at::Tensor& full = {});
  Statistics result() const;

 private:
  Needs needs_;
  Statistics sums_;
  double powers_[4] = {};  // Σ x, Σ x², Σ x³, Σ x⁴ over all values
};

}  // namespace quant
