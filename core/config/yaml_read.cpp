// From yaml-cpp's events to a Node tree, without recursion: a stack of the lists and maps that are still open.
// yaml-cpp keeps duplicate keys, does not merge `<<` and copies what an alias names, so all three are dealt with here.
#include <utf8proc.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <system_error>

#include "core/config/node.h"
#include "core/error.h"

namespace core {
namespace {

struct Size {
  std::size_t nodes = 0, depth = 0;
};

Size size_of(const Node& node) {
  Size size{1 + node.scalar.size() / 64, 0};
  const auto add = [&](const Node& child) {
    const Size part = size_of(child);
    size.nodes += part.nodes;
    size.depth = std::max(size.depth, part.depth);
  };
  for (const Node& item : node.items) add(item);
  for (const auto& [name, value] : node.entries) add(value);
  if (!node.is_scalar() && !node.is_null()) ++size.depth;
  return size;
}

class Builder : public YAML::EventHandler {
 public:
  // Origins are "<name>:<line>", or `name` alone for an assignment on the command line.
  Builder(std::string name, bool has_lines) : name_(std::move(name)), has_lines_(has_lines) {}

  Node take() { return std::move(root_); }

  int last_line() const { return last_line_; }  // of the last value that yaml-cpp could read

  std::string origin(int line) const { return has_lines_ ? fmt::format("{}:{}", name_, line) : name_; }

  void OnDocumentStart(const YAML::Mark& mark) override {
    require(documents_++ == 0, "{}: a second document begins here. Keep one document per file.", origin(mark.line + 1));
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override { add(Node(), mark.line + 1, anchor); }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    refuse_tag(tag, mark);
    Node node;
    node.kind = Node::Kind::scalar;
    node.scalar = value;
    node.quoted = tag == "!";
    add(std::move(node), mark.line + 1, anchor);
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const int line = mark.line + 1;
    const auto known = anchors_.find(anchor);
    require(known != anchors_.end(), "{}: an alias stands inside the value that it names. Write the value out.",
            origin(line));
    const Size size = size_of(known->second);
    count(size.nodes, line);
    require(open_.size() + size.depth <= kMaxDepth, "{}: nested more than {} levels deep. Flatten it.", origin(line),
            kMaxDepth);
    attach(known->second, line);
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(make_list(), mark, tag, anchor);
  }
  void OnSequenceEnd() override { close(); }

  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(make_map(), mark, tag, anchor);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Open {
    Node node;
    int line;
    YAML::anchor_t anchor;
    bool has_key = false;  // of a map: the key was read, its value comes next
    std::string key;
    std::map<std::string, int> key_lines;
  };

  void refuse_tag(const std::string& tag, const YAML::Mark& mark) const {
    require(tag.empty() || tag == "!" || tag == "?", "{}: the YAML tag `{}` is not supported. Remove it.",
            origin(mark.line + 1), shown(tag));
  }

  void count(std::size_t nodes, int line) {
    nodes_ += nodes;
    require(nodes_ <= kMaxNodes, "{}: more than {} values once aliases are expanded. Use fewer aliases.", origin(line),
            kMaxNodes);
  }

  void open(Node node, const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    const int line = mark.line + 1;
    refuse_tag(tag, mark);
    require(open_.size() < kMaxDepth, "{}: nested more than {} levels deep. Flatten it.", origin(line), kMaxDepth);
    open_.push_back({std::move(node), line, anchor, false, "", {}});
  }

  void close() {
    Open top = std::move(open_.back());
    open_.pop_back();
    add(std::move(top.node), top.line, top.anchor);
  }

  void add(Node node, int line, YAML::anchor_t anchor) {
    count(1 + node.scalar.size() / 64, line);
    if (anchor != 0) {
      node.origin = origin(line);
      anchors_[anchor] = node;
    }
    attach(std::move(node), line);
  }

  // Puts a finished node where it belongs: the root, an item, a key, the value of a key.
  void attach(Node node, int line) {
    last_line_ = line;
    node.origin = origin(line);
    if (open_.empty()) {
      root_ = std::move(node);
      root_.origin = name_;
      return;
    }
    Open& parent = open_.back();
    if (parent.node.is_list()) {
      parent.node.items.push_back(std::move(node));
    } else if (!parent.has_key) {
      take_key(parent, node, line);
    } else {
      node.origin = origin(parent.key_lines[parent.key]);
      parent.node.entries.emplace_back(parent.key, std::move(node));
      parent.has_key = false;
    }
  }

