// The measures by name, and the section `measure` of a configuration, which follows from them.
#pragma once

#include <string>
#include <vector>

#include "core/config/polymorphic.h"
#include "experiments/measure/measure.h"

namespace experiments {

struct MeasureKind {
  std::string help;                                  // one line: of the section, or of the list of sections
  bool is_list = false;                              // there may be several measurements
  std::function<core::Polymorphic<Measure>()> make;  // with default options
  // Those that one section asks for; empty: measure.<name> is a list of sections where there may be several.
  std::function<std::vector<core::Polymorphic<Measure>>(const Measure& given)> each = {};
  std::string name = {};  // filled in by the table

  bool has_sections() const { return is_list && !each; }  // measure.<name> is a list of sections
};

// The table. Lists stand before single sections.
const std::vector<MeasureKind>& measure_kinds();
const MeasureKind& measure_kind(const std::string& name);  // TORCH_CHECKs that it exists

// One more measure while it lives, for tests.
class ExtraMeasure {
 public:
  explicit ExtraMeasure(MeasureKind kind);
  ~ExtraMeasure();
  ExtraMeasure(const ExtraMeasure&) = delete;
  ExtraMeasure& operator=(const ExtraMeasure&) = delete;
};

// One measurement that a configuration asks for.
struct Asked {
  const MeasureKind* kind;
  std::shared_ptr<const Measure> options;

  const Measure& measure() const { return *options; }
};

struct MeasureConfig : core::Section, MeasureSettings {
  MeasureConfig();
  void keys(core::Keys& k) override;
  void check() const override;

  std::vector<Asked> asked() const;  // in the order of the table

  // All measurements of one kind.
  template <class M>
  std::vector<const M*> all() const {
    std::vector<const M*> found;
    for (const OfKind& of : kinds_) {
      if (!of.kind.has_sections() && !given(of.kind.name)) continue;
      for (const core::Polymorphic<Measure>& one : of.measurements) {
        if (const auto* measure = dynamic_cast<const M*>(&*one)) found.push_back(measure);
      }
    }
    return found;
  }

 private:
  struct OfKind {
    MeasureKind kind;
    std::vector<core::Polymorphic<Measure>> measurements;  // of a single section: one, asked for or not
  };
  std::vector<OfKind> kinds_;
};

}  // namespace experiments
