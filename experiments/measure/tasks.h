// Downstream tasks (experiments/measure/task_table.h) without training for them: every answer is scored by its
// log-likelihood behind the question, as lm-evaluation-harness does (Gao et al., zenodo 12608602; version 0.4.13).
#pragma once

#include <string>
#include <vector>

#include "experiments/measure/measure.h"
#include "experiments/measure/task_metrics.h"

namespace experiments {

struct TasksConfig : Measure {
  std::vector<std::string> names;
  int64_t limit = 0;
  int64_t shots = 0;

  void keys(core::Keys& k) override;
  void check() const override;

  int version() const override { return 1; }
  Prepared prepare(Texts& texts) const override;  // of the only name
  std::vector<Column> columns() const override;
  ItemFile items() const override;
  std::string label(const Json& values) const override;
  std::vector<std::string> identity() const override { return {"task", "items", "shots"}; }

  TaskRequest request(const std::string& name) const;
};

}  // namespace experiments
