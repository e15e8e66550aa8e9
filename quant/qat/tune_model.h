// Training end to end: all blocks of a quantized model together, for what comes out of its head.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/hidden_store.h"
#include "core/model.h"
#include "quant/qat/config.h"
#include "quant/qat/head_loss.h"
#include "quant/qat/optimize.h"

namespace quant {

// Windows of token ids with what the full-precision model makes of them.
struct TeacherText {
  at::Tensor ids;                                    // [N, T] int64
  std::function<at::Tensor(int64_t window)> taught;  // [T, D], behind the last block; empty for ce
};

struct ModelTrainingData {
  TeacherText text, held_out;  // held_out.ids undefined: none
  Teacher teacher;
};

// model: its blocks and ends loaded; `training` is of its parameters.
Trained tune_model(const QatConfig& config, core::Model& model, Training& training, const ModelTrainingData& data,
                   uint64_t seed, const Progress& progress);

// Everything of a model that can be trained: all but embedding and head.
std::vector<torch::nn::Module*> trainable_modules(core::Model& model);

}  // namespace quant
