#include "replication/config.h"

#include <algorithm>
#include <map>

#include "core/config/nearest.h"
#include "core/error.h"
#include "replication/own_parameters.h"
#include "replication/unread.h"

namespace replication {

namespace {

std::vector<std::string> control_names(std::vector<std::string> first) {
  for (const char* name :
       {"finer_groups", "more_bits", ReplicationConfig::kMoreBitsSelected, ReplicationConfig::kMoreBitsAttention,
        "low_rank", ReplicationConfig::kRandomSelection, ReplicationConfig::kFollowersRemoved})
    first.emplace_back(name);
  return first;
}

}  // namespace

void ReplicationConfig::keys(core::Keys& k) {
  std::vector<std::string> names{kNone};
  for (const auto& [name, strategy] : strategies) names.push_back(name);
  k.key("strategy", strategy, "how one set of codes is used several times; none: every code is used once", names);
  for (const auto& [name, strategy] : strategies) k.section(name, *strategy, strategy->summary());
  k.section("select", select, "which linears the strategy is applied to").only_if_given();
  k.key(
       "controls", controls,
       "runs beside this one that could prove the replica wrong, and a table that compares them with it; single: every "
       "code used once; finer_groups, more_bits, low_rank: two group sizes, bit widths or ranks, mixed over the "
       "linears in order of sensitivity so that they store as much as the replica; more_bits_selected: the same over "
       "the replicated linears alone; more_bits_attention: over attention and shared experts; random_selection: as "
       "many units, drawn five times; followers_removed: of adjacent, the model without the blocks that use the codes "
       "of others; curve: the single replica in groups of 128, 64 and 32 and with a bit more, on which a replica's KL "
       "is read as bits",
       control_names({kSingle, kCurve}))
      .only_if_given();
  k.key("ladder", ladder,
        "runs beside this one with replicas all alike, jittered at random, and averaged back to one, compared like "
        "controls: what of the gain is replication; with qat each of them untrained and trained; strategies scales and "
        "parallel")
      .only_if_given();
  k.key("average", average,
        "in the end, after training, the parameters of all replicas are averaged back to one, which runs once; "
        "strategies scales (collapse: false) and parallel")
      .only_if_given();
  core::Key& instead = k.key("control", control,
                             "run this in place of the strategy, at its stored bits: what `controls` does, one by one",
                             control_names({kNone}));
  core::Key& drawn = k.key("draw", draw, "which of the draws; read by control: random_selection", {1, kDraws});
  if (control == kNone) instead.only_if_given();
  if (control != kRandomSelection) drawn.only_if_given();
}

void ReplicationConfig::check() const {
  for (const char* key : {"controls", "control"}) {
    core::require(selected() || !given(key) || (controls.empty() && control == kNone),
                  "{}: controls stand beside a replica, and strategy: none makes none. Choose a strategy.", where(key));
  }
  for (size_t i = 0; i < controls.size(); ++i) {
    const bool again = std::count(controls.begin(), controls.begin() + static_cast<int64_t>(i), controls[i]) > 0;
    core::require(!again, "{}: {} is there twice. Name each once.", where("controls"), controls[i]);
  }
  const auto asks = [&](const char* name) {
    return std::find(controls.begin(), controls.end(), name) != controls.end();
  };
  core::require(!asks(kCurve) || asks(kSingle), "{}: curve counts bits from those of `single`. Name it too.",
                where("controls"));
  core::require(controls.empty() || control == kNone, "{}: controls is given too. Keep one of them.", where("control"));
  core::require(!(asks(kFollowersRemoved) || removes_followers()) || chosen().has_followers(),
                "{}: followers_removed takes away blocks that use the codes of others, and {} has none. Use it with "
                "adjacent.",
                where(controls.empty() ? "control" : "controls"), strategy);
  if (ladder) {
    std::vector<std::string> with_ladder;
    for (const auto& [name, other] : strategies)
      if (!other->ladder().empty()) with_ladder.push_back(name);
    core::require(selected() && !strategies.at(strategy)->ladder().empty(),
                  "{}: strategy: {} has no ladder. Those that have one: {}.", where("ladder"), strategy,
                  core::joined(with_ladder));
    core::require(control == kNone, "{}: ladder is given too. Keep one of them.", where("control"));
    core::require(!average, "{}: ladder has a rung of its own for it. Remove one of the two.", where("average"));
  }
  if (average) {
    core::require(selected() && control == kNone, "{}: no replicas are made that could be averaged. Remove it.",
                  where("average"));
    const std::string reason = chosen().refuses_average();
    core::require(reason.empty(), "{}: {}: {}. Remove it.", where("average"), strategy, reason);
  }
  core::require(!given("draw") || control == kRandomSelection,
                "{} is read with control: random_selection only. Remove it.", where("draw"));
  if (!is_of_blocks() || !given("select")) return;
  core::require(chosen().selects(), "{}: {} says itself which blocks run. Remove one of the two.", where("select"),
                strategy);
  core::require(select.unit == "block" || select.policy == "all",
                "{}: {} runs whole blocks. Select them with unit: block.", select.where("unit"), strategy);
}

void follow_plan(const ReplicationConfig& config, core::Model& model, const std::set<std::string>& linears) {
  if (!config.is_of_blocks()) return;
  std::set<int64_t> blocks;
  for (const std::string& linear : linears) blocks.insert(model.block_of(linear));
  model.follow(config.removes_followers() ? config.chosen().without_followers(model.shape())
                                          : config.chosen().plan(model.shape(), blocks));
}

int64_t bits_of_replicas(const ReplicationConfig& config, Own own, const core::Plan& plan, int64_t block,
                         int64_t parameters, int64_t norms) {
  constexpr int64_t kGate = 32;  // bits
  int64_t replicas = 0;
  for (const core::Step& step : plan) {
    if (step.block == block) replicas = std::max(replicas, step.replica + step.parallel - 1);
  }
  int64_t each = kGate * config.chosen().gates();
  if (own.parameters || config.chosen().gives_parameters()) each += parameters;
  if (own.norms) each += norms;
  return replicas * each;
}

void add_further_inputs(const ReplicationConfig& config, core::Model& model,
                        std::vector<quant::Assignment>& assignments) {
  if (!config.is_of_blocks() || config.removes_followers()) return;
  std::map<std::string, int64_t> blocks;
  for (int64_t i = 0; i < model.shape().layers; ++i) {
    for (const core::Slot* slot : model.block(i).slots()) blocks[slot->path()] = i;
  }
  for (quant::Assignment& a : assignments) {
    const auto found = blocks.find(a.slot->path());
    if (found == blocks.end() || !a.decoder) continue;
    a.further = config.chosen().further_inputs(a.slot->path(), found->second, model.plan());
    core::require(a.further.empty() || !a.reads_inputs,
                  "{}: its method runs the block on the inputs of its first step, and sums no statistics. Choose "
                  "another method, or calibrate on the first step and block alone.",
                  a.slot->path());
    core::require(a.further.empty() || !a.input || !a.input->config().is_static(),
                  "{}: static inputs have a range from the first step alone, and no statistics in others. Use "
                  "quant.activation.mode: dynamic, or calibrate on the first step and block alone.",
                  a.slot->path());
  }
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
            .inputs = strategy->inputs(),
            .mean_with = strategy->mean_with(slot.path())};
  };
}

quant::WeightConfig single_grid(const ReplicationConfig& config, const quant::WeightConfig& weight) {
  if (!config.selected() || config.select.policy != "all") return weight;
  const std::vector<std::string> keys = config.strategies.at(config.strategy)->unread();
  const auto unread = [&](const char* key) { return std::find(keys.begin(), keys.end(), key) != keys.end(); };
  quant::WeightConfig single = weight;
  if (unread("symmetry")) single.symmetry = "midrise";
  if (unread("range")) single.range = "mse";
  return single;
}

int64_t stored_bits(const quant::Decoder& decoder, const Shape& shape) {
  return decoder.code_bits() * shape.out_features * shape.in_features +
         quant::parameter_bits(decoder.layout(shape.out_features, shape.in_features));
}

double parameters_per_weight(const quant::Decoder& decoder, int64_t width) {
  const int64_t group = std::max<int64_t>(1, decoder.config().group_size);
  const int64_t columns = (width + group - 1) / group * group;
  return static_cast<double>(quant::parameter_bits(decoder.layout(width, columns))) /
         static_cast<double>(width * columns);
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
