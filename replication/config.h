// The `replication` section: which strategy, with which options.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>

#include "core/walk.h"
#include "quant/config.h"
#include "replication/controls.h"
#include "replication/select.h"
#include "replication/strategy.h"

namespace replication {

struct ReplicationConfig : core::Section {
  static constexpr const char* kNone = "none";  // every code is used once; no control

  std::string strategy = kNone;
  Strategies strategies = make_strategies();
  Selection select;
  std::vector<std::string> controls;  // empty in every point: experiments make a point of each
  bool ladder = false;                // of points too
  bool average = false;
  std::string control = kNone;  // what runs in place of the strategy
  int64_t draw = 1;

  void keys(core::Keys& k) override;
  void check() const override;
  bool selected() const { return strategy != kNone; }
  const Strategy& chosen() const { return *strategies.at(strategy); }
  // The strategy, if it is one of whole blocks, whatever runs in its place; null: it is not.
  const BlockStrategy* block_strategy() const {
    return selected() ? dynamic_cast<const BlockStrategy*>(&chosen()) : nullptr;
  }
  // Whether replicas run as one grid into which they are fused.
  bool collapses() const;
  bool draws_units() const { return control == kRandomSelection; }
  bool removes_followers() const { return control == kFollowersRemoved; }
  // Whether a mix of levels runs in place of the strategy (replication/mix.h).
  bool is_mixed() const { return control != kNone && find_control(control)->levels != nullptr; }
  // Whether linears have to be ranked by sensitivity.
  bool ranks() const { return selected() && (select.is_ranked() || is_mixed()); }
  // Whether whole blocks run several times or share codes.
  bool is_of_blocks() const { return block_strategy() != nullptr && !is_mixed(); }
  // Variables of quant.weight that no linear reads.
  std::vector<std::string> unread() const {
    return selected() && select.policy == "all" ? chosen().unread() : std::vector<std::string>{};
  }
};

// Makes the model follow the plan of a strategy of whole blocks; others leave it as it is. linears: in the blocks that
// the strategy is applied to.
void follow_plan(const ReplicationConfig& config, core::Model& model, const std::set<std::string>& linears);

// What every replica of a block has of its own, as copies of the block's; strategies may give them more.
struct OwnParameters {
  bool parameters = false;  // of quantization
  bool norms = false;
};

// Bits that all replicas of a block store beside it under a plan of the strategy. parameters, norms: bits of those of
// the block.
int64_t bits_of_replicas(const ReplicationConfig& config, OwnParameters own, const core::Plan& plan, int64_t block,
                         int64_t parameters, int64_t norms);

// Adds the inputs that a strategy of whole blocks wants to be counted, of a model that follows its plan.
void add_further_inputs(const ReplicationConfig& config, core::Model& model,
                        std::vector<quant::Assignment>& assignments);

// Gives the replicas of a finished block what is their own.
void prepare_replicas(const ReplicationConfig& config, OwnParameters own, core::Model& model, int64_t block,
                      uint64_t seed);

// prepare_replicas as a stage, behind what quantizes a block.
class Replicate : public core::Stage {
 public:
  static constexpr int kVersion = 2;  // bumped by hand when results change

  Replicate(const ReplicationConfig& config, OwnParameters own, uint64_t seed)
      : config_(config), own_(own), seed_(seed) {}
  std::string name() const override { return "replicate"; }
  int version() const override { return kVersion; }
  void block(core::BlockContext& context) override {
    prepare_replicas(config_, own_, context.model, context.index, seed_);
  }

 private:
  const ReplicationConfig& config_;
  OwnParameters own_;
  uint64_t seed_;
};

// Averages the parameters of all replicas back to one, as the last thing that is done to a block; blocks that ran as
// several replicas run once in what is saved.
class Average : public core::Stage {
 public:
  static constexpr int kVersion = 2;  // bumped by hand when results change

  explicit Average(const ReplicationConfig& config) : config_(config) {}
  std::string name() const override { return "average"; }
  int version() const override { return kVersion; }
  void block(core::BlockContext& context) override {
    config_.chosen().average(context.block, context.model.replicas(context.index));
  }
  void end(core::Model& model) override {
    if (config_.is_of_blocks()) model.follow(core::default_plan(model.shape().layers));
  }

 private:
  const ReplicationConfig& config_;
};

// The grid of the single replica, which stands beside every result of a strategy: as configured, and what a strategy
// that replaces every linear leaves unread as the scalar control of all tables: midrise, of a searched range.
quant::WeightConfig single_grid(const ReplicationConfig& config, const quant::WeightConfig& weight);

// Chooses the formats of quant::assign: the strategy's for the linears in `chosen`, plain grids for others. Null: for
// all linears.
quant::CodingOf coding_of(const ReplicationConfig& config,
                          const std::optional<std::set<std::string>>& chosen = std::nullopt);

// Bits that the codes of a linear and what decodes them store.
int64_t stored_bits(const quant::WeightFormat& format, const Shape& shape);
// What decodes the codes in the end.
inline const quant::WeightFormat& last_format(const quant::Coding& coding) {
  return coding.refinement ? *coding.refinement->format() : *coding.format;
}
// Bits per weight of a format's parameters on a square linear of this width, or on the next width that its groups
// divide: what they cost a model of another size.
double parameters_per_weight(const quant::WeightFormat& format, int64_t width);

// The format that a checkpoint describes. replication: what WeightFormat::replication() gave; null: a grid. where: of
// the description, for messages.
std::shared_ptr<const quant::WeightFormat> restored_format(const quant::WeightConfig& weight,
                                                           const core::Node& replication, const quant::Place& place,
                                                           const Shape& shape, const std::string& where);

}  // namespace replication
