#include "experiments/measure/measures.h"

#include <algorithm>

#include "core/error.h"

// One line per measure: X(name) stands for measure/name.cpp, which defines make_name().
#define MEASURES(X) X(perplexity) X(tasks) X(trajectory) X(generation) X(latency)

namespace experiments {

#define DECLARE(name) MeasureKind make_##name();
MEASURES(DECLARE)
#undef DECLARE

namespace {

MeasureKind named(MeasureKind kind, const char* name) {
  kind.name = name;
  return kind;
}

std::vector<MeasureKind>& table() {
#define ENTRY(name) named(make_##name(), #name),
  static std::vector<MeasureKind> kinds{MEASURES(ENTRY)};
#undef ENTRY
  return kinds;
}

void sort_lists_first(std::vector<MeasureKind>& kinds) {
  std::stable_partition(kinds.begin(), kinds.end(), [](const MeasureKind& kind) { return kind.is_list; });
}

// A list of measurements as core::Keys sees it.
core::SectionList as_list(std::vector<core::Polymorphic<Measure>>& items, const MeasureKind& kind) {
  core::SectionList list;
  list.size = [&items] { return items.size(); };
  list.item = [&items](std::size_t i) -> core::Section& { return *items[i]; };
  list.reset = [&items, make = kind.make](std::size_t n) {
    items.clear();
    for (std::size_t i = 0; i < n; ++i) items.push_back(make());
  };
  list.make = [make = kind.make]() -> std::unique_ptr<core::Section> {
    struct Holder : core::Section {
      core::Polymorphic<Measure> measure;
      explicit Holder(core::Polymorphic<Measure> held) : measure(std::move(held)) {}
      void keys(core::Keys& k) override { measure->keys(k); }
      void check() const override { measure->check(); }
    };
    return std::make_unique<Holder>(make());
  };
  return list;
}

}  // namespace

const std::vector<MeasureKind>& measure_kinds() { return table(); }

const MeasureKind& measure_kind(const std::string& name) {
  const auto found = std::find_if(table().begin(), table().end(), [&](const auto& kind) { return kind.name == name; });
  TORCH_CHECK(found != table().end(), "no measure named ", name);
  return *found;
}

ExtraMeasure::ExtraMeasure(MeasureKind kind) {
  table().push_back(std::move(kind));
  sort_lists_first(table());
}

ExtraMeasure::~ExtraMeasure() {
  std::vector<MeasureKind> kinds;
#define ENTRY(name) kinds.push_back(measure_kind(#name));
  MEASURES(ENTRY)
#undef ENTRY
  table() = std::move(kinds);
}

MeasureConfig::MeasureConfig() {
  for (const MeasureKind& kind : measure_kinds()) {
    OfKind& added = kinds_.emplace_back(OfKind{kind, {}});
    if (!kind.has_sections()) added.measurements.push_back(kind.make());
  }
}

void MeasureConfig::keys(core::Keys& k) {
  for (OfKind& of : kinds_) {
    if (of.kind.has_sections()) k.list(of.kind.name, as_list(of.measurements, of.kind), of.kind.help);
  }
  k.key("batch_tokens", batch_tokens, "tokens that run through a block at once; at least one window", {1, 1 << 20});
  k.key("kl", kl,
        "measure KL divergence and top-1 agreement against the full-precision model, whose final hidden states stay on "
        "disk for it");
  k.key("noise_floor", noise_floor,
        "with kl: also measure how far the full-precision model is from itself with noise of 2^-9 on the hidden states "
        "behind every block, which is what equal models of 16 bits differ by");
  for (OfKind& of : kinds_) {
    if (!of.kind.has_sections()) k.section(of.kind.name, *of.measurements.front(), of.kind.help).only_if_given();
  }
}

void MeasureConfig::check() const {
  core::require(kl || !noise_floor, "{}: it is a KL divergence, and kl: false measures none. Leave one of the two out.",
                where("noise_floor"));
}

std::vector<Asked> MeasureConfig::asked() const {
  std::vector<Asked> all;
  for (const OfKind& of : kinds_) {
    if (!of.kind.has_sections() && !given(of.kind.name)) continue;
    for (const core::Polymorphic<Measure>& one :
         of.kind.each ? of.kind.each(*of.measurements.front()) : of.measurements)
      all.push_back({&of.kind, one.share()});
  }
  return all;
}

}  // namespace experiments
