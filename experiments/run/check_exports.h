// Whether what `exports` asks for can be written, before a tensor is read.
#pragma once

#include <memory>
#include <vector>

#include "experiments/inputs/model_files.h"
#include "quant/config.h"

namespace experiments {

// Refuses what an exporter of the configuration cannot write, with its reasons. model: the skeleton, which follows the
// plan; assigned: how it is quantized.
void check_exports(const Spec& spec, const ModelFiles& files, const std::shared_ptr<core::Model>& model,
                   const std::vector<quant::Assignment>& assigned);

}  // namespace experiments
