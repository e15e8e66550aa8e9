#include "core/walk.h"

#include <ATen/ATen.h>

#include <optional>

#include "core/batches.h"
#include "core/interrupt.h"
#include "core/plan_stream.h"

namespace core {

void ResidentSource::load(Model& model, int64_t block) {
  if (!loaded_.insert(block).second) return;
  core::load(model.block(block), weights_);
}

void load_blocks(Model& model, BlockSource& source) {
  for (int64_t i = 0; i < model.shape().layers; ++i) source.load(model, i);
}

void unload_block(Model& model, int64_t block) {
  for (Block* replica : model.replicas(block)) unload(*replica);
  unload(model.block(block));
}

namespace {

// The outputs of the full-precision block, of every batch.
HiddenStore advanced(Block& block, int64_t step, const HiddenStore& hidden) {
  HiddenStore next(hidden.batches());
  if (hidden.batches() == 0) return next;
  for_each_batch(hidden.batches(), hidden.get(0).numel(),
                 [&](int64_t i) { next.put(i, block.forward(hidden.get(i), {.step = step})); });
  return next;
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
  std::optional<PlanStream> quantized;
  if (streams.quantized != nullptr) quantized.emplace(model, *streams.quantized, streams.spans);
  const auto steps = static_cast<int64_t>(model.plan().size());
  for (int64_t step = 0; step < steps; ++step) {
    honour_interrupt();
    const int64_t index = model.plan()[step].block;
    Block& block = model.block(index);
    const bool first = visited.insert(index).second, work = first && !source.finished(index);
    const bool advances_full = first && streams.full != nullptr;
    if (work || advances_full || !source.finished(index)) source.load(model, index);
    // The full-precision outputs are computed before a stage changes the block; the stages still see its inputs.
    std::optional<HiddenStore> full;
    if (advances_full) {
      at::NoGradGuard no_gradient;
      full = advanced(block, step, *streams.full);
    }
    if (work) {
      const CalibrationText calibration(streams);
      BlockContext context{model, block, index, step, calibration.streams, &streams, full ? &*full : nullptr};
      for (Stage* stage : stages) stage->block(context);
    }
    if (quantized) {
      at::NoGradGuard no_gradient;
      source.load_finished(model, index);
      quantized->advance(step);
    }
    if (full) *streams.full = std::move(*full);
    source.release(model, index);
    if (on_step) on_step(step + 1, steps);
  }
  for (Stage* stage : stages) stage->end(model);
}

}  // namespace core
