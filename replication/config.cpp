#include "replication/config.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/config/nearest.h"
#include "core/error.h"
#include "quant/grids/make_format.h"
#include "replication/own_parameters.h"
#include "replication/unread.h"

namespace replication {

namespace {

std::vector<std::string> all_controls() {
  std::vector<std::string> names;
  for (const Control& control : controls()) names.emplace_back(control.name);
  return names;
}

std::vector<std::string> controls_in_place() {
  std::vector<std::string> names{ReplicationConfig::kNone};
  for (const Control& control : controls()) {
    if (control.in_place) names.emplace_back(control.name);
  }
  return names;
}

// "single: every code used once; curve: …"
std::string help_of_controls() {
  std::string text;
  for (const Control& control : controls()) text += fmt::format("; {}: {}", control.name, control.help);
  return text.substr(2);
}

}  // namespace

void ReplicationConfig::keys(core::Keys& k) {
  std::vector<std::string> names{kNone};
  for (const auto& [name, strategy] : strategies) names.push_back(name);
  k.key("strategy", strategy, "how one set of codes is used several times; none: every code is used once", names);
  for (auto& [name, strategy] : strategies) k.section(name, *strategy, strategy->summary());
  k.section("select", select, "which linears the strategy is applied to").only_if_given();
  k.key("controls", controls,
        "runs beside this one that could prove the replica wrong, and a table that compares them with it; " +
            help_of_controls(),
        all_controls())
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
                             controls_in_place());
  core::Key& drawn =
      k.key("draw", draw, fmt::format("which of the draws; read by control: {}", kRandomSelection), {1, kDraws});
  if (control == kNone) instead.only_if_given();
  if (!draws_units()) drawn.only_if_given();
}

bool ReplicationConfig::collapses() const {
  if (!selected() || control != kNone) return false;
  const auto* linear = dynamic_cast<const LinearStrategy*>(&chosen());
  return linear != nullptr && linear->collapses();
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
  core::require(!asks(kCurve) || asks(kSingle), "{}: {} counts bits from those of `{}`. Name it too.",
                where("controls"), kCurve, kSingle);
  core::require(controls.empty() || control == kNone, "{}: controls is given too. Keep one of them.", where("control"));
  core::require(!(asks(kFollowersRemoved) || removes_followers()) ||
                    (block_strategy() != nullptr && block_strategy()->has_followers()),
                "{}: {} takes away blocks that use the codes of others, and {} has none. Use it with adjacent.",
                where(controls.empty() ? "control" : "controls"), kFollowersRemoved, strategy);
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
  core::require(!given("draw") || draws_units(), "{} is read with control: {} only. Remove it.", where("draw"),
                kRandomSelection);
  if (!is_of_blocks() || !given("select")) return;
  core::require(block_strategy()->selects(), "{}: {} says itself which blocks run. Remove one of the two.",
                where("select"), strategy);
  core::require(select.unit == "block" || select.policy == "all",
                "{}: {} runs whole blocks. Select them with unit: block.", select.where("unit"), strategy);
}

void follow_plan(const ReplicationConfig& config, core::Model& model, const std::set<std::string>& linears) {
  if (!config.is_of_blocks()) return;
  std::set<int64_t> blocks;
  for (const std::string& linear : linears) blocks.insert(model.slot(linear).block());
  const BlockStrategy& strategy = *config.block_strategy();
  model.follow(config.removes_followers() ? strategy.without_followers(model.shape())
                                          : strategy.plan(model.shape(), blocks));
}

int64_t bits_of_replicas(const ReplicationConfig& config, OwnParameters own, const core::Plan& plan, int64_t block,
                         int64_t parameters, int64_t norms) {
  constexpr int64_t kGate = 32;  // bits
  const BlockStrategy* strategy = config.block_strategy();
  if (strategy == nullptr) return 0;
  int64_t replicas = 0;
  for (const core::Step& step : plan) {
    if (step.block == block) replicas = std::max(replicas, step.replica + step.parallel - 1);
  }
  int64_t each = kGate * strategy->gates();
  if (own.parameters || strategy->gives_parameters()) each += parameters;
  if (own.norms) each += norms;
  return replicas * each + (replicas > 0 ? kGate * strategy->gates_of_block() : 0);
}

void add_further_inputs(const ReplicationConfig& config, core::Model& model,
                        std::vector<quant::Assignment>& assignments) {
  if (!config.is_of_blocks() || config.removes_followers()) return;
  for (quant::Assignment& a : assignments) {
    if (a.slot->block() < 0 || !a.format) continue;
    a.further = config.block_strategy()->further_inputs(*a.slot, model.plan());
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

void prepare_replicas(const ReplicationConfig& config, OwnParameters own, core::Model& model, int64_t block,
                      uint64_t seed) {
  if (!config.is_of_blocks()) return;
  for (core::Block* replica : model.replicas(block)) {
    if (own.parameters) give_own_parameters(model.block(block), *replica, /*jitter=*/0, seed);
    if (own.norms) give_own_norms(*replica);
    config.block_strategy()->prepare(model.block(block), *replica, seed);
  }
}

quant::CodingOf coding_of(const ReplicationConfig& config, const std::optional<std::set<std::string>>& chosen) {
  if (!config.selected()) return quant::grid_coding;
  const std::shared_ptr<const Strategy> strategy = config.strategies.at(config.strategy).share();
  const std::string name = config.strategy;
  const bool everywhere = config.select.policy == "all";
  return [=](const core::Slot& slot, const quant::WeightConfig& weight, uint64_t seed) -> quant::Coding {
    if (chosen && !chosen->contains(slot.path())) return quant::grid_coding(slot, weight, seed);
    if (everywhere) refuse_unread(weight, name, strategy->unread());
    return coding_by(name, strategy, slot, weight, seed);
  };
}

quant::WeightConfig single_grid(const ReplicationConfig& config, const quant::WeightConfig& weight) {
  if (!config.selected() || config.select.policy != "all") return weight;
  const std::vector<std::string> keys = config.chosen().unread();
  const auto unread = [&](const char* key) { return std::find(keys.begin(), keys.end(), key) != keys.end(); };
  quant::WeightConfig single = weight;
  if (unread("symmetry")) single.symmetry = "midrise";
  if (unread("range")) single.range = "mse";
  return single;
}

int64_t stored_bits(const quant::WeightFormat& format, const Shape& shape) {
  return format.code_bits() * shape.out_features * shape.in_features +
         quant::parameter_bits(format.layout(shape.out_features, shape.in_features));
}

double parameters_per_weight(const quant::WeightFormat& format, int64_t width) {
  const int64_t group = std::max<int64_t>(1, format.config().group_size);
  const int64_t columns = (width + group - 1) / group * group;
  return static_cast<double>(quant::parameter_bits(format.layout(width, columns))) /
         static_cast<double>(width * columns);
}

std::shared_ptr<const quant::WeightFormat> restored_format(const quant::WeightConfig& weight,
                                                           const core::Node& replication, const quant::Place& place,
                                                           const Shape& shape, const std::string& where) {
  if (replication.is_null()) return quant::make_format(weight, place.path, shape.in_features, place.seed);
  ReplicationConfig config;
  core::bind(replication, config, where);
  core::require(config.selected(), "{}: it names no strategy. Use the Refrain that wrote the checkpoint.", where);
  const auto* strategy = dynamic_cast<const LinearStrategy*>(&config.chosen());
  core::require(strategy != nullptr, "{}: {} decodes no linear. Use the Refrain that wrote the checkpoint.", where,
                config.strategy);
  return strategy->format(weight, place, shape);
}

}  // namespace replication
