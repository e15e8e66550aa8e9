// How quantized linears of the measured model run: their weight decoded for every product, or packed codes multiplied
// by the kernels of quant/kernels.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>

#include "core/walk.h"
#include "experiments/config/spec.h"
#include "experiments/json.h"

namespace experiments {

// A source whose quantized linears are made ready to run packed as soon as they are loaded. Says once which kernel they
// use, and once why others have none.
class PackedSource : public core::BlockSource {
 public:
  PackedSource(std::unique_ptr<core::BlockSource> inner, const RuntimeConfig& config)
      : inner_(std::move(inner)), config_(config) {}

  void load(core::Model& model, int64_t block) override;
  void release(core::Model& model, int64_t block) override { inner_->release(model, block); }
  bool finished(int64_t block) const override { return inner_->finished(block); }
  void load_finished(core::Model& model, int64_t block) override { inner_->load_finished(model, block); }

  void pack(core::Slot& slot);
  // Of results.json: {"linears", "rows", "kernel", "packed", "dense": [{"module", "reason"}]}.
  Json report() const;

 private:
  std::unique_ptr<core::BlockSource> inner_;
  RuntimeConfig config_;
  std::map<std::string, std::string> reasons_;  // by path; "": packed
  std::set<std::string> said_;                  // reasons
  std::string kernel_;
};

}  // namespace experiments
