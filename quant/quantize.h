// The stage that puts quantized linears into the slots, block by block, and keeps a report of each.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/walk.h"
#include "quant/config.h"
#include "quant/statistics_store.h"

namespace quant {

class QuantizedLinear;

WeightShape weight_shape(const at::Tensor& w);  // w: [O, I]

// One row of modules.csv.
struct ModuleReport {
  std::string path, method;
  int64_t out_features, in_features, bits, groups;  // groups: of the whole weight
  double weight_error;                              // Σ (w − ŵ)² / Σ w²
  std::optional<double> output_error;  // tr(ΔHΔᵀ) / tr(WHWᵀ) with Δ = W − Ŵ; where the Hessian is known
  WeightShape weight;
  std::optional<WeightShape> input;  // where statistics of the inputs are known
  double seconds;
  std::string fallback;  // why it was rounded to nearest instead; empty: it was not
  std::string note;      // of the method
};

// How the inputs of linears are measured.
struct Calibration {
  static constexpr int64_t kHessianBytes = 500'000'000;

  bool propagate_error = true;            // as the blocks before, quantized, leave them; false: in full precision
  StatisticsStore* store = nullptr;       // of statistics in full precision; null: nothing is kept
  int64_t hessian_bytes = kHessianBytes;  // of Hessians at a time: beyond it fewer groups of linears, but at least one
};

class Quantize : public core::Stage {
 public:
  static constexpr int kVersion = 2;  // bumped by hand when codes or parameters change

  // With statistics to collect, the walk must carry the stream that `calibration` reads.
  Quantize(std::shared_ptr<const Method> method, std::string method_name, std::vector<Assignment> assignments,
           const Calibration& calibration = {});

  std::string name() const override { return "quantize"; }
  int version() const override { return kVersion; }
  void block(core::BlockContext& context) override;
  // Whether statistics must be measured: false when there are none to collect, or all are in the store.
  bool reads_stream(core::Model& model) const;
  std::string record() const override;  // the reports of the last block
  void restore(const std::string& record) override;

  const std::vector<ModuleReport>& reports() const { return reports_; }

 private:
  // Linears with one input.
  struct Group {
    std::string name;  // of its statistics: the first linear, and how inputs are quantized
    std::vector<Target> targets;
    Needs needs;

    void set(const Statistics& inputs) {
      for (Target& target : targets) target.inputs = inputs;
    }
  };
  std::vector<Group> groups_of(core::Block& block) const;
  std::vector<std::vector<Group>> rounds_of(core::Block& block) const;
  void measure(core::BlockContext& context, std::vector<Group>& round) const;
  ModuleReport report(const Target& target, const Quantized& result, const QuantizedLinear& linear,
                      double seconds) const;

  std::shared_ptr<const Method> method_;
  std::string method_name_;
  std::vector<Assignment> assignments_;
  Calibration calibration_;
  std::vector<ModuleReport> reports_;
  size_t before_block_ = 0;  // reports of earlier blocks
};

}  // namespace quant
