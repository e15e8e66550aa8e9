#include "core/config/yaml_edit.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>

#include "core/error.h"

namespace core {
namespace {

Node* child(Node& node, const PathStep& step) {
  if (const auto* name = std::get_if<std::string>(&step)) return node.find(*name);
  const std::size_t index = std::get<std::size_t>(step);
  return node.is_list() && index < node.items.size() ? &node.items[index] : nullptr;
}

// Where the value at `path` begins in the text; the path exists.
std::size_t position(const std::string& text, const std::vector<PathStep>& path) {
  YAML::Node node = YAML::Load(text);
  for (const PathStep& step : path) {
    std::visit([&](const auto& key) { node.reset(node[key]); }, step);  // `=` would change the document
  }
  return static_cast<std::size_t>(node.Mark().pos);
}

}  // namespace

std::string replace_scalar(const std::string& text, const std::string& name, const std::vector<PathStep>& path,
                           const Node& value) {
  const auto where = [&] { return at(name, text_of(path, path.size())); };
  Node expected = parse_yaml(text, name);
  Node* target = &expected;
  for (const PathStep& step : path) {
    target = child(*target, step);
    require(target != nullptr, "{} is not in this file. Write it there first.", where());
  }
  require(target->is_scalar(), "{} is {}, not one value. Change it by hand.", where(), shown(*target));
  const std::size_t begin = std::min(position(text, path), text.size());
  const std::size_t length = target->scalar.size() + (target->quoted ? 2 : 0);  // without escapes and line breaks
  const std::string edited =
      text.substr(0, begin) + to_inline_yaml(value) + text.substr(std::min(begin + length, text.size()));
  *target = value;
  bool as_meant = false;  // the value alone has changed
  try {
    as_meant = parse_yaml(edited, name) == expected;
  } catch (const UserError&) {
  }
  require(as_meant,
          "{} is written in a way that is not edited (anchor, alias, escapes or several lines). Change it to "
          "{} by hand.",
          where(), to_inline_yaml(value));
  return edited;
}

}  // namespace core
