// What a configuration says about itself: its values as a document, its help, its table in the docs.
#include <algorithm>

#include "core/config/keys.h"
#include "core/error.h"

namespace core {
namespace {

Node value_node(int64_t value) { return make_integer(value); }
Node value_node(double value) { return make_number(value); }
Node value_node(bool value) { return make_bool(value); }
Node value_node(const std::string& value) { return make_string(value); }
Node value_node(const Node& value) { return value; }

template <class T>
Node value_node(const std::vector<T>& values) {
  std::vector<Node> items;
  for (const T& value : values) items.push_back(value_node(value));
  return make_list(std::move(items));
}

Node key_node(const Key& key, bool identity_only) {
  if (Section* const* section = std::get_if<Section*>(&key.target)) return to_node(**section, identity_only);
  if (const auto* partial = std::get_if<PartialSection>(&key.target)) return *partial->overrides;
  if (const auto* list = std::get_if<SectionList>(&key.target)) {
    std::vector<Node> items;
    for (std::size_t i = 0; i < list->size(); ++i) items.push_back(to_node(list->item(i), identity_only));
    return make_list(std::move(items));
  }
  Node node;
  std::visit(
      [&](auto member) {
        if constexpr (requires { value_node(*member); }) node = value_node(*member);
      },
      key.target);
  return node;
}

// The section behind a key that has keys of its own: the member, or a fresh item of a list or partial section.
struct Inner {
  std::unique_ptr<Section> owned;
  Section* section = nullptr;
};

Inner inner_of(const Key& key) {
  Inner inner;
  if (Section* const* section = std::get_if<Section*>(&key.target)) inner.section = *section;
  if (const auto* list = std::get_if<SectionList>(&key.target)) inner.owned = list->make();
  if (const auto* partial = std::get_if<PartialSection>(&key.target)) inner.owned = partial->make();
  if (inner.owned) inner.section = inner.owned.get();
  return inner;
}

std::string default_of(const Key& key) {
  if (std::holds_alternative<Section*>(key.target)) return "";
  const Node node = key_node(key, false);
  return node.is_null() ? "" : to_inline_yaml(node);
}

// "(integer in [1, 8], default 4)"
std::string facts(const Key& key) {
  const std::string value = default_of(key);
  return "(" + key.type() + (value.empty() ? "" : ", default " + value) + ")";
}

std::string section_help(Section& section, const std::string& title) {
  const Keys keys = keys_of(section);
  std::string text = title + "\n";
  std::size_t width = 0;
  for (const Key& key : keys.all()) width = std::max(width, key.name.size());
  for (const Key& key : keys.all()) text += fmt::format("  {:<{}}  {} {}\n", key.name, width, key.help, facts(key));
  return keys.all().empty() ? text + "  no keys of its own\n" : text;
}

std::string leaf_help(const Key& key, const std::string& path) {
  const std::string value = default_of(key);
  std::string text = fmt::format("{}: {}\n  type     {}\n", path, key.help, key.type());
  if (!value.empty()) text += fmt::format("  default  {}\n", value);
  if (!key.identity) text += "  changes no result: not part of a run's id\n";
  return text;
}

// "perplexity[0]" -> "perplexity"
std::string without_index(const std::string& name) { return name.substr(0, name.find('[')); }

std::string help_at(Section& section, const std::string& title, const std::string& path, const std::string& rest,
                    const std::string& asked) {
  if (rest.empty()) return section_help(section, title);
  const std::size_t dot = std::min(rest.find('.'), rest.size());
  const std::string name = without_index(rest.substr(0, dot));
  const std::string behind = dot < rest.size() ? rest.substr(dot + 1) : "";
  const Keys keys = keys_of(section);
  const Key* key = keys.find(name);
  if (key == nullptr) fail("--help {}: {}", shown(asked), keys.unknown(path, name));
  const std::string key_path = join_path(path, name);
  const Inner inner = inner_of(*key);
  if (inner.section != nullptr) {
    return help_at(*inner.section, fmt::format("{}: {}", key_path, key->help), key_path, behind, asked);
  }
  require(behind.empty(), "--help {}: {} has no keys of its own. Ask for --help {}.", shown(asked), key_path, key_path);
  return leaf_help(*key, key_path);
}

// A cell of a Markdown table.
std::string cell(const std::string& text) {
  std::string escaped;
  for (char c : text) escaped += c == '|' ? "\\|" : std::string(1, c);
  return escaped;
}

void write_table(Section& section, const std::string& path, const std::string& help, std::string& out) {
  const Keys keys = keys_of(section);
  out += path.empty() ? "## Top level\n" : fmt::format("\n## `{}`\n{}\n", path, help);
  out += keys.all().empty() ? "\nNo keys of its own.\n" : "\n| key | type | default | meaning |\n|---|---|---|---|\n";
  for (const Key& key : keys.all()) {
    const std::string value = default_of(key);
    out += fmt::format("| `{}` | {} | {} | {}{} |\n", key.name, cell(key.type()),
                       value.empty() ? "" : "`" + cell(value) + "`", cell(key.help),
                       key.identity ? "" : " (not part of a run's id)");
  }
  for (const Key& key : keys.all()) {
    if (std::holds_alternative<PartialSection>(key.target)) continue;  // its full section has a table elsewhere
    const Inner inner = inner_of(key);
    const bool is_list = std::holds_alternative<SectionList>(key.target);
    if (inner.section == nullptr) continue;
    write_table(*inner.section, join_path(path, key.name) + (is_list ? "[]" : ""), key.help, out);
  }
}

}  // namespace

Node to_node(Section& config, bool identity_only) {
  Node map = make_map();
  const Keys keys = keys_of(config);
  for (const Key& key : keys.all()) {
    if (identity_only && !key.identity) continue;
    if (key.optional && !config.given(key.name)) continue;
    Node value = key_node(key, identity_only);
    if (!value.is_null()) map.entries.emplace_back(key.name, std::move(value));
  }
  return map;
}

std::string help(Section& config, const std::string& path) {
  return help_at(config, "Keys of a configuration:", "", path, path);
}

std::string key_table(Section& config) {
  std::string text;
  write_table(config, "", "", text);
  return text;
}

}  // namespace core
