#include "replication/config.h"

#include "core/error.h"
#include "replication/own_parameters.h"
#include "replication/unread.h"

namespace replication {

void ReplicationConfig::keys(core::Keys& k) {
  std::vector<std::string> names{kNone};
  for (const auto& [name, strategy] : strategies) names.push_back(name);
  k.key("strategy", strategy, "how one set of codes is used several times; none: every code is used once", names);
  for (const auto& [name, strategy] : strategies) k.section(name, *strategy, strategy->summary());
  k.section("select", select, "which linears the strategy is applied to").only_if_given();
}

void ReplicationConfig::check() const {
  if (!is_of_blocks() || !given("select")) return;
  core::require(chosen().selects(), "{}: {} says itself which blocks run. Remove one of the two.", where("select"),
                strategy);
  core::require(select.unit == "block" || select.policy == "all",
                "{}: {} runs whole blocks. Select them with unit: block.", select.where("unit"), strategy);
}

void follow_plan(const ReplicationConfig& config, core::Model& model, const std::map<std::string, OutputError>& errors,
                 uint64_t seed) {
  if (!config.is_of_blocks()) return;
  model.follow(config.chosen().plan(model.shape(), config.select.chosen_blocks(model, errors, seed)));
}

void prepare_replicas(const ReplicationConfig& config, Own own, core::Model& model, int64_t block, uint64_t seed) {
  if (!config.is_of_blocks()) return;
  for (core::Block* replica : model.replicas(block)) {
    if (own.parameters) give_own_parameters(model.block(block), *replica, /*jitter=*/0, seed);
    if (own.norms) give_own_norms(*replica);
    config.chosen().prepare(model.block(block), *replica, seed);
  }
}

namespace {

// A strategy's refine, with the decoders of one linear.
class StrategyRefinement : public quant::Refinement {
 public:
  StrategyRefinement(std::shared_ptr<const Strategy> strategy, std::shared_ptr<const quant::Decoder> encoder,
                     std::shared_ptr<const quant::Decoder> decoder)
      : strategy_(std::move(strategy)), encoder_(std::move(encoder)), decoder_(std::move(decoder)) {}

  quant::Needs needs() const override { return strategy_->needs(); }
  const std::shared_ptr<const quant::Decoder>& decoder() const override { return decoder_; }
  quant::Refined refine(const at::Tensor& w, quant::Encoded encoded, const quant::Statistics& x) const override {
    return strategy_->refine(w, std::move(encoded), x, *encoder_, *decoder_);
  }

 private:
  std::shared_ptr<const Strategy> strategy_;
  std::shared_ptr<const quant::Decoder> encoder_, decoder_;
};

}  // namespace

quant::CodingOf coding_of(const ReplicationConfig& config, const std::optional<std::set<std::string>>& chosen) {
  if (!config.selected()) return quant::grid_coding;
  const std::shared_ptr<const Strategy> strategy = config.strategies.at(config.strategy);
  const std::string name = config.strategy;
  const bool everywhere = config.select.policy == "all";
  return [=](const core::Slot& slot, const quant::WeightConfig& given, uint64_t seed) -> quant::Coding {
    if (chosen && !chosen->contains(slot.path())) return quant::grid_coding(slot, given, seed);
    const quant::Place place{slot.path(), seed};
    const Shape shape{slot.out_features(), slot.in_features()};
    if (everywhere) refuse_unread(given, place.path, name, strategy->unread());
    const quant::WeightConfig weight = without(given, strategy->unread());
    auto encoder = strategy->encoder(weight, place, shape);
    auto decoder = strategy->decoder(weight, place, shape);
    return {.decoder = encoder ? encoder : decoder,
            .refinement = encoder ? std::make_shared<StrategyRefinement>(strategy, encoder, decoder) : nullptr,
            .codes_of = strategy->codes_of(slot.path()),
            .inputs = strategy->inputs()};
  };
}

std::shared_ptr<const quant::Decoder> restored_decoder(const quant::WeightConfig& weight, const core::Node& replication,
                                                       const quant::Place& place, const Shape& shape,
                                                       const std::string& where) {
  if (replication.is_null()) return quant::make_decoder(weight, place.path, shape.in_features, place.seed);
  ReplicationConfig config;
  core::bind(replication, config, where);
  return config.strategies.at(config.strategy)->decoder(weight, place, shape);
}

core::Node description(const std::string& name, const Strategy& strategy) {
  core::Node node = core::make_map();
  node.entries.emplace_back("strategy", core::make_string(name));
  node.entries.emplace_back(name, core::to_node(const_cast<Strategy&>(strategy)));
  return node;
}

}  // namespace replication
