#include "core/config/node.h"

#include <algorithm>
#include <utility>

#include "core/config/scalar.h"
#include "core/error.h"

namespace core {

const Node* Node::find(std::string_view name) const {
  const auto at = std::find_if(entries.begin(), entries.end(), [&](const auto& entry) { return entry.first == name; });
  return at == entries.end() ? nullptr : &at->second;
}

Node* Node::find(std::string_view name) { return const_cast<Node*>(std::as_const(*this).find(name)); }

// A scalar that nobody takes for a number, a bool or null.
static bool is_text(const Node& node) { return node.quoted || reads_as_string(node.scalar) || !is_bare(node.scalar); }

bool Node::operator==(const Node& other) const {
  return kind == other.kind && scalar == other.scalar && is_text(*this) == is_text(other) && items == other.items &&
         entries == other.entries;
}

void annotate(Node& node, std::string_view note) {
  node.origin += fmt::format(" ({})", note);
  for (Node& item : node.items) annotate(item, note);
  for (auto& [name, value] : node.entries) annotate(value, note);
}

Node make_string(const std::string& text) {
  Node node;
  node.kind = Node::Kind::scalar;
  node.scalar = text;
  node.quoted = !reads_as_string(text);
  return node;
}

static Node bare(std::string text) {
  Node node;
  node.kind = Node::Kind::scalar;
  node.scalar = std::move(text);
  return node;
}

Node make_integer(long long value) { return bare(fmt::format("{}", value)); }
Node make_number(double value) { return bare(format_number(value)); }
Node make_bool(bool value) { return bare(value ? "true" : "false"); }

Node make_list(std::vector<Node> items) {
  Node node;
  node.kind = Node::Kind::list;
  node.items = std::move(items);
  return node;
}

Node make_map(std::vector<std::pair<std::string, Node>> entries) {
  Node node;
  node.kind = Node::Kind::map;
  node.entries = std::move(entries);
  return node;
}

std::string at(const std::string& origin, const std::string& path) {
  if (origin.empty()) return path;
  return path.empty() ? origin : origin + ": " + path;
}

std::string shown(const Node& node) {
  switch (node.kind) {
    case Node::Kind::null:
      return "nothing";
    case Node::Kind::list:
      return "a list";
    case Node::Kind::map:
      return "a map";
    case Node::Kind::scalar:
      break;
  }
  return node.quoted ? "`\"" + shown(node.scalar) + "\"`" : "`" + shown(node.scalar) + "`";
}

std::string shown(std::string_view text) {
  constexpr std::size_t kLongest = 80;
  std::string line;
  for (char c : text.substr(0, kLongest)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      line += fmt::format("\\x{:02x}", byte);
    } else {
      line += c;
    }
  }
  if (text.size() <= kLongest) return line;
  while (!line.empty() && (static_cast<unsigned char>(line.back()) & 0xC0) == 0x80)
    line.pop_back();  // half a character
  if (!line.empty() && static_cast<unsigned char>(line.back()) >= 0xC0) line.pop_back();
  return line + "...";
}

}  // namespace core
