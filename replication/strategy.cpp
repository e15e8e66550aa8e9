#include "replication/strategy.h"

#include "replication/unread.h"

namespace replication {

namespace {

// A strategy's refine, with the formats of one linear.
class StrategyRefinement : public quant::Refinement {
 public:
  StrategyRefinement(std::shared_ptr<const LinearStrategy> strategy,
                     std::shared_ptr<const quant::WeightFormat> initial_format,
                     std::shared_ptr<const quant::WeightFormat> format)
      : strategy_(std::move(strategy)), initial_format_(std::move(initial_format)), format_(std::move(format)) {}

  quant::Needs needs() const override { return strategy_->needs(); }
  const std::shared_ptr<const quant::WeightFormat>& format() const override { return format_; }
  quant::Refined refine(const at::Tensor& w, quant::Encoded encoded, const quant::Statistics& x) const override {
    return strategy_->refine(w, std::move(encoded), x, *initial_format_, *format_);
  }

 private:
  std::shared_ptr<const LinearStrategy> strategy_;
  std::shared_ptr<const quant::WeightFormat> initial_format_, format_;
};

}  // namespace

quant::Coding coding_by(const std::string& name, const std::shared_ptr<const Strategy>& strategy,
                        const core::Slot& slot, const quant::WeightConfig& given, uint64_t seed) {
  const quant::WeightConfig weight = without(given, strategy->unread());
  if (const auto* of_blocks = dynamic_cast<const BlockStrategy*>(strategy.get()))
    return of_blocks->coding(slot, weight, seed);
  const auto linear = std::dynamic_pointer_cast<const LinearStrategy>(strategy);
  TORCH_CHECK(linear != nullptr, name, " is a strategy neither of linears nor of blocks");
  const quant::Place place{slot.path(), seed};
  const Shape shape{slot.out_features(), slot.in_features()};
  auto initial_format = linear->initial_format(weight, place, shape);
  auto format = linear->format(weight, place, shape);
  return {.format = initial_format ? initial_format : format,
          .refinement = initial_format ? std::make_shared<StrategyRefinement>(linear, initial_format, format) : nullptr,
          .inputs = linear->inputs()};
}

core::Node description(const std::string& name, const Strategy& strategy) {
  core::Node node = core::make_map();
  node.entries.emplace_back("strategy", core::make_string(name));
  node.entries.emplace_back(name, core::to_node(const_cast<Strategy&>(strategy)));
  return node;
}

}  // namespace replication
