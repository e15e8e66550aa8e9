// Dotted paths taken apart: `a[0].b` is the name `a`, the index 0, the name `b`.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace core {

using PathStep = std::variant<std::string, std::size_t>;  // a name in a map, an index in a list

// Error at `origin` when the path is malformed, or longer than a document can be deep.
std::vector<PathStep> steps_of(std::string_view path, const std::string& origin);

// The first `count` steps as a path.
std::string text_of(const std::vector<PathStep>& steps, std::size_t count);

}  // namespace core
