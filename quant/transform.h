// A transform rewrites a full-precision block so that it computes what it did and loses less when it is quantized:
// input columns of linears are multiplied by factors, and whatever makes the inputs is divided by them
// (quant/stage/fold.h).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/config/keys.h"
#include "core/config/polymorphic.h"
#include "core/model.h"
#include "quant/grids/weight_format.h"

namespace quant {

// One linear, and the grid that it is going to be quantized on; null: it stays in full precision.
struct Consumer {
  core::Slot* slot;
  std::shared_ptr<const WeightFormat> format;
};

// Linears that read the output of one producer, all of them.
struct InputGroup {
  std::vector<Consumer> consumers;
  core::Producer producer;
  // The smallest module around them; null: they are judged by their own outputs. See core::LinearGroup.
  std::function<at::Tensor(const at::Tensor&)> parent;
  Statistics inputs = {};                // what the transform needs
  std::vector<at::Tensor> samples = {};  // [B, T, I] each: inputs of the parent
};

struct Factors {
  at::Tensor values;      // [I] float32 > 0, tied as the producer asks; undefined: the group stays as it is
  std::string note = {};  // what was chosen, for modules.csv
};

// Options are the transform's own keys.
class Transform : public core::Section {
 public:
  void keys(core::Keys&) override {}
  virtual std::string summary() const = 0;  // one line, for --list and the docs
  // What it reads of the inputs of a group; nothing: the group is left alone.
  virtual Needs needs(const InputGroup& group) const = 0;
  virtual int64_t sample_tokens(const InputGroup&) const { return 0; }  // of samples: so many tokens, or all there are
  virtual bool reads_grid() const { return false; }  // whether the factors depend on how weights are quantized
  virtual Factors factors(const InputGroup& group) const = 0;
};

using Transforms = std::map<std::string, core::Polymorphic<Transform>>;

// The transforms by their YAML names, with default options. A new one is a file in transforms/ and a line in
// transform.cpp.
Transforms make_transforms();

struct NamedTransform {
  std::string name;  // as in the YAML file
  std::shared_ptr<const Transform> transform;
};

// One item of `transform`: a map with the name of one.
struct TransformItem : core::Section {
  Transforms choices = make_transforms();

  void keys(core::Keys& k) override;
  void check() const override;
  NamedTransform chosen() const;
};

}  // namespace quant
