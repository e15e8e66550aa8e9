// The `replication` section: which strategy, with which options.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>

#include "quant/config.h"
#include "replication/select.h"
#include "replication/strategy.h"

namespace replication {

struct ReplicationConfig : core::Section {
  static constexpr const char* kNone = "none";  // every code is used once

  std::string strategy = kNone;
  Strategies strategies = make_strategies();
  Selection select;

  void keys(core::Keys& k) override;
  bool selected() const { return strategy != kNone; }
  bool collapses() const { return selected() && strategies.at(strategy)->collapses(); }
  // Variables of quant.weight that no linear reads.
  std::vector<std::string> unread() const {
    return selected() && select.policy == "all" ? strategies.at(strategy)->unread() : std::vector<std::string>{};
  }
};

// Chooses the decoders of quant::assign: the strategy's for the linears in `chosen`, plain grids for others. Null: for
// all linears.
quant::CodingOf coding_of(const ReplicationConfig& config,
                          const std::optional<std::set<std::string>>& chosen = std::nullopt);

// The decoder that a checkpoint describes. replication: what Decoder::replication() gave; null: a grid. where: of the
// description, for messages.
std::shared_ptr<const quant::Decoder> restored_decoder(const quant::WeightConfig& weight, const core::Node& replication,
                                                       const quant::Place& place, const Shape& shape,
                                                       const std::string& where);

// {strategy: name, name: {options}}, which restored_decoder reads.
core::Node description(const std::string& name, const Strategy& strategy);

}  // namespace replication
