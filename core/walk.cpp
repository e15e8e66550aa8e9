#include "core/walk.h"

#include <ATen/ATen.h>

#include <optional>

#include "core/batches.h"
#include "core/interrupt.h"

namespace core {

void ResidentSource::load(Model& model, int64_t block) {
  if (!loaded_.insert(block).second) return;
  core::load(model.block(block), weights_);
}

namespace {

// Runs every batch through the block; the outputs go to `next`, which may be `hidden` itself: then a batch is held
// twice only while it runs.
void advance(Block& block, const Pass& pass, const HiddenStore& hidden, HiddenStore& next) {
  at::NoGradGuard no_gradient;
  if (hidden.batches() == 0) return;
  for_each_batch(hidden.batches(), hidden.get(0).numel(),
                 [&](int64_t i) { next.put(i, block.forward(hidden.get(i), pass)); });
}

// What the stages see of the streams: all but what is held out.
struct CalibrationText {
  explicit CalibrationText(const Streams& all) {
    if (all.full != nullptr) streams.full = &full.emplace(all.full->first(all.full->batches() - all.held_out));
    if (all.quantized != nullptr)
      streams.quantized = &quantized.emplace(all.quantized->first(all.quantized->batches() - all.held_out));
  }
  std::optional<HiddenStore> full, quantized;
  Streams streams;
};

}  // namespace

void walk(Model& model, BlockSource& source, const std::vector<Stage*>& stages, Streams streams,
          const std::function<void(int64_t, int64_t)>& on_step) {
  for (Stage* stage : stages) stage->begin(model);
  std::set<int64_t> visited;
  const auto steps = static_cast<int64_t>(model.plan.size());
  for (int64_t step = 0; step < steps; ++step) {
    honour_interrupt();
    const int64_t index = model.plan[step].block;
    Block& block = model.block(index);
    const Pass pass{.step = step};
    const bool work = visited.insert(index).second && !source.finished(index);
    if (work || streams.full != nullptr || !source.finished(index)) source.load(model, index);
    // The full-precision outputs are computed before a stage changes the block; the stages still see its inputs.
    std::optional<HiddenStore> full;
    if (streams.full != nullptr) advance(block, pass, *streams.full, full.emplace(streams.full->batches()));
    if (work) {
      const CalibrationText calibration(streams);
      BlockContext context{model, block, index, step, calibration.streams, &streams, full ? &*full : nullptr};
      for (Stage* stage : stages) stage->block(context);
    }
    if (streams.quantized != nullptr) {
      source.load_finished(model, index);
      advance(block, pass, *streams.quantized, *streams.quantized);
    }
    if (full) *streams.full = std::move(*full);
    source.release(model, index);
    if (on_step) on_step(step + 1, steps);
  }
  for (Stage* stage : stages) stage->end(model);
}

}  // namespace core
