// The parameters that are trained, and the linears that hold them meanwhile.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "core/model.h"
#include "quant/qat/trained_linear.h"

namespace quant {

// One trained tensor. A learning rate of lr moves its values by about lr · unit a step.
struct Leaf {
  std::string name;
  at::Tensor tensor;
  core::Kind kind;
  double unit;
  int64_t stored_bits;  // per value
};

// Puts a TrainedLinear into every slot of `modules` that holds a QuantizedLinear. Codes, unless they are trained, and
// whatever is not of `kinds`, stay as they are. Units: copies of codes CodeTraining::rate; zero points and offsets 1 (a
// step); a factor of a low-rank branch that is 0 the value that changes the weight by its rms; everything else its mean
// magnitude.
class Training {
 public:
  Training(const std::vector<torch::nn::Module*>& modules, const std::set<core::Kind>& kinds,
           const FormatFactory& format_factory, const CodeTraining& codes = {});
  ~Training();  // without finish(): the slots get back what they held
  Training(const Training&) = delete;
  Training& operator=(const Training&) = delete;

  const std::vector<Leaf>& leaves() const { return leaves_; }
  int64_t values() const;         // trained numbers
  int64_t stored_bits() const;    // of these
  int64_t floated_zeros() const;  // linears whose integer zero points became float ones
  TrainingStep& step() { return *step_in_training_; }
  std::string code_hash() const;  // of all codes in the slots

  // The slots get quantized linears with the parameters as they are now; nothing requires gradients any more, and the
  // slots may go before this object does.
  void finish();

 private:
  struct Held {
    std::vector<core::Slot*> slots;  // several when blocks share a linear
    std::shared_ptr<core::Linear> before;
    std::shared_ptr<TrainedLinear> trained;
  };
  void put(const Held& held, const std::shared_ptr<core::Linear>& linear) const;
  std::vector<Held> held_;
  std::vector<Leaf> leaves_;
  bool finished_ = false;
  std::shared_ptr<TrainingStep> step_in_training_ = std::make_shared<TrainingStep>();
};

}  // namespace quant
