// How sure a mean over windows, prompts or items is.
#pragma once

#include <utility>
#include <vector>

namespace experiments {

// The 95 % interval of the mean of `values` by the moving-block bootstrap (Künsch 1989): blocks of consecutive
// windows, as long as the cube root of their number, are drawn with replacement, 10,000 times, from our own seeded
// generator.
std::pair<double, double> bootstrap_interval(const std::vector<double>& values);

}  // namespace experiments
