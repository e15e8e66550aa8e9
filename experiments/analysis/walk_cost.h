// What walks cost that only measure, before they begin: by their multiply-accumulates, at the speed of a matrix
// product.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/model.h"

namespace experiments {

// One such walk over the calibration text.
struct WalkCost {
  std::string key;   // walks of one key are made once
  std::string line;  // "sensitivity by output error: 42 linears, one walk over 6 blocks"
  double macs = 0;   // 0: its result is in the cache
};

// Multiply-accumulates of one token of a window of T in a block: linears, and attention to half of the window.
double macs_of_block(core::Model& model, int64_t block, int64_t T, core::Half only = core::Half::none);
// Of quantizing the linears of a block that `covers` names on so many tokens, their way through the block included.
// With Hessians: measuring, factorizing and using them as gptq does; without, the products of the search for codes are
// few.
double macs_of_quantizing(core::Model& model, int64_t block, int64_t tokens, int64_t T, bool hessian,
                          const std::function<bool(const core::Slot&)>& covers);

// "5 s at least: an estimate, 1.2e+11 multiply-accumulates at the speed of a matrix product". rows, width: of the
// product [rows, width] × [width, width] whose speed is measured, once for each pair.
std::string time_of(double macs, int64_t rows, int64_t width);
std::string duration(double seconds);  // "5 s", "12 min", "3.4 h"

// The walks of several runs.
class WalkCosts {
 public:
  void add(const std::vector<WalkCost>& walks, int64_t width);
  // A line for each, and what all of them take that are not in the cache: "walks that measure: 5 s at least: …".
  std::vector<std::string> lines() const;

 private:
  std::map<std::string, WalkCost> walks_;  // by key
  int64_t width_ = 0;                      // D
};

}  // namespace experiments
