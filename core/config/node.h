// A YAML document as a tree in which every node knows where it came from, so that any later check can say
// "configs/a.yaml:5" or "--set quant.weight.bits=9". yaml-cpp does the parsing; what it lets pass is refused here:
// duplicate keys, merge keys, tags, several documents, documents that grow without end through aliases.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace core {

struct Node {
  enum class Kind { null, scalar, list, map };

  Kind kind = Kind::null;
  std::string origin;                                 // "configs/a.yaml:5", "--set a.b=2", "" if made by the program
  std::string scalar;                                 // text of a scalar, quotes and escapes resolved
  bool quoted = false;                                // a scalar in quotes is a string, whatever it looks like
  std::vector<Node> items;                            // of a list
  std::vector<std::pair<std::string, Node>> entries;  // of a map, in the order of the file; names are unique

  bool is_null() const { return kind == Kind::null; }
  bool is_scalar() const { return kind == Kind::scalar; }
  bool is_list() const { return kind == Kind::list; }
  bool is_map() const { return kind == Kind::map; }

  // The value of `name` in a map; nullptr if there is none, or if this is not a map.
  const Node* find(std::string_view name) const;
  Node* find(std::string_view name);

  // Same content, whatever the origins; `a` and `"a"` are equal, `2` and `"2"` are not.
  bool operator==(const Node& other) const;
};

// Limits that no honest configuration meets; beyond them a document is refused, so recursion and memory are bounded.
inline constexpr std::size_t kMaxDocumentBytes = std::size_t{1} << 20;
inline constexpr std::size_t kMaxDepth = 64;         // nesting of maps and lists, and names in a dotted path
inline constexpr std::size_t kMaxNodes = 1'000'000;  // after aliases are expanded; 64 bytes of text count as one more

// Reads one document from a file; an empty file is a null node. A value's origin is the line of its key.
Node read_yaml(const std::string& path);

// The same from memory. `name` stands where the file name would: origins read "<name>:<line>".
Node parse_yaml(const std::string& text, const std::string& name);

// "quant.weight.bits=2" -> {"quant.weight.bits", node}; the value is YAML, every origin in it "<option> <assignment>".
std::pair<std::string, Node> parse_override(const std::string& assignment, const std::string& option = "--set");

// Replaces the node at a dotted path ("quant.weight.bits", "transform[0].smoothquant") by `value`. Missing maps are
// made, list items must exist: a missing item, a step through a scalar or a malformed path is an error at value.origin.
void assign(Node& root, std::string_view dotted_path, Node value);

// The node at a dotted path, nullptr if there is none; a malformed path is an error.
const Node* lookup(const Node& root, std::string_view dotted_path);

// Appends " (<note>)" to every origin in the tree: annotate(node, "sweep.cases[1]").
void annotate(Node& node, std::string_view note);

// Block style, lists of scalars on one line; parse_yaml of the text gives an equal tree. Ends with a newline.
std::string to_yaml(const Node& node);

// One line: `{bits: 2, noise: {sigma: 0.0}}`, `[1, 2]`, `"08"`.
std::string to_inline_yaml(const Node& node);

// Nodes made by the program. A string that YAML would read as something else is marked as quoted.
Node make_string(const std::string& text);
Node make_integer(long long value);
Node make_number(double value);  // shortest text that reads back as the same double: "1.0", "1.0e-08"
Node make_bool(bool value);
Node make_list(std::vector<Node> items = {});
Node make_map(std::vector<std::pair<std::string, Node>> entries = {});

// For messages: "configs/a.yaml:5: quant.weight" (only the path if the origin is empty, and the reverse).
std::string at(const std::string& origin, const std::string& path);

// For messages, always one short line: `2`, `"2"`, "a list", "a map", "nothing".
std::string shown(const Node& node);

// For messages: text without control characters, cut after 80 bytes.
std::string shown(std::string_view text);

}  // namespace core
