// Dotted paths: `quant.weight.bits`, `transform[0].smoothquant`. The same syntax reaches into a document from --set,
// from the sweep and from error messages.
#include "core/config/path.h"

#include <algorithm>
#include <charconv>

#include "core/config/node.h"
#include "core/error.h"

namespace core {
namespace {

// "[12]" at the start of `text`: the index, `text` moves behind it. False if it is malformed.
bool take_index(std::string_view& text, std::size_t& index) {
  const std::size_t close = text.find(']');
  if (close == std::string_view::npos) return false;
  const char* end = text.data() + close;
  const auto [stop, error] = std::from_chars(text.data() + 1, end, index);
  if (error != std::errc() || stop != end) return false;
  text.remove_prefix(close + 1);
  return true;
}

// A name, then any number of indices, then a dot or the end. False if `path` is malformed.
bool split(std::string_view path, std::vector<PathStep>& steps) {
  while (true) {
    const std::size_t length = std::min(path.find_first_of(".[]"), path.size());
    const std::string_view name = path.substr(0, length);
    if (name.empty() || name.find_first_of(" \t\r\n\"'`") != std::string_view::npos) return false;
    steps.emplace_back(std::string(name));
    path.remove_prefix(length);
    while (!path.empty() && path[0] == '[') {
      std::size_t index = 0;
      if (!take_index(path, index)) return false;
      steps.emplace_back(index);
    }
    if (path.empty()) return true;
    if (path[0] != '.') return false;
    path.remove_prefix(1);
  }
}

}  // namespace

std::vector<PathStep> steps_of(std::string_view path, const std::string& origin) {
  std::vector<PathStep> steps;
  if (!split(path, steps)) {
    fail("{}. Write names joined by dots, and list items as a[0].b.",
         at(origin, fmt::format("`{}` is not the path of a key", shown(path))));
  }
  require(steps.size() <= kMaxDepth, "{}. Write at most {}.",
          at(origin, fmt::format("`{}` has {} names", shown(path), steps.size())), kMaxDepth);
  return steps;
}

std::string text_of(const std::vector<PathStep>& steps, std::size_t count) {
  std::string text;
  for (std::size_t i = 0; i < count; ++i) {
    if (const auto* name = std::get_if<std::string>(&steps[i])) {
      text += (i == 0 ? "" : ".") + *name;
    } else {
      text += fmt::format("[{}]", std::get<std::size_t>(steps[i]));
    }
  }
  return text;
}

namespace {

// The child that steps[i] names, made if it is a missing key of a map.
Node& step_into(Node& node, const std::vector<PathStep>& steps, std::size_t i, const std::string& origin) {
  const auto here = [&] { return text_of(steps, i); };
  if (const auto* name = std::get_if<std::string>(&steps[i])) {
    if (node.is_null()) node = make_map();
    require(node.is_map(), "{} is {}, not a map; it has no `{}`. Set the whole of it, or correct the path.",
            at(origin, here()), shown(node), shown(*name));
    if (Node* child = node.find(*name)) return *child;
    node.entries.emplace_back(*name, Node());
    Node& child = node.entries.back().second;
    child.origin = origin;
    return child;
  }
  const std::size_t index = std::get<std::size_t>(steps[i]);
  require(!node.is_null(), "{} is not set, so it has no item {}. Set the whole list.", at(origin, here()), index);
  require(node.is_list(), "{} is {}, not a list; it has no item {}. Set the whole of it, or correct the path.",
          at(origin, here()), shown(node), index);
  const std::size_t size = node.items.size();
  require(size > 0, "{} is an empty list, so it has no item {}. Set the whole list.", at(origin, here()), index);
  require(index < size, "{} has {} item{}, so it has no item {}. Write an index below {}, or set the whole list.",
          at(origin, here()), size, size == 1 ? "" : "s", index, size);
  return node.items[index];
}

}  // namespace

void assign(Node& root, std::string_view dotted_path, Node value) {
  const std::string origin = value.origin;
  const std::vector<PathStep> steps = steps_of(dotted_path, origin);
  Node* node = &root;
  for (std::size_t i = 0; i < steps.size(); ++i) node = &step_into(*node, steps, i, origin);
  *node = std::move(value);
}

const Node* lookup(const Node& root, std::string_view dotted_path) {
  const Node* node = &root;
  for (const PathStep& step : steps_of(dotted_path, "")) {
    if (const auto* name = std::get_if<std::string>(&step)) {
      node = node->find(*name);
    } else {
      const std::size_t index = std::get<std::size_t>(step);
      node = node->is_list() && index < node->items.size() ? &node->items[index] : nullptr;
    }
    if (node == nullptr) return nullptr;
  }
  return node;
}

}  // namespace core
