// A method decides the codes of a weight. It encodes through a decoder, so that every method works on every grid it
// accepts.
#pragma once

#include <string>
#include <vector>

#include "core/config/keys.h"
#include "core/walk.h"
#include "quant/activation.h"
#include "quant/decoder.h"

namespace quant {

// One linear that is to be quantized.
struct Target {
  core::Slot* slot;
  std::shared_ptr<const Decoder> decoder;
  std::shared_ptr<const InputQuantizer> input;  // of the linear's inputs; null: they stay as they are
};

// Options are the method's own keys, under quant.<name>; they are checked whether or not the method is selected.
class Method : public core::Section {
 public:
  void keys(core::Keys&) override {}
  virtual std::string summary() const = 0;    // one line, for --list and the docs
  virtual Needs needs() const { return {}; }  // the runner adds what the decoder needs
  virtual std::vector<Order> accepts() const {
    return {Order::elementwise};
  }  // other decoders are refused before the run

  // The encoded weights of the block's targets, in their order. The weights themselves stay where they are: the caller
  // puts the result into the slots.
  virtual std::vector<Encoded> quantize(core::BlockContext& context, const std::vector<Target>& targets) const = 0;
};

// A method that looks at one weight at a time.
class LinearMethod : public Method {
 public:
  // w: [O, I] float32 on its device.
  virtual Encoded quantize(const at::Tensor& w, const Decoder& decoder, const Statistics& x) const = 0;
  std::vector<Encoded> quantize(core::BlockContext& context, const std::vector<Target>& targets) const final;
};

}  // namespace quant
