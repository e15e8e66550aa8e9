// The points of a file: a document is expanded into the runs that it asks for, each bound and checked.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "experiments/config/expect.h"
#include "experiments/config/spec.h"

namespace experiments {

class Row;  // results/row.h

// A key of the whole file that one point of its sweep has no use for.
struct InactiveKey {
  std::string key, value;  // "quant.weight.range", "mse"
  std::string reason;      // what leaves it unread: "replication.strategy: parity_sign"
};

// One run of a sweep; a file without a sweep has one.
struct Point {
  Spec spec;                                               // without its sweep
  std::vector<std::pair<std::string, std::string>> swept;  // dotted key, value as text; the columns of the table
  std::vector<Expectation> expect;                         // of this point
  int64_t group = 0;                                       // of points that belong together: a replica, its controls
  std::string control;  // what it is among them (experiments/config/controls.h); "": the point has no controls
  std::vector<InactiveKey> inactive;  // taken out of `spec`, named in the log and in resolved.yaml
};

// Where the points of a sweep come from, generation by generation.
class PointSource {
 public:
  virtual ~PointSource() = default;
  // The points to run next, when the runs of all before have these rows; empty: there are no more.
  virtual std::vector<Point> next(const std::vector<Row>& rows) = 0;
};

// Points that are known before anything runs.
class ListedPoints : public PointSource {
 public:
  explicit ListedPoints(std::vector<Point> points) : points_(std::move(points)) {}
  std::vector<Point> next(const std::vector<Row>& /*rows*/) override { return std::exchange(points_, {}); }

 private:
  std::vector<Point> points_;
};

// All points that a document asks for, each bound and checked. grid: product of its lists; cases: one point each; both:
// every case × the grid. Beside each of them the controls that it asks for: `swept` then says which. Each once per
// seed, if there are `seeds`: `swept` then ends with the seed. `overrides` are assignments "key=value" of the command
// line, stronger than the file. A key of `quant.weight` that the whole file sets, that one point has no use for and
// that another point reads is inactive in the former; set in the same case, or read by no point, it is an error. Of
// models nothing is read but, for the control `curve`, their configuration.
std::vector<Point> read_points(const std::string& file, const std::vector<std::string>& overrides);

}  // namespace experiments
