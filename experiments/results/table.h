// The table of a sweep, made from the columns of its measures: on the screen, as summary.csv and as summary.md.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "experiments/results/row.h"

namespace experiments {

struct Table {
  std::vector<std::string> columns;
  std::vector<std::vector<std::string>> rows;

  std::string text() const;  // aligned, for the terminal
  std::string markdown() const;
  std::string csv() const;
};

// One row per run: what was swept, bits per weight here and of the same coding on linears of 4096 × 4096, of replicas
// eta and the gain in bits (experiments/analysis/efficiency.h); the columns of every measure that some run has;
// seconds. Of more than two measurements that are items of lists each has a row of its own instead of columns beside
// the others'. Each full-precision model stands before its first run. A failed run shows its reason. A point that ran
// with several seeds ends with a row of their means (results/seeds.h).
Table make_table(const std::vector<Row>& rows);

// The tables of details that measures of finished runs have, under the names of the measures: latency with every
// context. One row per run and item.
std::vector<std::pair<std::string, Table>> detail_tables(const std::vector<Row>& rows);

// "quant.weight.bits=2 quant.weight.group_size=64"; "" for a file without a sweep.
std::string label(const std::vector<std::pair<std::string, std::string>>& swept);

// What the whole run is called and was found to be, for a line of an index: the label and the first number of its first
// measurement; "" without one.
std::pair<std::string, std::string> headline(const Row& row);

}  // namespace experiments
