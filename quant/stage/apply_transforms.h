// The stage that rewrites blocks before they are quantized, by the transforms of the configuration in their order.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/walk.h"
#include "quant/config.h"
#include "quant/transform.h"

namespace quant {

// Those of the file, then the one that belongs to the method.
std::vector<NamedTransform> transforms_of(const std::vector<TransformItem>& items, const QuantConfig& config);

class ApplyTransforms : public core::Stage {
 public:
  static constexpr int kVersion = 2;  // bumped by hand, together with Quantize::kVersion, when factors change

  // The walk must carry the stream of calibration text: with propagate_error the quantized one, else the full one.
  ApplyTransforms(std::vector<NamedTransform> transforms, std::vector<Assignment> assignments, bool propagate_error)
      : transforms_(std::move(transforms)), assignments_(std::move(assignments)), propagate_error_(propagate_error) {}

  std::string name() const override { return "transform"; }
  int version() const override { return kVersion; }
  void block(core::BlockContext& context) override;
  std::string record() const override;  // the notes of the last block
  void restore(const std::string& record) override;

  // What was done to a linear, by its path: "awq alpha 0.55".
  const std::map<std::string, std::string>& notes() const { return notes_; }

 private:
  std::vector<InputGroup> groups_of(core::Block& block) const;
  void measure(core::BlockContext& context, const Transform& transform, std::vector<InputGroup>& groups) const;

  std::vector<NamedTransform> transforms_;
  std::vector<Assignment> assignments_;
  bool propagate_error_;
  std::map<std::string, std::string> notes_, of_block_;
};

}  // namespace quant
