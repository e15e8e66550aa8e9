// The `replication` section: which strategy, with which options.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>

#include "core/walk.h"
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
  void check() const override;
  bool selected() const { return strategy != kNone; }
  const Strategy& chosen() const { return *strategies.at(strategy); }
  bool collapses() const { return selected() && chosen().collapses(); }
  bool is_of_blocks() const { return selected() && chosen().is_of_blocks(); }
  // Variables of quant.weight that no linear reads.
  std::vector<std::string> unread() const {
    return selected() && select.policy == "all" ? chosen().unread() : std::vector<std::string>{};
  }
};

// Makes the model follow the plan of a strategy of whole blocks; others leave it as it is. errors, seed: as of
// Selection::chosen_units.
void follow_plan(const ReplicationConfig& config, core::Model& model, const std::map<std::string, OutputError>& errors,
                 uint64_t seed);

// What every replica of a block has of its own, as copies of the block's; strategies may give them more.
struct Own {
  bool parameters = false;  // of quantization
  bool norms = false;
};

// Gives the replicas of a finished block what is their own.
void prepare_replicas(const ReplicationConfig& config, Own own, core::Model& model, int64_t block, uint64_t seed);

// prepare_replicas as a stage, behind what quantizes a block.
class Replicate : public core::Stage {
 public:
  static constexpr int kVersion = 1;  // bumped by hand when results change

  Replicate(const ReplicationConfig& config, Own own, uint64_t seed) : config_(config), own_(own), seed_(seed) {}
  std::string name() const override { return "replicate"; }
  int version() const override { return kVersion; }
  void block(core::BlockContext& context) override {
    prepare_replicas(config_, own_, context.model, context.index, seed_);
  }

 private:
  const ReplicationConfig& config_;
  Own own_;
  uint64_t seed_;
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
