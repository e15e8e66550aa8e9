// What the tests of experiments/ share: a directory with a configuration for the tiny model and a short text, in which
// points are read and run as the program does it, and copies of the model that can be damaged.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "experiments/measure/perplexity.h"
#include "experiments/run/runner.h"
#include "tests/io/support.h"

namespace experiments {

using Strings = std::vector<std::string>;

inline const std::string kTinyModel = std::string(REFRAIN_SOURCE_DIR) + "/data/tiny-qwen3";

// A model with the first three of the six blocks of the tiny one, for tests that show that something changes, whatever
// the model knows. One directory for all labs, so that they give a run the same id.
const std::string& shallow_model();

// Results of the lab go to <lab>/runs. Overrides are assignments as on the command line.
class Lab {
 public:
  explicit Lab(const std::string& model = "tiny-qwen3");

  std::string file(const std::string& name) const { return scratch_.file(name); }
  std::string put(const std::string& name, const std::string& content) const { return scratch_.put(name, content); }
  std::string out() const { return file("runs"); }
  Strings listing() const { return scratch_.listing(); }

  // A copy of the tiny model, to be changed; its path.
  std::string copy_of_model(const std::string& name = "copy") const;

  std::vector<Point> points(const Strings& overrides = {}) const;
  // Checks and runs all points as a new process would.
  Outcome run(const Strings& overrides = {}, bool force = false) const;
  Json row(const Strings& overrides = {}, bool force = false) const { return run(overrides, force).rows.at(0).json(); }
  // The mean negative log likelihood of the first measurement of the quantized model.
  double nll(const Strings& overrides = {}) const { return nll_of(row(overrides)); }
  std::string id(const Strings& overrides = {}) const;
  std::string directory(const Json& row) const { return out() + "/lab/" + row["id"].get<std::string>(); }

  static double nll_of(const Json& row) { return row["quantized"]["perplexity"][0]["nll"]; }

 private:
  core::Scratch scratch_;
};

// The first perplexity that is asked for, and the windows of any.
const PerplexityConfig& first_perplexity(const Spec& spec);
core::Windows windows_of(const PerplexityConfig& config, Resources& resources, const ModelFiles& files,
                         const core::Shape& shape);

// The mean loss of the first perplexity that `spec` asks for of its full-precision model, by plain loops. logits_of:
// the logits that predict ids[1 …] of a window of T ids, [T, V] or more rows of which the first T count.
double loss_by_hand(const Spec& spec,
                    const std::function<at::Tensor(core::Model&, const std::vector<int64_t>& ids)>& logits_of);

// A bfloat16 matrix in the blocks of GGUF's Q8_0: the largest weight of 32 is 127 steps.
std::string as_q8_0(const core::TensorView& view);

// A row without what two runs of the same thing need not share: seconds, memory, and whether the cache was used.
Json without_costs(Json row);

// Overwrites bytes of one tensor of <directory>/model.safetensors, from its first element on.
void overwrite_tensor(const std::string& directory, const std::string& tensor, const std::string& bytes);

}  // namespace experiments