  void take_key(Open& map, const Node& key, int line) {
    require(key.is_scalar() && !key.scalar.empty(), "{}: a key must be a name, not {}. Write `name: value`.",
            origin(line), key.is_scalar() ? "an empty string" : shown(key));
    require(key.quoted || key.scalar != "<<", "{}: the merge key `<<` is not supported. Write the keys out.",
            origin(line));
    const auto [first, is_new] = map.key_lines.emplace(key.scalar, line);
    map.key = key.scalar;
    if (!is_new && has_lines_) {
      fail("{}: {} is given twice, first on line {}. Keep one of them.", origin(line), path(), first->second);
    }
    require(is_new, "{}: {} is given twice. Keep one of them.", origin(line), path());
    map.has_key = true;
  }

  // Of the key just read: "quant.rules[1].bits".
  std::string path() const {
    std::string text;
    for (const Open& level : open_) {
      if (level.node.is_list()) {
        text += fmt::format("[{}]", level.node.items.size());
      } else {
        text += (text.empty() ? "" : ".") + shown(level.key);
      }
    }
    return text;
  }

  std::string name_;
  bool has_lines_;
  int documents_ = 0;
  int last_line_ = 1;
  std::size_t nodes_ = 0;
  Node root_;
  std::vector<Open> open_;
  std::map<YAML::anchor_t, Node> anchors_;
};

// yaml-cpp takes some control characters for the end of the file, and drops or replaces what is not UTF-8.
void refuse_what_is_not_text(const std::string& text, const Builder& builder) {
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  const auto size = static_cast<utf8proc_ssize_t>(text.size());
  int line = 1;
  for (utf8proc_ssize_t i = 0, length = 0; i < size; i += length) {
    utf8proc_int32_t c = 0;
    length = utf8proc_iterate(bytes + i, size - i, &c);
    require(length > 0, "{}: the byte \\x{:02x} is not UTF-8. Save the file as UTF-8 text.", builder.origin(line),
            bytes[i]);
    require(c >= 0x20 || c == '\n' || c == '\r' || c == '\t',
            "{}: the control character \\x{:02x} cannot stand in YAML. Save the file as UTF-8 text.",
            builder.origin(line), c);
    if (c == '\n') ++line;
  }
}

Node parse(const std::string& text, const std::string& name, bool has_lines) {
  Builder builder(name, has_lines);
  require(text.size() <= kMaxDocumentBytes, "{}: longer than {} bytes. Is this a YAML configuration?", name,
          kMaxDocumentBytes);
  refuse_what_is_not_text(text, builder);
  // The end marker makes yaml-cpp notice a quote that is never closed; at the mere end of a file it lets that pass.
  std::istringstream stream(text + (text.empty() || text.back() == '\n' ? "...\n" : "\n...\n"));
  try {
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& error) {
    const bool in_quotes = error.msg == YAML::ErrorMsg::DOC_IN_SCALAR || error.msg == YAML::ErrorMsg::EOF_IN_SCALAR;
    require(!in_quotes, "{}: a quoted string that begins here, or soon after, is not closed. Add the closing quote.",
            builder.origin(builder.last_line()));
    const std::string where = error.mark.is_null() ? name : builder.origin(error.mark.line + 1);
    fail("{}: not valid YAML: {}. Check indentation, brackets and quotes here.", where, shown(error.msg));
  }
  Node root = builder.take();
  root.origin = name;
  return root;
}

}  // namespace

Node parse_yaml(const std::string& text, const std::string& name) { return parse(text, name, true); }

Node read_yaml(const std::string& path) {
  std::error_code unreadable;  // a folder on the way that may not be entered counts as missing
  require(std::filesystem::exists(path, unreadable), "{}: no such file. Check the path.", shown(path));
  require(!std::filesystem::is_directory(path, unreadable), "{}: is a directory. Name a YAML file in it.", shown(path));
  std::ifstream file(path, std::ios::binary);
  std::string text(kMaxDocumentBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  require(file || file.eof(), "{}: cannot be read. Check its permissions.", shown(path));
  text.resize(static_cast<std::size_t>(file.gcount()));
  return parse_yaml(text, shown(path));
}

std::pair<std::string, Node> parse_override(const std::string& assignment, const std::string& option) {
  const std::string origin = option + " " + shown(assignment);
  const std::size_t equals = assignment.find('=');
  require(equals != std::string::npos, "{}: has no `=`. Write {} key=value.", origin, option);
  return {assignment.substr(0, equals), parse(assignment.substr(equals + 1), origin, false)};
}

}  // namespace core
