// What the tests of grids share: named data, cases over variables, and the definition of a group's range in double.
#pragma once

#include <ATen/ATen.h>

#include <cmath>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "quant/grids/make_format.h"
#include "quant/grids/weight_format.h"
#include "tests/io/support.h"

namespace quant {

constexpr int64_t kCaseRows = 3, kCaseColumns = 12;

inline std::vector<std::pair<std::string, at::Tensor>> named_data() {
  at::manual_seed(11);
  const at::Tensor ramp = at::linspace(-1, 2, kCaseRows * kCaseColumns).reshape({kCaseRows, kCaseColumns});
  const at::Tensor normal = at::randn({kCaseRows, kCaseColumns});
  at::Tensor outlier = normal * 0.01;
  outlier[1][5] = -40;
  return {{"flat", at::full({kCaseRows, kCaseColumns}, 0.7)},
          {"flat negative", at::full({kCaseRows, kCaseColumns}, -0.7)},
          {"ramp", ramp},
          {"plateaus", at::floor(ramp * 2) / 2},
          {"normal", normal},
          {"normal above zero", normal.abs() + 0.1},
          {"one outlier", outlier},
          {"zeros", at::zeros({kCaseRows, kCaseColumns})},
          {"tiny", normal * 1e-6}};
}

// The range is the whole one unless `yaml` says otherwise.
inline WeightConfig weight_config(const std::string& yaml) {
  WeightConfig config;
  config.range = "minmax";
  core::bind(core::parse_yaml(yaml, "test.yaml"), config, "quant.weight");
  return config;
}

struct Case {
  std::string name;
  at::Tensor w;  // [O, I] float32
  std::string variables;
  WeightConfig config;
};

inline void PrintTo(const Case& c, std::ostream* out) { *out << c.name << ", {" << c.variables << "}"; }

// Every named tensor × these bits × these group sizes × these further variables.
inline std::vector<Case> cases(const std::vector<int64_t>& bits, const std::vector<int64_t>& group_sizes,
                               const std::vector<std::string>& variables) {
  std::vector<Case> all;
  for (const auto& [name, w] : named_data()) {
    for (const int64_t b : bits) {
      for (const int64_t group_size : group_sizes) {
        for (const std::string& further : variables) {
          const std::string yaml = fmt::format("bits: {}, group_size: {}, {}", b, group_size, further);
          all.push_back({name, w, yaml, weight_config("{" + yaml + "}")});
        }
      }
    }
  }
  return all;
}

inline std::shared_ptr<const ElementFormat> format_of(const WeightConfig& config) {
  return make_format(config, "test", kCaseColumns, /*seed=*/7);
}

inline Encoded quantized(const WeightFormat& format, const at::Tensor& w, const Statistics& x = {}) {
  return format.encode(w, format.fit(w, x));
}

inline at::Tensor approximation(const WeightFormat& format, const at::Tensor& w, const Statistics& x = {}) {
  const Encoded encoded = quantized(format, w, x);
  return format.decode(encoded.codes, encoded.parameters);
}

inline double top_of(int64_t bits) { return std::pow(2.0, static_cast<double>(bits)) - 1; }

// The group of weight (row, column), counted as the parameters are stored, row-major.
inline int64_t group_of(int64_t row, int64_t column, int64_t group_size) {
  if (group_size == 0) return 0;
  if (group_size == -1) return row;
  return row * (kCaseColumns / group_size) + column / group_size;
}
inline int64_t group_count(int64_t group_size) { return group_of(kCaseRows - 1, kCaseColumns - 1, group_size) + 1; }

struct SlowRange {
  double lo = 0, hi = 0;
  double largest() const { return std::max(hi, -lo); }
  double largest_signed() const { return hi >= -lo ? hi : lo; }
};

inline std::vector<SlowRange> slow_ranges(const at::Tensor& w, int64_t group_size) {
  std::vector<SlowRange> ranges(group_count(group_size));
  for (int64_t i = 0; i < kCaseRows; ++i) {
    for (int64_t j = 0; j < kCaseColumns; ++j) {
      SlowRange& range = ranges[group_of(i, j, group_size)];
      range.lo = std::min(range.lo, w[i][j].item<double>());
      range.hi = std::max(range.hi, w[i][j].item<double>());
    }
  }
  return ranges;
}

inline void for_all(const std::vector<Case>& cases, const std::function<void(const Case&)>& expect) {
  for (const Case& c : cases) {
    SCOPED_TRACE(::testing::PrintToString(c));
    expect(c);
    if (::testing::Test::HasFatalFailure()) return;
  }
}

}  // namespace quant
