#include "core/io/gguf.h"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <optional>
#include <unordered_map>

#include "core/error.h"
#include "core/io/json_text.h"
#include "core/io/mapped_file.h"

namespace core {
namespace {

// The parts of a split model: `<stem>-00002-of-00003.gguf`.
struct SplitName {
  std::string stem;
  int64_t count = 0;

  std::string part(int64_t number) const { return fmt::format("{}-{:05}-of-{:05}.gguf", stem, number, count); }
};

std::optional<SplitName> split_name(const std::string& file) {
  constexpr size_t kLength = std::string_view("-00001-of-00002.gguf").size();
  if (file.size() <= kLength) return std::nullopt;
  const std::string end = file.substr(file.size() - kLength);
  for (size_t i = 0; i < kLength; ++i) {
    const bool digit = (i >= 1 && i <= 5) || (i >= 10 && i <= 14);
    if (digit ? end[i] < '0' || end[i] > '9' : end[i] != "-00001-of-00002.gguf"[i]) return std::nullopt;
  }
  return SplitName{file.substr(0, file.size() - kLength), std::stoll(end.substr(10, 5))};
}

}  // namespace

struct Gguf::State {
  std::string opened;
  std::vector<std::string> files;
  std::vector<std::unique_ptr<MappedFile>> mappings;
  std::map<std::string, GgufValue> values;  // of the first file
  std::vector<GgufTensor> tensors;
  std::unordered_map<std::string, size_t> by_name;

  void add_file(const std::string& path);
  void check_part(const std::map<std::string, GgufValue>& values, int64_t number, int64_t count) const;
};

void Gguf::State::add_file(const std::string& path) {
  mappings.push_back(std::make_unique<MappedFile>(path));
  files.push_back(path);
  const std::string_view bytes = mappings.back()->bytes();
  GgufHeader header = parse_gguf_header(bytes, path);
  for (GgufEntry& entry : header.tensors) {
    require(by_name.emplace(entry.name, tensors.size()).second,
            "{}: tensor {} is in another part of the model, too. Download all parts again.", path,
            printable(entry.name));
    tensors.push_back({std::move(entry.name), entry.type, std::move(entry.shape),
                       reinterpret_cast<const std::byte*>(bytes.data() + entry.begin), entry.bytes, files.size() - 1});
  }
  const auto split = split_name(path);
  const auto count = header.values.find("split.count");
  const bool is_part = count != header.values.end() && !count->second.integers.empty() && count->second.integers[0] > 1;
  require(!is_part || split.has_value(),
          "{}: this is one of {} parts of a model, and its name does not say which. Give the parts the names that they "
          "had, `…-00001-of-{:05}.gguf`.",
          path, is_part ? count->second.integers[0] : 0, is_part ? count->second.integers[0] : 0);
  if (split) check_part(header.values, static_cast<int64_t>(files.size()), split->count);
  if (files.size() == 1) values = std::move(header.values);
}

// The keys of a part must say what its name says.
void Gguf::State::check_part(const std::map<std::string, GgufValue>& of_part, int64_t number, int64_t count) const {
  const auto says = [&](const char* key, int64_t wanted) {
    const auto found = of_part.find(key);
    return found != of_part.end() && found->second.integers == std::vector<int64_t>{wanted};
  };
  require(says("split.no", number - 1) && says("split.count", count),
          "{}: the file does not say of itself that it is part {} of {}. Download all parts again.", files.back(),
          number, count);
}

bool Gguf::is_gguf(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  std::string letters(4, ' ');
  return stream.read(letters.data(), 4) && letters == "GGUF";
}

Gguf Gguf::open(const std::string& file) {
  auto state = std::make_shared<State>();
  state->opened = file;
  if (const auto split = split_name(file)) {
    for (int64_t number = 1; number <= split->count; ++number) {
      std::error_code ignored;
      require(std::filesystem::exists(split->part(number), ignored),
              "{}: part {} of {}, {}, is missing beside it. Download that file.", file, number, split->count,
              std::filesystem::path(split->part(number)).filename().string());
      state->add_file(split->part(number));
    }
  } else {
    state->add_file(file);
  }
  Gguf out;
  out.state_ = std::move(state);
  const auto all = static_cast<int64_t>(out.tensors().size());
  const int64_t said = out.integer("split.tensors.count", all);
  require(said == all,
          "{}: the parts hold {} tensors, not the {} that the first one announces. Download all parts again.", file,
          all, said);
  return out;
}

const std::string& Gguf::where() const { return state_->opened; }
std::vector<std::string> Gguf::files() const { return state_->files; }
bool Gguf::has(const std::string& key) const { return state_->values.count(key) > 0; }
const std::vector<GgufTensor>& Gguf::tensors() const { return state_->tensors; }

const GgufTensor* Gguf::find(const std::string& name) const {
  const auto found = state_->by_name.find(name);
  return found == state_->by_name.end() ? nullptr : &state_->tensors[found->second];
}

const GgufValue& Gguf::value(const std::string& key) const {
  const auto found = state_->values.find(key);
  require(found != state_->values.end(), "{}: the key {} is missing. Convert the model again with a recent llama.cpp.",
          where(), printable(key));
  return found->second;
}

void Gguf::wrong_type(const std::string& key, const char* wanted) const {
  const GgufValue& found = value(key);
  fail("{}: {} is {}{}, not {}. Convert the model again with a recent llama.cpp.", where(), printable(key),
       found.is_list ? "a list of " : "", found.type, wanted);
}

int64_t Gguf::integer(const std::string& key) const {
  const GgufValue& found = value(key);
  if (found.is_list || found.integers.size() != 1 || found.type == "bool") wrong_type(key, "a whole number");
  return found.integers[0];
}

double Gguf::number(const std::string& key) const {
  const GgufValue& found = value(key);
  if (!found.is_list && found.numbers.size() == 1) {
    require(std::isfinite(found.numbers[0]), "{}: {} is not a finite number. Convert the model again.", where(),
            printable(key));
    return found.numbers[0];
  }
  return static_cast<double>(integer(key));
}

std::string Gguf::text(const std::string& key) const {
  const GgufValue& found = value(key);
  if (found.is_list || found.texts.size() != 1) wrong_type(key, "a text");
  require(is_utf8(found.texts[0]), "{}: {} is not UTF-8. Convert the model again with a recent llama.cpp.", where(),
          printable(key));
  return std::string(found.texts[0]);
}

bool Gguf::boolean(const std::string& key, bool otherwise) const {
  if (!has(key)) return otherwise;
  const GgufValue& found = value(key);
  if (found.is_list || found.type != "bool") wrong_type(key, "true or false");
  return found.integers[0] == 1;
}

int64_t Gguf::integer(const std::string& key, int64_t otherwise) const { return has(key) ? integer(key) : otherwise; }
double Gguf::number(const std::string& key, double otherwise) const { return has(key) ? number(key) : otherwise; }
std::string Gguf::text(const std::string& key, const std::string& otherwise) const {
  return has(key) ? text(key) : otherwise;
}

const std::vector<int64_t>& Gguf::integers(const std::string& key) const {
  if (value(key).type == "string" || value(key).type.starts_with("float")) wrong_type(key, "a list of whole numbers");
  return value(key).integers;
}

const std::vector<double>& Gguf::numbers(const std::string& key) const {
  if (!value(key).type.starts_with("float")) wrong_type(key, "a list of numbers");
  return value(key).numbers;
}

const std::vector<std::string_view>& Gguf::texts(const std::string& key) const {
  if (value(key).type != "string") wrong_type(key, "a list of texts");
  return value(key).texts;
}

}  // namespace core
