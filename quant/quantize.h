// The stage that puts quantized linears into the slots, block by block, and keeps a report of each.
#pragma once

#include <string>
#include <vector>

#include "core/walk.h"
#include "quant/config.h"

namespace quant {

// Shape of a distribution of weights. Over a matrix [O, I]:
struct WeightShape {
  double absmax = 0;           // max |w|
  double kurtosis = 0;         // E[(w − mean)⁴] / variance²; 3 for a normal distribution
  double outlier_columns = 0;  // share of input columns whose rms exceeds 3 × the median column rms
};
WeightShape weight_shape(const at::Tensor& w);  // w: [O, I]

// One row of modules.csv.
struct ModuleReport {
  std::string path, method;
  int64_t out_features, in_features, bits, groups;  // groups: of the whole weight
  double weight_error;                              // Σ (w − ŵ)² / Σ w²
  WeightShape weight;
  double seconds;
  std::string fallback;  // why another method was used; empty: it was not
};

class Quantize : public core::Stage {
 public:
  static constexpr int kVersion = 1;  // bumped by hand when codes or parameters change

  Quantize(std::shared_ptr<const Method> method, std::string method_name, std::vector<Assignment> assignments);

  std::string name() const override { return "quantize"; }
  int version() const override { return kVersion; }
  void block(core::BlockContext& context) override;
  std::string record() const override;  // the reports of the last block
  void restore(const std::string& record) override;

  const std::vector<ModuleReport>& reports() const { return reports_; }

 private:
  std::shared_ptr<const Method> method_;
  std::string method_name_;
  std::vector<Assignment> assignments_;
  std::vector<ModuleReport> reports_;
  size_t before_block_ = 0;  // reports of earlier blocks
};

}  // namespace quant
