#include "replication/controls.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/error.h"

namespace replication {

namespace {

using Mixes = Control::Mixes;
using Runs = std::vector<ControlRun>;

void erase_key(core::Node& map, const std::string& key) {
  std::erase_if(map.entries, [&](const auto& entry) { return entry.first == key; });
}

// ---- the documents of the runs ----

// The document of the single replica: no strategy, and the grid that stands for it.
core::Node single_document(const ReplicaRun& replica) {
  core::Node document = replica.document;
  erase_key(document, "replication");
  if (replica.single.symmetry != replica.weight.symmetry) {
    if (core::Node* weight = document.find("quant"); weight != nullptr && weight->find("weight") != nullptr)
      erase_key(*weight->find("weight"), "zero_point");  // midrise has none
    core::assign(document, "quant.weight.symmetry", core::make_string(replica.single.symmetry));
  }
  if (replica.single.range != replica.weight.range)
    core::assign(document, "quant.weight.range", core::make_string(replica.single.range));
  return document;
}

core::Node document_in_place(const Control& control, const ReplicaRun& replica) {
  core::Node document = replica.document;
  core::assign(document, "replication.control", core::make_string(control.name));
  return document;
}

// One of several runs.
ControlRun varied(core::Node document, const std::string& key, int64_t value) {
  core::assign(document, key, core::make_integer(value));
  return {std::move(document), {{key, std::to_string(value)}}};
}

Runs single(const Control& /*control*/, const ReplicaRun& replica) { return {{single_document(replica)}}; }

// Descending.
std::vector<int64_t> curve_groups(const ReplicaRun& replica) {
  const std::set<int64_t> widths = replica.widths();
  std::vector<int64_t> sizes;
  for (const int64_t size : kCurveGroups) {
    if (std::all_of(widths.begin(), widths.end(), [&](int64_t width) { return width % size == 0; }))
      sizes.push_back(size);
  }
  core::require(!sizes.empty(),
                "{}: {} needs one group size for all linears, and of {} none divides all of their input widths, {}. "
                "Leave {} out, or give linears a group_size of their own in quant.rules.",
                replica.where, kCurve, fmt::join(kCurveGroups, ", "), fmt::join(widths, ", "), kCurve);
  return sizes;
}

// The single replica in groups of every size that divides, and with a bit more in groups of 64, or else of the largest.
Runs curve(const Control& /*control*/, const ReplicaRun& replica) {
  constexpr int64_t kUsual = 64;
  Runs runs;
  const core::Node document = single_document(replica);
  const std::vector<int64_t> sizes = curve_groups(replica);
  for (const int64_t size : sizes) runs.push_back(varied(document, "quant.weight.group_size", size));
  const bool has_usual = std::count(sizes.begin(), sizes.end(), kUsual) > 0;
  ControlRun& finer =
      runs.emplace_back(varied(document, "quant.weight.group_size", has_usual ? kUsual : sizes.front()));
  const int64_t bits = replica.weight.bits + 1;
  core::assign(finer.document, "quant.weight.bits", core::make_integer(bits));
  finer.swept.emplace_back("quant.weight.bits", std::to_string(bits));
  return runs;
}

Runs in_place(const Control& control, const ReplicaRun& replica) { return {{document_in_place(control, replica)}}; }

Runs drawn(const Control& control, const ReplicaRun& replica) {
  Runs runs;
  const bool whole = replica.select.policy == "all";  // one line then says that there is nothing to draw
  for (int64_t draw = 1; draw <= (whole ? 1 : kDraws); ++draw)
    runs.push_back(varied(document_in_place(control, replica), "replication.draw", draw));
  return runs;
}

// Leaders that have nobody else to think of.
Runs without_followers(const Control& control, const ReplicaRun& replica) {
  core::Node document = document_in_place(control, replica);
  core::assign(document, "replication.adjacent.from", core::make_string("first"));
  return {{std::move(document)}};
}

}  // namespace

bool Control::may_mix(const core::Slot& slot, bool changed) const {
  switch (mixes) {
    case Mixes::nothing:
      return false;
    case Mixes::all:
      return true;
    case Mixes::changed:
      return changed;
    case Mixes::attention_and_shared:
      return slot.half() == core::Half::attention || slot.is_shared();
  }
  return false;
}

const std::vector<Control>& controls() {
  static const std::vector<Control> all{
      {.name = kSingle,
       .help = "every code used once",
       .holds_bits = false,
       .in_place = false,
       .comes_first = true,
       .mixes = Mixes::nothing,
       .runs = single,
       .levels = nullptr},
      {.name = kCurve,
       .help = fmt::format("the single replica in groups of those of {} that divide the inputs of every linear, and "
                           "with a bit more, on which a replica's KL is read as bits",
                           fmt::join(kCurveGroups, ", ")),
       .holds_bits = false,
       .in_place = false,
       .comes_first = false,
       .mixes = Mixes::nothing,
       .runs = curve,
       .levels = nullptr},
      {.name = "finer_groups",
       .help = "two group sizes, mixed over the linears in order of sensitivity so that they store as much as the "
               "replica",
       .holds_bits = true,
       .in_place = true,
       .comes_first = false,
       .mixes = Mixes::all,
       .runs = in_place,
       .levels = group_levels},
      {.name = "more_bits",
       .help = "two bit widths, mixed likewise",
       .holds_bits = true,
       .in_place = true,
       .comes_first = false,
       .mixes = Mixes::all,
       .runs = in_place,
       .levels = bit_levels},
      {.name = "more_bits_selected",
       .help = "two bit widths, mixed over the replicated linears alone",
       .holds_bits = true,
       .in_place = true,
       .comes_first = false,
       .mixes = Mixes::changed,
       .runs = in_place,
       .levels = bit_levels},
      {.name = "more_bits_attention",
       .help = "two bit widths, mixed over attention and shared experts",
       .holds_bits = true,
       .in_place = true,
       .comes_first = false,
       .mixes = Mixes::attention_and_shared,
       .runs = in_place,
       .levels = bit_levels},
      {.name = "low_rank",
       .help = "two ranks of a low-rank branch, mixed over the linears likewise",
       .holds_bits = true,
       .in_place = true,
       .comes_first = false,
       .mixes = Mixes::all,
       .runs = in_place,
       .levels = rank_levels},
      {.name = kRandomSelection,
       .help = "as many units, drawn five times",
       .holds_bits = true,
       .in_place = true,
       .comes_first = false,
       .mixes = Mixes::nothing,
       .runs = drawn,
       .levels = nullptr},
      {.name = kFollowersRemoved,
       .help = "of adjacent, the model without the blocks that use the codes of others",
       .holds_bits = false,
       .in_place = true,
       .comes_first = false,
       .mixes = Mixes::nothing,
       .runs = without_followers,
       .levels = nullptr},
  };
  return all;
}

const Control* find_control(const std::string& name) {
  const std::vector<Control>& all = controls();
  const auto found = std::find_if(all.begin(), all.end(), [&](const Control& control) { return control.name == name; });
  return found == all.end() ? nullptr : &*found;
}

}  // namespace replication
