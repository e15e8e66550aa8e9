// The calibration text as windows of token ids, and as the inputs of the first block.
#pragma once

#include <vector>

#include "core/hidden_store.h"
#include "core/model.h"
#include "core/text/windows.h"
#include "experiments/config/calibration.h"

namespace experiments {

// The windows of a text of token ids: `random` starts each at a place that the seed draws, `sequential` takes the first
// ones that do not overlap, so that others can be given the same tokens. No BOS is added. Errors: the text is too
// short, a token beyond the embedding, a window longer than the model's context.
core::Windows calibration_windows(const CalibrationConfig& config, const std::vector<int32_t>& ids,
                                  const core::Shape& shape, uint64_t seed);

// Batches into which so many windows of T tokens go.
int64_t batch_count(int64_t windows, int64_t T, int64_t batch_tokens);

// The inputs of the first block of all these texts, one after the other, in batches of `batch_tokens` tokens (at least
// one window).
core::HiddenStore embedded(core::Model& model, const std::vector<const core::Windows*>& texts, int64_t batch_tokens);
core::HiddenStore embedded(core::Model& model, const core::Windows& windows, int64_t batch_tokens);

}  // namespace experiments
