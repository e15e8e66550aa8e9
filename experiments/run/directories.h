// Where a run keeps what it works on, below its directory.
#pragma once

#include <string>

namespace experiments {

// The finished model.
inline std::string checkpoint_directory(const std::string& run) { return run + "/checkpoint"; }
// The quantized model until it is trained end to end.
inline std::string untrained_directory(const std::string& run) { return run + "/untrained"; }
// How the run was begun, and its finished blocks (experiments/run/resume.h).
inline std::string progress_directory(const std::string& run) { return run + "/progress"; }

}  // namespace experiments
