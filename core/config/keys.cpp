#include "core/config/keys.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "core/config/nearest.h"

namespace core {
namespace {

template <class... Fs>
struct Overloaded : Fs... {
  using Fs::operator()...;
};
template <class... Fs>
Overloaded(Fs...) -> Overloaded<Fs...>;

std::string numbers(const std::string& word, const Range& range) {
  return range.is_bounded() ? word + " in " + range.text() : word;
}

}  // namespace

bool Range::contains(double value) const {
  return (low_open ? value > low : value >= low) && (high_open ? value < high : value <= high);
}

bool Range::is_bounded() const { return std::isfinite(low) || std::isfinite(high); }

std::string Range::text() const {
  const bool left_open = low_open || std::isinf(low), right_open = high_open || std::isinf(high);
  return fmt::format("{}{}, {}{}", left_open ? '(' : '[', low, high, right_open ? ')' : ']');
}

std::string Section::where(std::string_view key) const {
  const auto found = given_.find(key);
  return found != given_.end() ? found->second : at(origin_, join_path(path_, key));
}

bool Section::given(std::string_view key) const { return given_.find(key) != given_.end(); }

Key& Key::not_identity() {
  identity = false;
  return *this;
}

Key& Key::only_if_given() {
  optional = true;
  return *this;
}

std::string Key::type() const {
  return std::visit(Overloaded{
                        [&](int64_t*) { return numbers("integer", range); },
                        [&](double*) { return numbers("number", range); },
                        [](bool*) { return std::string("true or false"); },
                        [&](std::string*) { return choices.empty() ? "string" : "one of " + joined(choices); },
                        [&](std::vector<int64_t>*) { return numbers("list of integers", range); },
                        [&](std::vector<double>*) { return numbers("list of numbers", range); },
                        [&](std::vector<std::string>*) {
                          return choices.empty() ? "list of strings" : "list, each one of " + joined(choices);
                        },
                        [](Section*) { return std::string("section"); },
                        [](const SectionList&) { return std::string("list of sections"); },
                        [](const PartialSection&) { return std::string("section, any of its keys"); },
                        [](Node*) { return std::string("YAML"); },
                    },
                    target);
}

Key& Keys::add(const std::string& name, Key::Target target, const std::string& help) {
  const bool valid = !name.empty() && name.find_first_of(".[] ") == std::string::npos;
  if (!valid || find(name) != nullptr) throw std::logic_error("key `" + name + "` is malformed or declared twice");
  Key key;
  key.name = name;
  key.target = std::move(target);
  key.help = help;
  return keys_.emplace_back(std::move(key));
}

Key& Keys::key(const std::string& name, int64_t& value, const std::string& help, Range range) {
  Key& key = add(name, &value, help);
  key.range = range;
  return key;
}

Key& Keys::key(const std::string& name, double& value, const std::string& help, Range range) {
  Key& key = add(name, &value, help);
  key.range = range;
  return key;
}

Key& Keys::key(const std::string& name, bool& value, const std::string& help) { return add(name, &value, help); }

Key& Keys::key(const std::string& name, std::string& value, const std::string& help, std::vector<std::string> choices) {
  Key& key = add(name, &value, help);
  key.choices = std::move(choices);
  return key;
}

Key& Keys::key(const std::string& name, std::vector<int64_t>& value, const std::string& help, Range range) {
  Key& key = add(name, &value, help);
  key.range = range;
  return key;
}

Key& Keys::key(const std::string& name, std::vector<double>& value, const std::string& help, Range range) {
  Key& key = add(name, &value, help);
  key.range = range;
  return key;
}

Key& Keys::key(const std::string& name, std::vector<std::string>& value, const std::string& help,
               std::vector<std::string> choices) {
  Key& key = add(name, &value, help);
  key.choices = std::move(choices);
  return key;
}

Key& Keys::section(const std::string& name, Section& section, const std::string& help) {
  return add(name, &section, help);
}

Key& Keys::list(const std::string& name, SectionList items, const std::string& help) {
  return add(name, std::move(items), help);
}

Key& Keys::partial(const std::string& name, PartialSection section, const std::string& help) {
  return add(name, std::move(section), help);
}

Key& Keys::node(const std::string& name, Node& value, const std::string& help) { return add(name, &value, help); }

const Key* Keys::find(std::string_view name) const {
  const auto found = std::find_if(keys_.begin(), keys_.end(), [&](const Key& key) { return key.name == name; });
  return found == keys_.end() ? nullptr : &*found;
}

std::vector<std::string> Keys::names() const {
  std::vector<std::string> names;
  for (const Key& key : keys_) names.push_back(key.name);
  return names;
}

std::string Keys::unknown(const std::string& section_path, std::string_view name) const {
  return fmt::format("{} is not a known key.{} Known keys: {}.", join_path(section_path, shown(name)),
                     did_you_mean(name, names()), joined(names()));
}

Keys keys_of(Section& section) {
  Keys keys;
  section.keys(keys);
  return keys;
}

std::string join_path(const std::string& section_path, std::string_view name) {
  if (name.empty()) return section_path;  // the section itself
  return section_path.empty() ? std::string(name) : fmt::format("{}.{}", section_path, name);
}

}  // namespace core
