// The text of training: non-overlapping windows of a whole corpus, and the end of it, or another corpus, held out.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/model.h"
#include "core/text/windows.h"
#include "experiments/config/spec.h"

namespace experiments {

struct TrainingText {
  core::Windows train;
  std::optional<core::Windows> held_out;

  std::string token_hash() const;  // of both
};

std::string training_corpus(const Spec& spec);  // its name
int64_t training_length(const Spec& spec);      // tokens of a window

// The share at the end of the calibration text that calibration must not see, because training looks at it.
double held_out_of_calibration(const Spec& spec);

// The ids without the last `share` of them.
std::vector<int32_t> beginning_of(const std::vector<int32_t>& ids, double share);

// ids: of the corpus; held_out: of another text to look at, null: the end of the corpus. Errors: a text that is too
// short, a window longer than the model's context.
TrainingText training_text(const Spec& spec, const std::vector<int32_t>& ids, const std::vector<int32_t>* held_out,
                           const core::Shape& shape);

}  // namespace experiments
