// Puts a document into the members that the keys are bound to, and refuses what does not fit, with file, line and path.
#include <algorithm>
#include <stdexcept>

#include "core/config/keys.h"
#include "core/config/nearest.h"
#include "core/config/scalar.h"
#include "core/error.h"

namespace core {
namespace {

// One value of the document, its key and its path: what every message is made of.
struct Given {
  const Node& node;
  const Key& key;
  std::string path;  // "quant.weight.bits", "seeds[1]"

  std::string where() const { return at(node.origin, path); }
};

std::string write_number(const Key& key, const char* unbounded) {
  return key.range.is_bounded() ? "Write a number in " + key.range.text() : unbounded;
}

void refuse_null(const Given& given) {
  require(!given.node.is_null(), "{} has no value. Write one ({}), or remove the key.", given.where(),
          given.key.type());
}

void check_range(double value, const Given& given) {
  require(given.key.range.contains(value), "{} is out of range: {}. Write a number in {}.", given.where(),
          shown(given.node.scalar), given.key.range.text());
}

void check_choice(const std::string& value, const Given& given) {
  const std::vector<std::string>& choices = given.key.choices;
  const bool is_choice = choices.empty() || std::find(choices.begin(), choices.end(), value) != choices.end();
  require(is_choice, "{}: `{}` is not one of its values.{} Choices: {}.", given.where(), shown(value),
          did_you_mean(value, choices), joined(choices));
}

// What to write instead of text that is not a number: the number, if only quotes or zeros hide it.
std::string instead(const Node& node, const std::string& otherwise) {
  if (!node.is_scalar()) return otherwise;
  if (node.quoted && parse_number(node.scalar)) return "Write it without quotes";
  const std::size_t zeros = std::min(node.scalar.find_first_not_of('0'), node.scalar.size());
  const std::string bare = node.scalar.substr(zeros);
  const bool is_padded = zeros > 0 && parse_integer(bare);
  return is_padded ? fmt::format("Write it without leading zeros: {}", bare) : otherwise;
}

void assign_value(int64_t& value, const Given& given) {
  const Node& node = given.node;
  const auto number = node.is_scalar() && !node.quoted ? parse_integer(node.scalar) : std::nullopt;
  if (!number) {
    fail("{} must be an integer, not {}. {}.", given.where(), shown(node),
         instead(node, write_number(given.key, "Write a whole number")));
  }
  check_range(static_cast<double>(*number), given);
  value = *number;
}

void assign_value(double& value, const Given& given) {
  const Node& node = given.node;
  const auto number = node.is_scalar() && !node.quoted ? parse_number(node.scalar) : std::nullopt;
  if (!number) {
    fail("{} must be a finite number, not {}. {}.", given.where(), shown(node),
         instead(node, write_number(given.key, "Write a number")));
  }
  check_range(*number, given);
  value = *number;
}

void assign_value(bool& value, const Given& given) {
  const Node& node = given.node;
  const bool is_bool = node.is_scalar() && !node.quoted && (node.scalar == "true" || node.scalar == "false");
  require(is_bool, "{} must be true or false, not {}. Write true or false.", given.where(), shown(node));
  value = node.scalar == "true";
}

void assign_value(std::string& value, const Given& given) {
  const Node& node = given.node;
  require(node.is_scalar(), "{} must be a string, not {}. {}.", given.where(), shown(node),
          given.key.choices.empty() ? "Write one value" : "Choices: " + joined(given.key.choices));
  check_choice(node.scalar, given);
  value = node.scalar;
}

template <class T>
void assign_value(std::vector<T>& values, const Given& given) {
  const Node& node = given.node;
  require(node.is_list(), "{} must be a list, not {}. Write a {}{}.", given.where(), shown(node), given.key.type(),
          node.is_scalar() ? ": [" + to_inline_yaml(node) + "]" : "");
  std::vector<T> read(node.items.size());
  for (std::size_t i = 0; i < read.size(); ++i) {
    const Given item{node.items[i], given.key, fmt::format("{}[{}]", given.path, i)};
    refuse_null(item);
    T element{};
    assign_value(element, item);
    read[i] = std::move(element);
  }
  values = std::move(read);
}

}  // namespace

// The recursion over sections; apart from it nobody writes a section's record of what was given.
class Binder {
 public:
  // `node` is null where the document says nothing; `origin` is then the one of the enclosing section.
  static void assign(const Node* node, Section& section, const std::string& path, const std::string& origin) {
    if (node != nullptr || section.origin_.empty()) {
      section.origin_ = node != nullptr ? node->origin : origin;
      section.path_ = path;
    }
    const Keys keys = keys_of(section);
    if (node != nullptr) assign_entries(*node, keys, section);
    for (const Key& key : keys.all()) {
      if (node == nullptr || node->find(key.name) == nullptr) keep_default(key, section);
    }
  }

