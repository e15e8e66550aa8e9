// A method decides the codes of a weight. It encodes through a format, so that every method works on every grid it
// accepts.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/config/keys.h"
#include "core/config/polymorphic.h"
#include "core/walk.h"
#include "quant/grids/activation.h"
#include "quant/grids/weight_format.h"
#include "quant/linear/rotation.h"

namespace quant {

class Transform;

// One linear that is to be quantized.
struct Target {
  core::Slot* slot;
  std::shared_ptr<const WeightFormat> format;
  std::shared_ptr<const InputQuantizer> input;        // of the linear's inputs; null: they stay as they are
  std::shared_ptr<const Refinement> refinement = {};  // of what the method makes of it; null: none
  std::string codes_of = {};                      // path of the linear whose codes it takes; methods see no such target
  std::vector<std::string> mean_with = {};        // as of Coding; methods see the mean in the slot
  int64_t descent = 0;                            // rounds, after the method (quant/columns/descent.h)
  std::shared_ptr<const Rotation> rotation = {};  // of what is coded; methods see the rotated weight in the slot
  std::string note = {};                          // what modules.csv says of its inputs
  std::string fallback = {};                      // why it is rounded to nearest; methods see no such target either
  Statistics inputs = {};  // what the method and the format need; tensors are shared by linears that share an input
  at::Tensor mean_square = {};  // as of Assignment

  void set(const Statistics& measured) {
    inputs = measured;
    if (mean_square.defined()) inputs.mean_square = mean_square;
  }
};

// What became of it.
struct Quantized {
  Encoded encoded;
  std::string fallback = {};  // why it was rounded to nearest instead; empty: it was not
  std::string note = {};      // what else a reader of modules.csv should know, e.g. "damp 0.1"
};

// Codes of a linear that a method does not choose but finds.
struct BroughtCodes {
  std::string place;  // equal for linears that share them
  WeightConfig grid;
};

// Options are the method's own keys, under quant.<name>; they are checked whether or not the method is selected.
class Method : public core::Section {
 public:
  void keys(core::Keys&) override {}
  virtual std::string summary() const = 0;    // one line, for --list and the docs
  virtual Needs needs() const { return {}; }  // the runner adds what the format needs
  // Whether it spreads the error of a column over later ones by the Hessian.
  virtual bool feeds_errors_back() const { return false; }
  virtual std::vector<Order> accepts() const {
    return {Order::elementwise};
  }  // other formats are refused before the run
  // Why this format, of an accepted order, does not do for a weight of this size, and what to do; empty: it does.
  virtual std::string refuses(const WeightFormat&, int64_t /*out_features*/, int64_t /*in_features*/) const {
    return {};
  }
  // Whether it runs the block on its inputs: the walk then carries them, context.inputs.quantized, or full with
  // propagate_error: false.
  virtual bool reads_inputs() const { return false; }
  // Whether it wants context.inputs.full beside them.
  virtual bool reads_full_inputs() const { return false; }

  // Whether it has codes already, with a grid for each linear: quant.weight is then not read.
  virtual bool brings_codes() const { return false; }
  // Those only: the codes of a linear, embedding and head included; none: it stays in full precision. Needs no tensor.
  virtual std::optional<BroughtCodes> brought(const core::Slot&) const { return {}; }
  virtual Encoded encoded(const core::Slot& slot, const WeightFormat& format) const;
  virtual std::vector<std::string> files() const { return {}; }  // whose contents decide the codes
  // Whether it runs without any of its keys given. False: its section is written only where it was.
  virtual bool has_defaults() const { return true; }

  // A rewrite of the model that belongs to the method, after those of `transform`; null: none.
  virtual std::shared_ptr<const Transform> transform() const { return {}; }

  // The encoded weights of the targets, in their order: all of a block where the method runs it, else linears that
  // share an input. The weights themselves stay where they are: the caller puts the result into the slots.
  virtual std::vector<Quantized> quantize(core::BlockContext& context, const std::vector<Target>& targets) const = 0;
};

// The closest codes under the format's own parameters: the method rtn, and what other methods fall back to.
inline Encoded round_to_nearest(const at::Tensor& w, const WeightFormat& format, const Statistics& x) {
  return format.encode(w, format.fit(w, x));  // codes: [O, I]; parameters: [O, G]
}

// Calls work() so that a mistake it reports begins with the module's path.
Quantized named(const std::string& path, const std::function<Quantized()>& work);

// A method that looks at one weight at a time.
class LinearMethod : public Method {
 public:
  // w: [O, I] float32 on its device.
  virtual Encoded quantize(const at::Tensor& w, const WeightFormat& format, const Statistics& x) const = 0;
  std::vector<Quantized> quantize(core::BlockContext& context, const std::vector<Target>& targets) const final;
};

}  // namespace quant
