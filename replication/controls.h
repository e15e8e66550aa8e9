// The controls that a replica is measured against, one row of a table each: what it is called, which runs it is, and
// what it gives to which linears. Keys, help, run documents and mixes follow from the table.
#pragma once

#include <array>
#include <functional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/config/node.h"
#include "replication/levels.h"
#include "replication/select.h"

namespace replication {

// Names of the controls that others ask for by name.
inline constexpr const char* kSingle = "single";
inline constexpr const char* kCurve = "curve";
inline constexpr const char* kRandomSelection = "random_selection";
inline constexpr const char* kFollowersRemoved = "followers_removed";
inline constexpr int64_t kDraws = 5;                             // of random_selection
inline constexpr std::array kCurveGroups{192, 128, 96, 64, 32};  // of curve: those that divide every width

// The replica, as far as the documents of its controls depend on it.
struct ReplicaRun {
  const core::Node& document;         // of the run, which asks for no controls
  const quant::WeightConfig& weight;  // quant.weight
  const quant::WeightConfig& single;  // single_grid() of it
  const Selection& select;
  std::string where;  // the key that asks for the controls, for messages
  // in_features of the linears whose groups quant.weight decides. It opens the model's configuration.
  std::function<std::set<int64_t>()> widths;
};

// One of the runs of a control.
struct ControlRun {
  core::Node document;
  std::vector<std::pair<std::string, std::string>> swept = {};  // what distinguishes it from others of the control
};

struct Control {
  enum class Mixes { nothing, all, changed, attention_and_shared };

  const char* name;
  std::string help;
  bool holds_bits;   // it stores as many bits as the replica
  bool in_place;     // `replication.control: name` runs it in place of the strategy; others have no strategy at all
  bool comes_first;  // it runs before the replica, because what is measured on its way is what others are held against
  Mixes mixes;       // linears over which levels are mixed: those that the replica changes, or by where they stand
  std::vector<ControlRun> (*runs)(const Control& control, const ReplicaRun& replica);
  MakeLevels levels;  // null: nothing is mixed

  // Whether the control has a say in what a linear stores. changed: the replica changes it.
  bool may_mix(const core::Slot& slot, bool changed) const;
};

const std::vector<Control>& controls();
const Control* find_control(const std::string& name);  // null: there is none of this name

}  // namespace replication