  // Inner sections first; what may be left out and was is not checked.
  static void check(Section& section) {
    const Keys keys = keys_of(section);
    for (const Key& key : keys.all()) {
      if (key.optional && !section.given(key.name)) continue;
      if (Section* const* inner = std::get_if<Section*>(&key.target)) check(**inner);
      if (const auto* list = std::get_if<SectionList>(&key.target)) {
        for (std::size_t i = 0; i < list->size(); ++i) check(list->item(i));
      }
    }
    section.check();
  }

 private:
  static void assign_entries(const Node& map, const Keys& keys, Section& section) {
    if (map.is_null()) return;
    const std::string& path = section.path_;
    const std::string where = at(map.origin, path.empty() ? "the configuration" : path);
    require(map.is_map(), "{} must be a map, not {}. Known keys: {}.", where, shown(map), joined(keys.names()));
    for (const auto& [name, node] : map.entries) {
      const Key* key = keys.find(name);
      if (key == nullptr) refuse_key(name, node, keys, path);
      const Given given{node, *key, join_path(path, name)};
      refuse_null(given);
      section.given_[name] = given.where();
      assign_key(given);
    }
  }

  [[noreturn]] static void refuse_key(const std::string& name, const Node& node, const Keys& keys,
                                      const std::string& path) {
    const std::string first = name.substr(0, name.find_first_of(".["));
    if (first != name && keys.find(first) != nullptr) {
      fail("{} is a path. In a file nest it in `{}`; paths are for --set and sweep.",
           at(node.origin, join_path(path, shown(name))), first);
    }
    fail("{}", at(node.origin, keys.unknown(path, name)));
  }

  static void assign_key(const Given& given) {
    const Key::Target& target = given.key.target;
    if (const auto* list = std::get_if<SectionList>(&target)) return assign_list(*list, given);
    if (const auto* partial = std::get_if<PartialSection>(&target)) return assign_partial(*partial, given);
    if (Section* const* section = std::get_if<Section*>(&target)) {
      return assign(&given.node, **section, given.path, given.node.origin);
    }
    if (Node* const* node = std::get_if<Node*>(&target)) {
      **node = given.node;
      return;
    }
    std::visit(
        [&](auto member) {
          if constexpr (requires { assign_value(*member, given); }) assign_value(*member, given);
        },
        target);
  }

  static void assign_list(const SectionList& list, const Given& given) {
    const Node& node = given.node;
    require(node.is_list(), "{} must be a list, not {}. Begin each item with `-`.", given.where(), shown(node));
    list.reset(node.items.size());
    for (std::size_t i = 0; i < node.items.size(); ++i) {
      const Given item{node.items[i], given.key, fmt::format("{}[{}]", given.path, i)};
      require(!item.node.is_null(), "{} has no value. Write its keys, or remove the item.", item.where());
      assign(&item.node, list.item(i), item.path, item.node.origin);
    }
  }

  static void assign_partial(const PartialSection& partial, const Given& given) {
    const std::unique_ptr<Section> prototype = partial.make();
    assign(&given.node, *prototype, given.path, given.node.origin);
    *partial.overrides = given.node;
  }

  // A default must satisfy its own declaration, or the resolved file would not bind: a bug of ours, not the user's.
  static void keep_default(const Key& key, Section& section) {
    const std::string path = join_path(section.path_, key.name);
    if (Section* const* inner = std::get_if<Section*>(&key.target)) assign(nullptr, **inner, path, section.origin_);
    if (const auto* list = std::get_if<SectionList>(&key.target)) {
      for (std::size_t i = 0; i < list->size(); ++i) {
        assign(nullptr, list->item(i), fmt::format("{}[{}]", path, i), section.origin_);
      }
    }
    const auto number = [&](double value) {
      if (!key.range.contains(value)) throw std::logic_error(path + ": the default is out of range");
    };
    const auto text = [&](const std::string& value) {
      const bool known =
          key.choices.empty() || std::find(key.choices.begin(), key.choices.end(), value) != key.choices.end();
      if (!known) throw std::logic_error(path + ": the default is not one of the choices");
    };
    if (int64_t* const* value = std::get_if<int64_t*>(&key.target)) number(static_cast<double>(**value));
    if (double* const* value = std::get_if<double*>(&key.target)) number(**value);
    if (std::string* const* value = std::get_if<std::string*>(&key.target)) text(**value);
  }
};

void bind(const Node& root, Section& config, const std::string& path) {
  Binder::assign(&root, config, path, root.origin);
  Binder::check(config);
}

}  // namespace core
