// What a configuration expects of its results, so that the file is a regression test:
//
//   expect:
//     "quantized.perplexity[0].ppl": {max: 21.4}                                   # of every point
//     "bits.codes": [{equal: 2, point: {quant.weight.bits: 2}}, {equal: 3, point: {quant.weight.bits: 3}}]
#pragma once

#include <string>
#include <vector>

#include "core/config/keys.h"
#include "core/config/path.h"

namespace experiments {

// Bounds on one value of results.json.
struct Expectation : core::Section {
  std::string path;  // of the value: quantized.perplexity[0].ppl
  std::vector<core::PathStep>
      place;                // of these bounds in the document: expect, path, and an index if there are several
  double min = 0, max = 0;  // inclusive; if given
  core::Node equal;         // a number or a text; null: not given
  double tolerance = 0;     // |value − equal| that still passes
  core::Node point;         // dotted keys -> values; null: every point

  void keys(core::Keys& k) override;
  void check() const override;
};

// `expect`: paths -> bounds, or a list of them. Everything but the results is checked.
std::vector<Expectation> read_expectations(const core::Node& expect);

// Whether a point with these keys (core::to_node) is meant.
bool applies(const Expectation& expectation, const core::Node& resolved);

}  // namespace experiments
