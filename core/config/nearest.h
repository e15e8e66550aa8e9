// "Did you mean ...?": the known name that a misspelt one was probably meant to be.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace core {

// The candidate with the least edit distance (insert, delete, replace, swap of neighbours; case counts little), if it
// is within a third of the candidate's length, at least one; otherwise "". Of equals, the first.
std::string nearest(std::string_view name, const std::vector<std::string>& candidates);

// " Did you mean `group_size`?", or "" if nothing is near; to be put behind a sentence.
std::string did_you_mean(std::string_view name, const std::vector<std::string>& candidates);

// "none, rtn, gptq"; "none" if there is no name at all.
std::string joined(const std::vector<std::string>& names);

}  // namespace core
