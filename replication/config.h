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
  static constexpr const char* kNone = "none";  // every code is used once; no control
  static constexpr const char* kSingle = "single";
  static constexpr const char* kCurve = "curve";
  static constexpr const char* kRandomSelection = "random_selection";
  static constexpr int64_t kDraws = 5;  // of random_selection

  std::string strategy = kNone;
  Strategies strategies = make_strategies();
  Selection select;
  std::vector<std::string> controls;  // empty in every point: experiments make a point of each
  bool ladder = false;                // of points too
  std::string control = kNone;        // what runs in place of the strategy
  int64_t draw = 1;

  void keys(core::Keys& k) override;
  void check() const override;
  bool selected() const { return strategy != kNone; }
  bool collapses() const { return selected() && control == kNone && strategies.at(strategy)->collapses(); }
  bool is_mixed() const { return control != kNone && control != kRandomSelection; }  // replication/mix.h
  // Whether linears have to be ranked by sensitivity.
  bool ranks() const { return selected() && (select.by_sensitivity() || is_mixed()); }
};

// The grid of the single replica, which stands beside every result of a strategy: as configured, and what a strategy
// that replaces every linear leaves unread as the scalar control of all tables: midrise, of a searched range.
quant::WeightConfig single_grid(const ReplicationConfig& config, const quant::WeightConfig& weight);

// Chooses the decoders of quant::assign: the strategy's for the linears in `chosen`, plain grids for others. Null: for
// all linears.
quant::CodingOf coding_of(const ReplicationConfig& config,
                          const std::optional<std::set<std::string>>& chosen = std::nullopt);

// Bits that the codes of a linear and what decodes them store.
int64_t stored_bits(const quant::Decoder& decoder, const Shape& shape);
// What decodes the codes in the end.
inline const quant::Decoder& last_decoder(const quant::Coding& coding) {
  return coding.refinement ? *coding.refinement->decoder() : *coding.decoder;
}
// Bits per weight of a decoder's parameters on a square linear of this width, or on the next width that its groups
// divide: what they cost a model of another size.
double parameters_per_weight(const quant::Decoder& decoder, int64_t width);

// The decoder that a checkpoint describes. replication: what Decoder::replication() gave; null: a grid. where: of the
// description, for messages.
std::shared_ptr<const quant::Decoder> restored_decoder(const quant::WeightConfig& weight, const core::Node& replication,
                                                       const quant::Place& place, const Shape& shape,
                                                       const std::string& where);

// {strategy: name, name: {options}}, which restored_decoder reads.
core::Node description(const std::string& name, const Strategy& strategy);

}  // namespace replication
