// Shared codes across adjacent blocks (S8): the first of `span` neighbours is coded with span × bits, so that memory
// stays what it was; the others decode the same codes with scales, zero points and norms of their own.
//
// The codes are made of the first block's weights on its inputs, or (from: mean) of the mean of all members' weights
// with the sum of their Hessians: those of the followers, which no quantized block has been run for by then, are taken
// from the full-precision model. With init: fit the leader too then fits its scales and zero points to its own weights.
#include <algorithm>

#include "core/error.h"
#include "quant/grids/affine.h"
#include "quant/grids/make_format.h"
#include "replication/affine_fit.h"
#include "replication/strategy.h"

namespace replication {

namespace {

// Scales and zero points of a linear's own for codes that it shares: least squares to its own weights.
class OwnFit : public quant::Refinement {
 public:
  explicit OwnFit(std::shared_ptr<const quant::WeightFormat> format) : format_(std::move(format)) {}

  quant::Needs needs() const override { return {.mean_square = true}; }
  const std::shared_ptr<const quant::WeightFormat>& format() const override { return format_; }
  quant::Refined refine(const at::Tensor& w, quant::Encoded encoded, const quant::Statistics& x) const override {
    const auto& grid = dynamic_cast<const quant::AffineGrid&>(*format_);
    return {{encoded.codes, fitted(grid, encoded.codes, w, column_weights(w, x))}};
  }

 private:
  std::shared_ptr<const quant::WeightFormat> format_;
};

struct Adjacent : BlockStrategy {
  int64_t span = 2;
  std::string init = "fit", from = "first";

  std::string summary() const override { return "neighbouring blocks share the codes of the first"; }
  void keys(core::Keys& k) override {
    k.key("span", span, "neighbouring blocks that share codes, of span × weight.bits bits", {2, 8});
    k.key(
        "init", init,
        "scales and zero points of the blocks that follow; leader: those of the block whose codes they use; fit: least "
        "squares to their own weights",
        {"fit", "leader"});
    k.key("from", from,
          "what the codes are made of; first: the weights of the first block, on its inputs; mean: the mean of the "
          "weights of all, with the sum of the statistics of their inputs, those of the blocks that follow in full "
          "precision",
          {"first", "mean"})
        .only_if_given();
  }

  bool selects() const override { return false; }
  core::Plan plan(const core::Shape& shape, const std::set<int64_t>& /*chosen*/) const override {
    core::require(shape.layers % span == 0, "{}: {} blocks are no whole number of groups of {}. Choose a divisor.",
                  where("span"), shape.layers, span);
    return core::default_plan(shape.layers);
  }

  bool has_followers() const override { return true; }
  core::Plan without_followers(const core::Shape& shape) const override {
    core::Plan leaders = plan(shape, {});
    std::erase_if(leaders, [&](const core::Step& step) { return step.block % span != 0; });
    return leaders;
  }
  bool looks_ahead() const override { return from == "mean"; }
  std::vector<quant::FurtherInput> further_inputs(const core::Slot& slot, const core::Plan& plan) const override {
    std::vector<quant::FurtherInput> all;
    for (const int64_t block : blocks_in_mean(slot)) {
      const auto runs = [&](const core::Step& step) { return step.block == block; };
      const auto step = std::find_if(plan.begin(), plan.end(), runs);
      if (step != plan.end()) all.push_back({core::path_in(slot, block), step - plan.begin()});
    }
    return all;
  }

  quant::Coding coding(const core::Slot& slot, const quant::WeightConfig& weight, uint64_t seed) const override {
    std::vector<std::string> mean_with;
    for (const int64_t block : blocks_in_mean(slot)) mean_with.push_back(core::path_in(slot, block));
    const auto format = wide_format(slot, weight, seed);
    // The codes come with the parameters of the block that made them.
    const bool has_made_them = leads(slot) && mean_with.empty();
    return {.format = format,
            .refinement = init == "fit" && !has_made_them ? std::make_shared<OwnFit>(format) : nullptr,
            .codes_of = leads(slot) ? "" : core::path_in(slot, slot.block() - slot.block() % span),
            .mean_with = std::move(mean_with)};
  }

 private:
  bool leads(const core::Slot& slot) const { return slot.block() % span == 0; }
  // Blocks whose weights count for the codes beside those of the linear itself.
  std::vector<int64_t> blocks_in_mean(const core::Slot& slot) const {
    std::vector<int64_t> blocks;
    for (int64_t i = 1; from == "mean" && leads(slot) && i < span; ++i) blocks.push_back(slot.block() + i);
    return blocks;
  }
  std::shared_ptr<const quant::WeightFormat> wide_format(const core::Slot& slot, const quant::WeightConfig& weight,
                                                         uint64_t seed) const {
    core::require(
        weight.codebook == "uniform" && weight.scale_bits == 0 && weight.group_size != 0 && !weight.stores_minimum(),
        "{}: adjacent shares the codes of affine grids with one level of scales. Use codebook: uniform, "
        "scale_bits: 0, a group_size other than 0 and zero_point: int or float.",
        slot.path());
    core::require(weight.bits * span <= 8, "{}: {} blocks of {} bits would share codes of {} bits. 8 is the most.",
                  slot.path(), span, weight.bits, weight.bits * span);
    quant::WeightConfig wide = weight;
    wide.bits = weight.bits * span;
    return quant::make_format(wide, slot.path(), slot.in_features(), seed);
  }
};

}  // namespace

core::Polymorphic<Strategy> make_adjacent() { return Adjacent{}; }

}  // namespace replication
