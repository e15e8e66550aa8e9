// A configuration key is declared once. Every configuration struct derives from Section and lists its keys in keys():
//
//   struct Weight : core::Section {
//     int64_t bits = 4;
//     void keys(core::Keys& k) override { k.key("bits", bits, "bits per weight", {1, 8}); }
//   };
//
// From this one declaration (name, member, help, range; the default is the member's initialiser) come the check of a
// YAML document (bind), the resolved file and the run's id (to_node), `--help` (help) and the docs' table (key_table).
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/config/node.h"

namespace core {

class Keys;

inline constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Values that a number may take.
struct Range {
  double low = -kInfinity;
  double high = kInfinity;
  bool low_open = false;
  bool high_open = false;

  bool contains(double value) const;
  bool is_bounded() const;   // excludes at least one finite number
  std::string text() const;  // "[1, 8]", "(0, 1]", "[0, inf)"
};

// A configuration struct. Copies are independent: members and the record of what was given.
class Section {
 public:
  virtual ~Section() = default;

  // Declares every key: called afresh whenever the declarations are needed, on an object with any values.
  virtual void keys(Keys& k) = 0;

  // Rules across keys, run by bind() after all values are in, inner sections first:
  //   core::require(a < b, "{} must be below b = {}. Lower it.", where("a"), b);
  virtual void check() const {}

  // "configs/a.yaml:5: quant.weight.bits", for messages. A key that was not given points at its section.
  std::string where(std::string_view key) const;

  // The document gave this key, as opposed to: it has its default. A resolved file gives every key that it holds.
  bool given(std::string_view key) const;

 private:
  friend class Binder;
  std::string origin_, path_;
  std::map<std::string, std::string, std::less<>> given_;  // key -> "configs/a.yaml:5: quant.weight.bits"
};

// A std::vector of sections without its type.
struct SectionList {
  std::function<std::size_t()> size;
  std::function<Section&(std::size_t)> item;
  std::function<void(std::size_t)> reset;  // to n items with their defaults
  std::function<std::unique_ptr<Section>()> make;
};

// A section of which some keys are given, kept as a node and later bound over a copy of the full section.
struct PartialSection {
  std::function<std::unique_ptr<Section>()> make;
  Node* overrides;
};

// One declaration.
struct Key {
  using Target = std::variant<int64_t*, double*, bool*, std::string*, std::vector<int64_t>*, std::vector<double>*,
                              std::vector<std::string>*, Section*, SectionList, PartialSection, Node*>;
  std::string name;
  Target target;
  std::string help;
  Range range;                       // of a number, or of each number of a list
  std::vector<std::string> choices;  // of a string, or of each string of a list; empty: any
  bool identity = true;
  bool optional = false;

  // Does not enter the run's id: out, quiet, residency, threads.
  Key& not_identity();
  // to_node() leaves it out unless it was given: {smoothquant: ...} | {rotation: ...}, of which an item has one.
  Key& only_if_given();

  std::string type() const;  // "integer in [1, 8]", "list of numbers", "one of none, rtn", "section", ...
};

// Collects the declarations of one section, in order. Every call returns its Key: k.key(...).not_identity().
class Keys {
 public:
  Key& key(const std::string& name, int64_t& value, const std::string& help, Range range = {});
  Key& key(const std::string& name, double& value, const std::string& help, Range range = {});
  Key& key(const std::string& name, bool& value, const std::string& help);
  Key& key(const std::string& name, std::string& value, const std::string& help, std::vector<std::string> choices = {});
  Key& key(const std::string& name, std::vector<int64_t>& value, const std::string& help, Range range = {});
  Key& key(const std::string& name, std::vector<double>& value, const std::string& help, Range range = {});
  Key& key(const std::string& name, std::vector<std::string>& value, const std::string& help,
           std::vector<std::string> choices = {});

  // A map with keys of its own.
  Key& section(const std::string& name, Section& section, const std::string& help);

  // A list of maps; a list in the document replaces the default one.
  template <class S>
  Key& list(const std::string& name, std::vector<S>& items, const std::string& help) {
    SectionList erased;
    erased.size = [&items] { return items.size(); };
    erased.item = [&items](std::size_t i) -> Section& { return items[i]; };
    erased.reset = [&items](std::size_t n) { items = std::vector<S>(n); };
    erased.make = [] { return std::make_unique<S>(); };
    return list(name, std::move(erased), help);
  }
  Key& list(const std::string& name, SectionList items, const std::string& help);

  // Some keys of section S: unknown keys, types and ranges are checked now, rules across keys when the overrides are
  // bound over a copy of the base: `Weight w = base; bind(rule.weight, w, "quant.rules[0].weight")`. Null if not given.
  template <class S>
  Key& partial(const std::string& name, Node& overrides, const std::string& help) {
    return partial(name, PartialSection{[] { return std::make_unique<S>(); }, &overrides}, help);
  }
  Key& partial(const std::string& name, PartialSection section, const std::string& help);

  // Kept as it is written, whatever it holds; its owner checks it. Null if not given.
  Key& node(const std::string& name, Node& value, const std::string& help);

  const std::deque<Key>& all() const { return keys_; }
  const Key* find(std::string_view name) const;
  std::vector<std::string> names() const;

  // "quant.weight.goup_size is not a known key. Did you mean `group_size`? Known keys: bits, group_size."
  std::string unknown(const std::string& section_path, std::string_view name) const;

 private:
  Key& add(const std::string& name, Key::Target target, const std::string& help);
  std::deque<Key> keys_;  // a deque: references stay valid
};

// The declarations of one section. They point into it: do not outlive it, nor resize its lists meanwhile.
Keys keys_of(Section& section);

// "quant" and "weight" -> "quant.weight"; "" and "quant" -> "quant".
std::string join_path(const std::string& section_path, std::string_view name);

// Assigns everything that `root` (a map, or null for nothing) gives, then runs every section's check(), inner first.
// The first mistake throws UserError: unknown key, wrong type, out of range, not one of the choices, null.
// `path` is the name of `config` in the document; "" for the whole.
void bind(const Node& root, Section& config, const std::string& path = "");

// Every key with its value, in the order of declaration: resolved.yaml, and with `identity_only` the text of the run's
// id. Binding the result gives the same values.
Node to_node(Section& config, bool identity_only = false);

// Text of `--help <path>`: a section's keys with type, default and meaning, or one key. "" is the whole configuration;
// list indices may be left out. An unknown path is an error with the nearest name.
std::string help(Section& config, const std::string& path);

// Markdown: one table of keys per section, in the order of declaration.
std::string key_table(Section& config);

}  // namespace core
