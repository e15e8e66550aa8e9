// What the plain grid does to the output of every linear on full-precision inputs: by this `replication.select` ranks
// its units.
#pragma once

#include <map>
#include <string>

#include "experiments/inputs.h"

namespace experiments {

inline constexpr int kSensitivityVersion = 1;  // bumped by hand when the numbers change

// By path of the linear. One walk over the calibration text with the method that the spec names; from the cache when it
// was measured before.
std::map<std::string, replication::OutputError> sensitivity(const Spec& spec, Inputs& inputs, const ModelFiles& files,
                                                            const core::Windows& text);

// sensitivity.csv: every unit that can be selected, most sensitive first, and whether it is.
std::string sensitivity_csv(const replication::Selection& select, core::Model& model,
                            const std::map<std::string, replication::OutputError>& errors, uint64_t seed);

}  // namespace experiments
