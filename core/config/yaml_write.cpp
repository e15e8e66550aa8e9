// Writes a Node as YAML that a person likes to read: block style, lists of scalars on one line, quotes only where
// needed.
#include "core/config/node.h"
#include "core/config/scalar.h"

namespace core {
namespace {

constexpr std::size_t kLineWidth = 100;

std::string scalar_text(const std::string& text, bool quoted) {
  return quoted || !is_bare(text) ? in_quotes(text) : text;
}

std::string name_text(const std::string& name) { return scalar_text(name, !reads_as_string(name)); }

bool is_leaf(const Node& node) {
  return node.is_null() || node.is_scalar() || (node.items.empty() && node.entries.empty());
}

bool fits_one_line(const Node& node, std::size_t indent) {
  if (is_leaf(node)) return true;
  if (node.is_map()) return false;
  for (const Node& item : node.items) {
    if (!is_leaf(item)) return false;
  }
  return indent + to_inline_yaml(node).size() <= kLineWidth;
}

void write(const Node& node, std::size_t indent, std::string& out);

// Behind "name:" or "-": on the same line, or below it.
void write_value(const Node& value, std::size_t indent, std::string& out) {
  if (fits_one_line(value, indent)) {
    out += " " + to_inline_yaml(value) + "\n";
  } else {
    out += "\n";
    write(value, indent, out);
  }
}

void write(const Node& node, std::size_t indent, std::string& out) {
  const std::string margin(indent, ' ');
  for (const auto& [name, value] : node.entries) {
    out += margin + name_text(name) + ":";
    write_value(value, indent + 2, out);
  }
  for (const Node& item : node.items) {
    std::string text;
    write_value(item, indent + 2, text);
    const bool nested = text[0] == '\n';  // its first line moves up behind the dash
    out += margin + "-" + (nested ? " " + text.substr(1 + indent + 2) : text);
  }
}

}  // namespace

std::string to_inline_yaml(const Node& node) {
  if (node.is_null()) return "null";
  if (node.is_scalar()) return scalar_text(node.scalar, node.quoted);
  std::string text;
  for (const Node& item : node.items) text += (text.empty() ? "" : ", ") + to_inline_yaml(item);
  for (const auto& [name, value] : node.entries) {
    text += (text.empty() ? "" : ", ") + name_text(name) + ": " + to_inline_yaml(value);
  }
  return node.is_list() ? "[" + text + "]" : "{" + text + "}";
}

std::string to_yaml(const Node& node) {
  std::string text;
  if (fits_one_line(node, 0)) return to_inline_yaml(node) + "\n";
  write(node, 0, text);
  return text;
}

}  // namespace core
