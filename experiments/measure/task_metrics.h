// What the log-likelihoods of a task's answers come to (the definitions of metrics: task_table.h).
#pragma once

#include <vector>

#include "experiments/json.h"
#include "experiments/measure/task_items.h"

namespace experiments {

// Which choice of an item wins: by log-likelihood, per character and per byte of the answer; the first of equal ones.
struct Chosen {
  int64_t plain = 0, by_character = 0, by_byte = 0;
};
Chosen chosen(const TaskItems::Item& item, const std::vector<Likelihood>& found);

// The metrics of a task with their standard errors. found: of all requests, in their order.
Json task_metrics(const TaskItems& items, const std::vector<Likelihood>& found);

}  // namespace experiments
