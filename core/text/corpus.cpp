#include "core/text/corpus.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "core/config/nearest.h"
#include "core/error.h"
#include "core/io/data_roots.h"
#include "core/io/files.h"
#include "core/io/json_text.h"
#include "core/text/json_node.h"
#include "core/text/utf8.h"

namespace core {
namespace {

struct Registered {
  std::string file;  // relative to a data root
  Join join = {};
  int64_t windows = 0;  // see Corpus
};

// corpora.json: name -> {"file": path under a data root, "join": kind (default none), "documents": number, "windows":
// number}.
std::map<std::string, Registered> registry() {
  const std::string path = home_data() + "/corpora.json";
  std::map<std::string, Registered> result;
  if (!is_file(path)) return result;
  const nlohmann::json json = parse_json(read_file(path), {path, "the text", "Restore the file."});
  require(json.is_object(), "{}: an object of names is expected. Restore the file.", path);
  for (const auto& [name, entry] : json.items()) {
    const JsonNode node(entry, path, name);
    Registered corpus{.file = node.at("file").text()};
    if (const JsonNode kind = node.at("join"); !kind.is_null()) corpus.join.kind = kind.text();
    if (const JsonNode number = node.at("documents"); !number.is_null()) corpus.join.documents = number.integer();
    if (const JsonNode number = node.at("windows"); !number.is_null()) corpus.windows = number.integer();
    const auto& kinds = join_kinds();
    require(std::find(kinds.begin(), kinds.end(), corpus.join.kind) != kinds.end(),
            "{}.join: `{}` is not known. Choose one of {}.", node.where(), corpus.join.kind, joined(kinds));
    result.emplace(name, std::move(corpus));
  }
  return result;
}

// The first data root that holds the file; "" if none does.
std::string in_roots(const std::string& file) {
  for (const std::string& root : data_roots())
    if (is_file(root + "/" + file)) return root + "/" + file;
  return "";
}

struct FoundCorpus {
  std::string path;
  Registered as;
};

FoundCorpus find(const std::string& name) {
  const std::map<std::string, Registered> known = registry();
  if (const auto entry = known.find(name); entry != known.end()) {
    const std::string path = in_roots(entry->second.file);
    require(!path.empty(), "{}: its file {} is in none of the data folders ({}). {}", name, entry->second.file,
            joined(data_roots()),
            environment("REFRAIN_DATA").empty() ? "Set REFRAIN_DATA to the folder that holds it." : "Put it into one.");
    return {path, entry->second};
  }
  require(!is_directory(name) || name.empty(), "{}: this is a directory. A corpus is a registered name or a text file.",
          name);
  require(is_file(name), "{}: no such corpus or file.{}", name,
          known_names(name, list_corpora(), "corpora", data_roots()));
  return {name, {}};
}

}  // namespace

Corpus find_corpus(const std::string& name_or_path) {
  const FoundCorpus found = find(name_or_path);
  return {.name = name_or_path, .path = found.path, .text = {}, .join = found.as.join, .windows = found.as.windows};
}

Corpus load_corpus(const std::string& name_or_path) {
  Corpus corpus = find_corpus(name_or_path);
  std::string file = read_file(corpus.path);
  require_utf8(file, corpus.path);
  corpus.text = join(std::move(file), corpus.join, corpus.path);
  return corpus;
}

std::vector<std::string> list_corpora() {
  std::vector<std::string> names;
  for (const auto& [name, entry] : registry())
    if (!in_roots(entry.file).empty()) names.push_back(name);
  return names;
}

}  // namespace core
