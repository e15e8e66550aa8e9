// The stage that puts quantized linears into the slots, block by block, and keeps a report of each.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/walk.h"
#include "quant/calibration/corrected_target.h"
#include "quant/calibration/statistics_store.h"
#include "quant/config.h"

namespace quant {

class QuantizedLinear;

WeightShape weight_shape(const at::Tensor& w);  // w: [O, I]

// One row of modules.csv.
struct ModuleReport {
  std::string path, method;                         // method: none for a weight in full precision with quantized inputs
  int64_t out_features, in_features, bits, groups;  // groups: of the whole weight
  double weight_error;                              // Σ (w − ŵ)² / Σ w²
  std::optional<double> output_error;   // tr(ΔHΔᵀ) / tr(WHWᵀ) with Δ = W − Ŵ; where the Hessian is known
  std::optional<double> output_energy;  // tr(WHWᵀ), likewise
  std::optional<int64_t> tokens;        // of the calibration text that reached it, where its inputs were measured
  WeightShape weight;
  std::optional<WeightShape> input;  // where statistics of the inputs are known
  double seconds;
  std::string fallback;          // why it was rounded to nearest instead; empty: it was not
  std::string note;              // of the method
  int64_t imprecise_scales = 0;  // too small for their dtype (quant/grids/scale_format.h)
};

// Codes and parameters of a linear of a finished block, by its path.
using EncodedOf = std::function<Encoded(const std::string& path)>;

// The weight of a linear of the full-precision model, [O, I], also of a block that is not loaded.
using WeightOf = std::function<at::Tensor(const std::string& path)>;

// How the inputs of linears are measured.
struct Calibration {
  static constexpr int64_t kHessianBytes = 500'000'000;

  bool propagate_error = true;            // as the blocks before, quantized, leave them; false: in full precision
  bool true_sequential = false;           // a group of linears behind the earlier ones of its block, quantized
  StatisticsStore* store = nullptr;       // of statistics in full precision; null: nothing is kept
  StatisticsStore* further = nullptr;     // of inputs in further steps; needed where an assignment names some
  bool all_experts = false;               // experts are shown all tokens
  int64_t tokens = 0;                     // of the text
  double min_token_fraction = 0;          // of them; linears that see fewer fall back
  bool pool = false;                      // onto what those of their pool see together, instead of rounding to nearest
  int64_t hessian_bytes = kHessianBytes;  // of matrices at a time: beyond it fewer groups of linears, but at least one
  Correction correction = {};             // of the targets of assignments that need `cross`
};

class Quantize : public core::Stage {
 public:
  static constexpr int kVersion = 8;  // bumped by hand when codes or parameters change

  // With statistics to collect, the walk must carry the stream that `calibration` reads. encoded_of: where an
  // assignment takes the codes of another linear. weight_of: where it codes a mean.
  Quantize(std::shared_ptr<const Method> method, std::string method_name, std::vector<Assignment> assignments,
           const Calibration& calibration = {}, EncodedOf encoded_of = {}, WeightOf weight_of = {});

  std::string name() const override { return "quantize"; }
  int version() const override { return kVersion; }
  void block(core::BlockContext& context) override;
  // Quantizes embedding and head where rules name them, rounding to nearest whatever the method. They must be loaded;
  // a tied pair of equal settings shares one set of codes, another pair is untied. Before the walk: the inputs of the
  // first block are then those of the quantized embedding.
  void quantize_embedding_and_head(core::Model& model);
  // Whether the walk must carry inputs: false when the method does not run the block and there is nothing to measure,
  // or all statistics are in the store.
  bool reads_stream(core::Model& model) const;
  // Whether it must carry the full-precision stream, be it beside the quantized one.
  bool reads_full_stream() const {
    return !calibration_.propagate_error || method_->reads_full_inputs() || corrects_targets();
  }
  // Statistics of further inputs (quant/stage/further_inputs.cpp), before the walk; those in the store are not measured
  // again. Whether there are any to measure:
  bool wants_further(core::Model& model) const;
  // The model in full precision runs through its plan. hidden: the inputs of its first step, used up.
  void measure_further(core::Model& model, core::BlockSource& source, core::HiddenStore& hidden,
                       const std::function<void(int64_t, int64_t)>& on_step = {}) const;
  std::string record() const override;  // the reports of the last block
  void restore(const std::string& record) override;

  const std::vector<ModuleReport>& reports() const { return reports_; }

 private:
  // Linears with one input.
  struct Group {
    std::string name;  // of its statistics: the first linear, and how inputs are quantized
    std::string pool;  // as of core::LinearGroup
    std::vector<Target> targets;
    Needs needs;
    std::vector<FurtherInput> further;  // paths: of linears that correspond to the first one

    bool is_static() const { return targets.front().input != nullptr && targets.front().input->config().is_static(); }
    void set(const Statistics& inputs) {
      for (Target& target : targets) target.set(inputs);
    }
  };
  using Linears = std::map<core::Slot*, std::shared_ptr<core::Linear>>;
  bool corrects_targets() const;  // of some linear
  std::vector<Group> groups_of(core::Block& block) const;
  std::vector<std::vector<Group>> rounds_of(core::Block& block) const;
  std::vector<Quantized> coded(core::BlockContext& context, std::vector<Target>& targets) const;
  std::vector<Quantized> encoded(core::BlockContext& context, const std::vector<Target>& targets) const;
  void calibrate_inputs(core::BlockContext& context, std::vector<Group>& round) const;
  void measure(core::BlockContext& context, std::vector<Group>& round, const Linears& originals) const;
  void add_further(std::vector<Group>& round) const;
  // What the pools of a block have seen so far, and the linears that wait for it.
  struct Pools {
    std::map<std::string, Statistics> seen;
    std::vector<Group> waiting;
  };
  void fall_back(std::vector<Group>& round, Pools& pools) const;
  static std::vector<Group> pooled(Pools& pools);
  std::vector<std::vector<Target>> portions_of(std::vector<Group> round) const;
  using Finished = std::vector<std::pair<core::Slot*, std::shared_ptr<core::Linear>>>;
  void finish(core::BlockContext& context, std::vector<Target>& targets, double measuring, Finished& finished);
  const core::HiddenStore& stream(core::BlockContext& context, const Group& first) const;
  const Assignment* assigned(const core::Slot& slot) const;  // null: nothing is done to it
  std::shared_ptr<core::Linear> encode_end(core::Slot& slot, const Assignment& assignment, const std::string& note);
  ModuleReport report(const Target& target, const Quantized& result, const core::Linear& linear, double seconds) const;

  std::shared_ptr<const Method> method_;
  std::string method_name_;
  std::vector<Assignment> assignments_;
  Calibration calibration_;
  EncodedOf encoded_of_;
  WeightOf weight_of_;
  std::vector<ModuleReport> reports_;
  size_t before_block_ = 0;  // reports of earlier blocks
};

}  // namespace quant
