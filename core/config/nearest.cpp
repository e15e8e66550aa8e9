#include "core/config/nearest.h"

#include <algorithm>

namespace core {
namespace {

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

// Edits that turn a into b, counted in half edits: insert, delete, replace, swap cost 2, a change of case 1.
// Optimal string alignment, row by row (Wagner and Fischer 1974, with the swap of Damerau 1964).
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before, above(b.size() + 1), row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) above[j] = 2 * j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = 2 * i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t change = a[i - 1] == b[j - 1] ? 0 : lower(a[i - 1]) == lower(b[j - 1]) ? 1 : 2;
      row[j] = std::min({above[j] + 2, row[j - 1] + 2, above[j - 1] + change});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) row[j] = std::min(row[j], before[j - 2] + 2);
    }
    before = above;
    above = row;
  }
  return above[b.size()];
}

std::size_t tolerance(std::string_view candidate) { return std::max<std::size_t>(1, candidate.size() / 3); }

}  // namespace

std::string nearest(std::string_view name, const std::vector<std::string>& candidates) {
  std::string best;
  std::size_t least = 0;
  for (const std::string& candidate : candidates) {
    const std::size_t longer = std::max(name.size(), candidate.size()),
                      shorter = std::min(name.size(), candidate.size());
    if (longer - shorter > tolerance(candidate)) continue;
    const std::size_t edits = distance(name, candidate);
    const bool only_case = std::equal(name.begin(), name.end(), candidate.begin(), candidate.end(),
                                      [](char a, char b) { return lower(a) == lower(b); });
    if (!only_case && (edits > 2 * tolerance(candidate) || edits >= 2 * shorter))
      continue;  // near, and partly the same
    if (best.empty() || edits < least) {
      best = candidate;
      least = edits;
    }
  }
  return best;
}

std::string did_you_mean(std::string_view name, const std::vector<std::string>& candidates) {
  const std::string best = nearest(name, candidates);
  return best.empty() ? "" : " Did you mean `" + best + "`?";
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text.empty() ? "none" : text;
}

}  // namespace core
